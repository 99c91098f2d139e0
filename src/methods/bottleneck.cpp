// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Bottleneck adapter at a hidden state: y + s * (up(act(down(dropout(z)) + b_down)) + b_up), with any structured
// matrices as down [m, d] and up [d, m]. Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00052) and parallel (arXiv
// 2110.04366) adapters differ in which z and y the host hands in.
#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/activation.h"
#include "core/narrow_layer.h"
#include "core/recorded.h"
#include "core/rescaling.h"
#include "core/update.h"
#include "methods/adapter_fields.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

int64_t inner_size(const Options& options, int64_t d) {
  const int64_t size = options.integer("size");
  if (size > 0) return size;
  return std::max<int64_t>(1, static_cast<int64_t>(static_cast<double>(d) / options.number("reduction_factor")));
}

MatrixSite down_site(const Options& options, const Site& site) {
  return {site.d_in, inner_size(options, site.d_in), Start::random, site.layer, site.role + ".down"};
}

MatrixSite up_site(const Options& options, const Site& site) {
  return {inner_size(options, site.d_in), site.d_out, Start::zero, site.layer, site.role + ".up"};
}

class Bottleneck final : public Method {
 public:
  Bottleneck(const Options& options, const Site& site)
      : site_(site),
        size_(inner_size(options, site.d_in)),
        down_(bind_matrix(options.matrix("down"), down_site(options, site))),
        up_(bind_matrix(options.matrix("up"), up_site(options, site))),
        activation_(options.text("activation")),
        scale_(options.number("scale")),
        dropout_(dropout_probability(options.number("dropout"))),
        bias_(options.flag("bias")),
        bert_(options.text("init") == "bert") {}

  ParameterSpecs parameters() const override {
    ParameterSpecs specs = half(*down_, "down", size_);
    const ParameterSpecs up = half(*up_, "up", site_.d_out);
    specs.insert(specs.end(), up.begin(), up.end());
    return specs;
  }

  at::Tensor forward(const Input& in, const Params& params) const override {
    const at::Tensor x = rows(in.x);
    const at::Tensor dropped = seeded_dropout(x, in.seed, dropout_);
    at::Tensor h = down_->apply(dropped, params.scoped("down_"));
    if (down_->scale() != 1.0) h = h * down_->scale();
    if (bias_) h = h + as(params["down_bias"], h);
    const at::Tensor y = rows(in.y);
    at::Tensor out = up_->accumulate(y, false, activate(activation_, h), params.scoped("up_"), scale_ * up_->scale());
    if (bias_) out = out.add_(as(params["up_bias"], out), scale_);  // `out` is fresh and saved by nothing
    return unrows(out, in.x);
  }

  bool fused(const Input& /*in*/) const override { return true; }

  // Kept is the inner state before its nonlinearity, and what the matrices keep.
  std::vector<at::Tensor> fused_forward(const Input& in, const Params& params) const override {
    const Params down = params.scoped("down_"), up = params.scoped("up_");
    const Dropped x = input_of(in);
    const at::Tensor residual = rows(in.y).contiguous();
    if (both_dense(x.x, down, up)) {
      const auto [y, z] = layer(in, params, down_->build(down), up_->build(up)).forward(x, residual);
      return {unrows(y, in.x), z};
    }
    std::vector<at::Tensor> kept = update_down(down).forward(x, {{}, {}, bias_of(params, "down_bias", in.x, 1.0)});
    auto out = update_up(up).forward({activate(activation_, kept[0])},
                                     {{}, residual, bias_of(params, "up_bias", in.x, scale_)});
    out[0] = unrows(out[0], in.x);
    out.insert(out.begin() + 1, kept.begin(), kept.end());
    return out;
  }

  std::vector<at::Tensor> fused_backward(const at::Tensor& dy, const Input& in, const Params& params,
                                         const std::vector<at::Tensor>& kept, bool wants_x) const override {
    const Params down = params.scoped("down_"), up = params.scoped("up_");
    const Dropped x = input_of(in);
    const at::Tensor g = rows(dy).contiguous(), residual = in.y.defined() ? rows(in.y).contiguous() : in.y;
    const bool dense = both_dense(x.x, down, up);
    auto gradients = dense ? of_layer(g, x, in, params, kept[0], residual, wants_x)
                           : of_updates(g, x, params, kept, residual, wants_x);
    fill_with_zeros(gradients, params);
    if (wants_x) gradients.back() = unrows(gradients.back(), in.x);
    return gradients;
  }

