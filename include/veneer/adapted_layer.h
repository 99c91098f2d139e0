// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The adapted layer: a module that holds its named adapters. `Linear` and `HiddenSite` are the two kinds; models are
// adapted through the functions of adapt.h and checkpoint.h, which call what is here.
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "veneer/config.h"
#include "veneer/registry.h"
#include "veneer/site.h"

namespace veneer {

// What the layers of one adapter have in common. Immutable: a model's copies share it.
struct Adapter {
  std::string name;
  AdapterConfig config;
  // Parameters and buffers of the model that are trained in place and saved with the adapter, by their names: those of
  // modules_to_save, and biases where the configuration trains them.
  std::vector<std::string> kept;
  bool trainable = true;  // false: loaded for inference
};

// The tensors an adapter makes once for all its layers (VeRA's A and B). The adapter's first layer registers them: the
// model's root cannot, as LibTorch's clone() refuses a root with members that its reset() does not make.
class SharedTensors {
 public:
  explicit SharedTensors(std::vector<torch::Tensor> tensors) : tensors_(std::move(tensors)) {}

  const std::vector<torch::Tensor>& tensors() const { return tensors_; }
  // The copy that all layers cloned in one clone() of a model share. clone() goes from layer to layer and tells nobody
  // where it starts; but it visits each layer once, the adapter's first one before the others: that one, or a layer
  // that comes again, starts the next copy.
  std::shared_ptr<SharedTensors> copy_for(const void* layer, bool first, const std::optional<torch::Device>& device);

 private:
  struct Copy {
    std::weak_ptr<SharedTensors> tensors;
    std::set<const void*> joined;
  };
  std::vector<torch::Tensor> tensors_;
  std::mutex mutex_;
  std::map<std::thread::id, Copy> copies_;
};

// One adapter's part in one layer.
struct LayerAdapter {
  std::shared_ptr<const Adapter> adapter;
  std::shared_ptr<const BoundMethod> bound;
  std::vector<torch::Tensor> tensors;     // in the order of bound->specs: own, then shared
  std::shared_ptr<SharedTensors> shared;  // null where the method shares nothing
  bool registers_shared = false;          // true in one layer of the adapter
  bool active = false;

  const std::string& name() const { return adapter->name; }
  Params params() const { return {bound->specs, tensors}; }
};

class AdaptedLayer : public torch::nn::Module {
 public:
  // Kind and sizes. The path is known to whoever walks the model.
  virtual Site site() const = 0;
  // The base's own tensors, without any merged adapter; undefined at hidden sites.
  virtual torch::Tensor base_weight() const { return {}; }
  virtual torch::Tensor base_bias() const { return {}; }
  virtual bool merged() const { return false; }

  const std::vector<LayerAdapter>& adapters() const { return adapters_; }
  const LayerAdapter* adapter(const std::string& name) const;  // null where there is none
  // The adapters that act, in the order they were added. Empty while disabled.
  std::vector<const LayerAdapter*> acting() const;
  bool enabled() const { return enabled_; }

  // Adds a part and registers its tensors as parameters "<spec>__<adapter>", frozen ones without gradient.
  void add_adapter(LayerAdapter part);
  void delete_adapter(const std::string& name);
  // Makes exactly the named adapters active; names of other layers' adapters are ignored. Only active ones train.
  void set_active(const std::set<std::string>& names);
  void enable(bool on) { enabled_ = on; }
  // Whether a parameter registered here belongs to an adapter.
  bool owns_parameter(const std::string& name) const { return registered_.count(name) > 0; }

  // How forward computes now, and why.
  virtual std::string route() const = 0;

  // LibTorch's clone() forgets requires_grad in its own modules. A copied layer remembers that its model must be frozen
  // anew; the functions of adapt.h do so.
  bool needs_freeze() const { return needs_freeze_; }
  void frozen() { needs_freeze_ = false; }

 protected:
  // One adapter through veneer::forward, with a fresh seed while training with dropout.
  torch::Tensor run(const LayerAdapter& part, const torch::Tensor& x, const torch::Tensor& y,
                    const torch::Tensor& weight, const torch::Tensor& bias) const;
  // The second half of clone(): gives this copy its own tensors for the parts it was copied with.
  void copy_adapters(const AdaptedLayer& from, const std::optional<torch::Device>& device);
  std::string adapters_text() const;  // ", adapters=[a: additive, b: ia3 (inactive)]", or nothing

 private:
  void register_part(LayerAdapter& part);

  std::vector<LayerAdapter> adapters_;
  std::set<std::string> registered_;
  bool enabled_ = true;
  bool needs_freeze_ = false;
};

// Refuses parts that cannot act together on one layer: additive ones sum, diagonal scalings multiply, anything else
// acts alone. `path` is for the message.
void check_composition(const std::vector<const LayerAdapter*>& parts, const std::string& path);

// A copy of a tensor, on `device` if given.
torch::Tensor duplicate(const torch::Tensor& tensor, const std::optional<torch::Device>& device = std::nullopt);

}  // namespace veneer
