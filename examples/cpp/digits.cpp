// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Adapts a frozen transformer to new digits, without Python: a base model is trained on the digits 0-4 (or loaded),
// then thin adapters teach it 5-9. Each adapter is saved as the two files that Python loads, loaded again, cloned and
// merged, and the outputs are compared.
#include <CLI/CLI.hpp>

#include <cstdio>
#include <iostream>
#include <stdexcept>

#include "data.h"
#include "model.h"

namespace {

// Trains whatever requires a gradient: the whole base, or the adapter alone.
double train(DigitsNet& net, const Split& data, int epochs, double learning_rate) {
  torch::optim::AdamW optimizer(veneer::trainable_parameters(*net), torch::optim::AdamWOptions(learning_rate));
  constexpr int64_t batch = 64;
  double loss_sum = 0;
  net->train();
  for (int epoch = 0; epoch < epochs; ++epoch) {
    loss_sum = 0;
    for (const torch::Tensor& rows : torch::randperm(data.size()).to(data.labels.device()).split(batch)) {
      optimizer.zero_grad();
      const torch::Tensor loss =
          torch::cross_entropy_loss(net(data.images.index_select(0, rows)), data.labels.index_select(0, rows));
      loss.backward();
      optimizer.step();
      loss_sum += loss.item<double>() * static_cast<double>(rows.size(0));
    }
  }
  return loss_sum / static_cast<double>(data.size());
}

torch::Tensor predict(DigitsNet& net, const Split& data) {
  const torch::NoGradGuard no_grad;
  net->eval();
  return net(data.images);  // [N, 10]
}

double accuracy(DigitsNet& net, const Split& data) {
  return predict(net, data).argmax(1).eq(data.labels).to(torch::kDouble).mean().item<double>();
}

DigitsNet base_net(const std::string& weights, torch::Device device) {
  DigitsNet net;
  net->to(device);
  veneer::load_weights(*net, weights);
  return net;
}

void expect(bool equal, const char* what) {
  if (!equal) throw std::runtime_error(std::string("the outputs differ after ") + what);
}

struct Recipe {
  veneer::AdapterConfig config;
  veneer::Targets targets;
};

Recipe recipe(const std::string& method) {
  // The head is new too (it has never seen the digits 5-9): it is trained whole and saved with the adapter.
  const std::vector<std::string> whole{"head"};
  if (method == "lora")
    return {veneer::LoraOptions(4).lora_dropout(0.1).modules_to_save(whole), {"query", "value", "fc1", "fc2"}};
  if (method == "circulant")
    return {veneer::SurmOptions("circulant").modules_to_save(whole), {"query", "value", "fc1", "fc2"}};
  return {veneer::BottleneckOptions(4).modules_to_save(whole), {"site"}};
}

// What the frozen base can do for the new digits by itself: only the head is trained.
void train_head_alone(const Data& data, const std::string& weights, int epochs, torch::Device device) {
  DigitsNet net = base_net(weights, device);
  for (auto& parameter : net->parameters()) parameter.set_requires_grad(false);
  for (auto& parameter : net->head->parameters()) parameter.set_requires_grad(true);
  train(net, data.at("new_train"), epochs, 1e-2);
  std::printf("head alone: accuracy on new digits %.3f\n", accuracy(net, data.at("new_test")));
}

void adapt_to_new_digits(const std::string& method, const Data& data, const std::string& weights,
                         const std::string& out, int epochs, torch::Device device) {
  DigitsNet net = base_net(weights, device);
  const auto [config, targets] = recipe(method);
  const veneer::Report report = veneer::adapt(*net, config, targets);
  std::cout << "\n== " << method << " ==\n" << report << "\n";

  train(net, data.at("new_train"), epochs, 1e-2);
  std::printf("accuracy on new digits: %.3f\n", accuracy(net, data.at("new_test")));
  const torch::Tensor outputs = predict(net, data.at("new_test"));

  const std::string folder = out + "/" + method;
  veneer::save_adapter(*net, folder);
  DigitsNet loaded = base_net(weights, device);
  veneer::load_adapter(*loaded, folder);
  expect(torch::equal(predict(loaded, data.at("new_test")), outputs), "save and load");

  DigitsNet copy(std::dynamic_pointer_cast<DigitsNetImpl>(net->clone()));
  expect(torch::equal(predict(copy, data.at("new_test")), outputs), "clone");

  if (method == "bottleneck") {  // its nonlinearity has no effective weight
    std::printf("saved in %s; loaded and cloned with equal outputs\n", folder.c_str());
    return;
  }
  veneer::merge(*net);
  expect(torch::allclose(predict(net, data.at("new_test")), outputs, 1e-3, 1e-4), "merge");
  veneer::unmerge(*net);
  expect(torch::equal(predict(net, data.at("new_test")), outputs), "unmerge");
  veneer::merge_and_unload(*copy);
  veneer::save_weights(*copy, folder + "/merged.safetensors");
  std::printf("saved in %s; loaded, cloned, merged and unmerged with equal outputs\n", folder.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Adapts a small transformer to new digits with LoRA, circulant and bottleneck adapters."};
  std::string csv = "build/quickstart/digits.csv", base, out = "build/digits", method = "all", load,
              device_name = "cpu";
  int base_epochs = 30, epochs = 15, seed = 0;
  bool smoke = false;
  app.add_option("--data", csv, "CSV of the digits, as `make quickstart` writes it")->capture_default_str();
  app.add_option("--base", base, "base weights (safetensors); without it they are trained on the digits 0-4");
  app.add_option("--method", method, "which adapters to train")
      ->check(CLI::IsMember({"all", "none", "lora", "circulant", "bottleneck"}))
      ->capture_default_str();
  app.add_option("--load", load,
                 "folder of an adapter, for instance one saved by Python: load it and print its accuracy");
  app.add_option("--out", out, "folder to write to")->capture_default_str();
  app.add_option("--base-epochs", base_epochs, "epochs of the base")->capture_default_str();
  app.add_option("--epochs", epochs, "epochs of each adapter")->capture_default_str();
  app.add_option("--seed", seed, "seed of all random numbers")->capture_default_str();
  app.add_option("--device", device_name, "cpu or cuda")->capture_default_str();
  app.add_flag("--smoke", smoke, "synthetic data and two epochs: does everything work?");
  CLI11_PARSE(app, argc, argv);

  try {
    torch::manual_seed(seed);
    const torch::Device device(device_name);
    if (smoke) base_epochs = epochs = 2;
    const Data data = smoke ? synthetic(device) : read_csv(csv, device);
    if (base.empty()) {
      base = out + "/base.safetensors";
      DigitsNet net;
      net->to(device);
      const double loss = train(net, data.at("base_train"), base_epochs, 3e-3);
      veneer::save_weights(*net, base);
      std::printf("base: loss %.3f, saved in %s\n", loss, base.c_str());
    }
    DigitsNet net = base_net(base, device);
    std::printf("base: accuracy on its digits %.3f, on new digits %.3f\n", accuracy(net, data.at("base_test")),
                accuracy(net, data.at("new_test")));

    if (!load.empty()) {
      std::cout << veneer::load_adapter(*net, load) << "\n" << veneer::explain(*net);
      std::printf("%s: accuracy on new digits %.3f\n", load.c_str(), accuracy(net, data.at("new_test")));
    }
    if (method == "all") train_head_alone(data, base, epochs, device);
    for (const std::string one : {"lora", "circulant", "bottleneck"}) {
      if (method == "all" || method == one) adapt_to_new_digits(one, data, base, out, epochs, device);
    }
  } catch (const c10::Error& error) {
    std::cerr << error.what_without_backtrace() << "\n";
    return 1;
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