  std::string merge_refusal() const override { return "its nonlinearity has no effective weight"; }
  bool placed() const override { return down_->placed() || up_->placed(); }
  double dropout() const override { return dropout_; }

 private:
  Update update_down(const Params& down) const { return {*down_, down, down_->scale()}; }
  Update update_up(const Params& up) const { return {*up_, up, scale_ * up_->scale()}; }

  // Whether both projections of these rows are products with dense matrices, and narrow ones.
  bool both_dense(const at::Tensor& x, const Params& down, const Params& up) const {
    if (x.is_meta() || x.size(0) == 0 || size_ > std::min(site_.d_in, site_.d_out)) return false;
    return update_down(down).multiplies_dense(x) &&
           update_up(up).multiplies_dense(at::empty({x.size(0), size_}, x.options()));
  }

  NarrowLayer layer(const Input& in, const Params& params, const at::Tensor& down, const at::Tensor& up) const {
    return {activation_,
            as(down, in.x),
            bias_of(params, "down_bias", in.x, 1.0),
            as(up, in.x).contiguous(),
            bias_of(params, "up_bias", in.x, scale_),
            down_->scale(),
            scale_ * up_->scale(),
            /*rounded=*/down.scalar_type() == in.x.scalar_type() && up.scalar_type() == in.x.scalar_type()};
  }

  // The gradients of the parameters, and that of x [N, d] where it is wanted; g is dy [N, d].
  std::vector<at::Tensor> of_layer(const at::Tensor& g, const Dropped& x, const Input& in, const Params& params,
                                   const at::Tensor& z, const at::Tensor& residual, bool wants_x) const {
    const Recorded down(*down_, params.scoped("down_"), /*dense=*/true), up(*up_, params.scoped("up_"), true);
    const auto found =
        layer(in, params, down.prepared()[0].detach(), up.prepared()[0].detach()).backward(g, x, z, residual, wants_x);
    auto gradients = sum_of(down.gradients({found.down}), up.gradients({found.up}));
    if (bias_) {
      set_bias(gradients, params, "down_bias", found.down_bias, 1.0);
      set_bias(gradients, params, "up_bias", found.up_bias, scale_);
    }
    if (wants_x) gradients.push_back(found.x);
    return gradients;
  }

  std::vector<at::Tensor> of_updates(const at::Tensor& g, const Dropped& x, const Params& params,
                                     const std::vector<at::Tensor>& kept, const at::Tensor& residual,
                                     bool wants_x) const {
    const Params down = params.scoped("down_"), up = params.scoped("up_");
    const auto of_up = kept.begin() + (down_->form() == Matrix::Form::factors ? 2 : 1);
    auto gradients =
        update_up(up).backward(g, {activate(activation_, kept[0])}, {}, {of_up, kept.end()}, /*wants_x=*/true);
    const at::Tensor dz = activate_pullback(activation_, kept[0], gradients.back()).contiguous();
    gradients.pop_back();
    auto more = update_down(down).backward(dz, x, {{}, residual, {}}, {kept.begin() + 1, of_up}, wants_x);
    const at::Tensor dx = wants_x ? more.back() : at::Tensor();
    gradients = sum_of(gradients, more);
    if (bias_) {
      set_bias(gradients, params, "down_bias", sum_of_rows(dz), 1.0);
      set_bias(gradients, params, "up_bias", sum_of_rows(g), scale_);
    }
    if (wants_x) gradients.push_back(dx);
    return gradients;
  }

