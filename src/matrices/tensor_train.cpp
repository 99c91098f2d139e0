// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Tensor trains as in LoRETTA (arXiv 2402.11417): cores G_k [r_(k-1), k_k, r_k], r_0 = r_p = 1, whose product, with the
// modes k_k as indices in row-major order, is M^T [d_in, d_out]. The modes of d_in come first, then those of d_out, so
// that x M^T goes through the rank at the boundary, as LoRA does. In the `block` layout, tensorly-torch's, cores
// [r_(k-1), o_k, i_k, r_k] have a mode of each side, and their product is M.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/divisors.h"
#include "veneer/check.h"
#include "veneer/registry.h"

namespace veneer {
namespace {

using Modes = std::vector<int64_t>;  // sizes of a tensor's indices

int64_t total(const Modes& modes, size_t count) {
  return std::accumulate(modes.begin(), modes.begin() + static_cast<int64_t>(count), int64_t{1}, std::multiplies<>());
}

class TensorTrain final : public Matrix {
 public:
  TensorTrain(const Options& options, const MatrixSite& site)
      : Matrix(site), rank_(options.integer("rank")), block_(options.text("layout") == "block") {
    if (block_) {
      rows_ = octal_factors(site.d_out);
      modes_ = octal_factors(site.d_in);
      rows_.insert(rows_.begin(), std::max(rows_.size(), modes_.size()) - rows_.size(), 1);
      modes_.insert(modes_.begin(), rows_.size() - modes_.size(), 1);
      VENEER_CHECK(options.value("shape").empty(), "tensor_train", "shape is of the `matrix` layout");
      return;
    }
    modes_ = octal_factors(site.d_in);
    Modes out = octal_factors(site.d_out);
    modes_.insert(modes_.end(), out.rbegin(), out.rend());
    if (const Modes given = options.sizes("tensor_train", "shape"); !given.empty()) {
      VENEER_CHECK(total(given, given.size()) == site.d_in * site.d_out, "tensor_train",
                   "shape must be a list of numbers that multiply to ", site.d_in, " x ", site.d_out, " = ",
                   site.d_in * site.d_out, ", got ", options.value("shape").dump());
      modes_ = given;
    }
    while (boundary_ < modes_.size() && total(modes_, boundary_) < site.d_in) ++boundary_;
  }

  ParameterSpecs parameters() const override {
    ParameterSpecs specs;
    const size_t count = modes_.size();
    // Each core N(0, 1 / r_k) times the p-th root of what an entry of M shall have.
    const double std =
        std::pow(1.0 / std::sqrt(static_cast<double>(d_in() + d_out())), 1.0 / static_cast<double>(count));
    for (size_t k = 0; k < count; ++k) {
      const int64_t left = k == 0 ? 1 : rank_, right = k + 1 == count ? 1 : rank_;
      std::vector<int64_t> shape{left, modes_[k], right};
      if (block_) shape.insert(shape.begin() + 1, rows_[k]);
      const bool zero = zero_start() && k + 1 == count;
      const std::string name = "tensor_train_" + std::to_string(k + 1);
      specs.push_back({name, shape,
                       zero ? Initial::zeros() : Initial::normal(0.0, std / std::sqrt(static_cast<double>(right))),
                       name + ".{adapter}"});
    }
    return specs;
  }

  at::Tensor dense(const Params& params) const override {
    if (!block_) return contracted(params, 0, modes_.size()).reshape({d_in(), d_out()}).t();
    at::Tensor m;  // [rows, columns, r]
    for (size_t k = 0; k < modes_.size(); ++k) {
      const at::Tensor& core = params["tensor_train_" + std::to_string(k + 1)];
      m = m.defined() ? at::einsum("abr,roiq->aobiq", {m, core}).flatten(2, 3).flatten(0, 1) : core.squeeze(0);
    }
    return m.squeeze(2);
  }

  // Without a core boundary between input and output there is no rank to go through.
  Form form() const override { return block_ || total(modes_, boundary_) != d_in() ? Form::dense : Form::factors; }
  std::vector<at::Tensor> prepare(const Params& params) const override {
    if (form() == Form::dense) return {dense(params)};
    const at::Tensor left = contracted(params, 0, boundary_), right = contracted(params, boundary_, modes_.size());
    const int64_t rank = boundary_ == 0 || boundary_ == modes_.size() ? 1 : rank_;
    return {left.reshape({d_in(), rank}).t(), right.reshape({rank, d_out()}).t()};
  }

 private:
  // The product of cores [begin, end), [r_begin, modes, r_end] as a tensor of any shape.
  at::Tensor contracted(const Params& params, size_t begin, size_t end) const {
    if (begin == end) return at::ones({1, 1}, params["tensor_train_1"].options());
    at::Tensor m;
    for (size_t k = begin; k < end; ++k) {
      const at::Tensor& core = params["tensor_train_" + std::to_string(k + 1)];
      m = m.defined() ? at::mm(m, core.flatten(1, 2)).view({-1, core.size(2)}) : core.flatten(0, 1);
    }
    return m;
  }

  int64_t rank_;
  bool block_;
  Modes modes_, rows_;  // of d_in and d_out in one row; block: of d_in, and of d_out
  size_t boundary_ = 0;
};

const RegisterMatrix registrar{
    {"tensor_train",
     "M^T = G_1 ... G_p, cores [r, k, r] over the modes of d_in and d_out",
     "sum of r_(k-1) k_k r_k",
     "LoRETTA, arXiv 2402.11417",
     {Option::integer("rank", 5, "r, the rank between cores", 1),
      Option::any("shape", "[]", "the modes; none: those of d_in, then those of d_out, near 8 each", "list[int]"),
      Option::choice("layout", "matrix", "modes of input and output in a row, or a pair of them in each core",
                     {"matrix", "block"})},
     make_matrix<TensorTrain>}};

}  // namespace
}  // namespace veneer