  // One for each parameter: `a`, and `b` for as many.
  static std::vector<at::Tensor> sum_of(std::vector<at::Tensor> a, const std::vector<at::Tensor>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      if (b[i].defined()) a[i] = a[i].defined() ? a[i] + b[i] : b[i];
    }
    return a;
  }

  static void set_bias(std::vector<at::Tensor>& gradients, const Params& params, const char* name,
                       const at::Tensor& gradient, double scale) {
    const size_t place = params.place(name);
    if (params.specs()[place].trainable)
      gradients[place] = as(scale == 1.0 ? gradient : gradient * scale, params.tensors()[place]);
  }

  Dropped input_of(const Input& in) const { return {rows(in.x).contiguous(), in.seed, dropout_}; }

  // scale * bias in x's dtype; undefined where there is none.
  at::Tensor bias_of(const Params& params, const char* name, const at::Tensor& x, double scale) const {
    if (!bias_) return {};
    return as(scale == 1.0 ? params[name] : params[name] * scale, x);
  }

  ParameterSpecs half(const Matrix& matrix, const std::string& name, int64_t size) const {
    ParameterSpecs specs = matrix.parameters();
    for (auto& spec : specs) {
      if (bert_) spec.initial = Initial::normal(0.0, 0.02);
    }
    if (bias_) specs.push_back({"bias", {size}, Initial::zeros(), "bias.{adapter}"});
    return with_prefix(std::move(specs), name + "_", "adapter_" + name + ".");
  }

  Site site_;
  int64_t size_;
  std::shared_ptr<const Matrix> down_;
  std::shared_ptr<const Matrix> up_;
  std::string activation_;
  double scale_;
  double dropout_;
  bool bias_;
  bool bert_;
};

ParameterSpecs shared(const Options& options, const std::vector<Site>& sites) {
  ParameterSpecs all;
  for (const std::string name : {"down", "up"}) {
    const auto specs = shared_of(options.matrix(name), sites, [&](const Site& site) {
      return name == "down" ? down_site(options, site) : up_site(options, site);
    });
    add_shared(all, with_prefix(specs, name + "_", "adapter_" + name + "."));
  }
  return all;
}

const RegisterMethod registrar{
    {"bottleneck",
     "y + s * (up(act(down(dropout(z)) + b_down)) + b_up)",
     "down's + up's + m + d (dense: 2 d m + m + d)",
     "Houlsby, arXiv 1902.00751; Pfeiffer, arXiv 2005.00052; parallel, arXiv 2110.04366",
     {SiteKind::hidden},
     {Option::integer("size", 0, "m, the inner size; 0 means d / reduction_factor", 0),
      Option::number("reduction_factor", 16.0, "d / m, rounded down, m at least 1", 1e-3),
      Option::choice("activation", "gelu", "the nonlinearity between down and up", activations()),
      Option::matrix("down", "dense", "the structured matrix [m, d]"),
      Option::matrix("up", "dense", "the structured matrix [d, m]"),
      Option::number("scale", 1.0, "s, the factor on the adapter's output"),
      Option::number("dropout", 0.0, "probability of dropping an element of z", 0.0, 0.9999),
      Option::flag("bias", true, "train b_down and b_up"),
      Option::choice("init", "zero_up", "start up at zero (the base model exactly), or every matrix at N(0, 0.02^2)",
                     {"zero_up", "bert"})},
     make_method<Bottleneck>,
     shared}};

const RegisterConfig config{
    {"BOTTLENECK", "BottleneckConfig",
     "Adapter with a narrow inner layer at hidden states: Houlsby (arXiv 1902.00751), Pfeiffer (arXiv 2005.00052), "
     "parallel (arXiv 2110.04366)",
     OptionTable{
         Option::matrix("matrix", "dense", "the structured matrix of down and up"),
         Option::any("down_matrix", "null", "the structured matrix of down alone", "str | dict[str, Any] | None"),
         Option::any("up_matrix", "null", "the structured matrix of up alone", "str | dict[str, Any] | None"),
         Option::choice("init_weights", "zero_up", "up zero (the base model exactly), or every matrix N(0, 0.02^2)",
                        {"zero_up", "bert"})} +
         bottleneck_fields("houlsby", "gelu", 0, 16.0),
     "{}", [](const Options& fields, const Site&) {
       const auto matrix = [&](const char* own) {
         return fields.value(own).is_null() ? fields.value("matrix") : fields.value(own);
       };
       return bottleneck_call(matrix("down_matrix"), matrix("up_matrix"), fields, fields.text("init_weights"));
     }}};

}  // namespace

}  // namespace veneer
