// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/circulant_rows.h"
#include "veneer/matrix.h"

namespace veneer {

// Families of block matrices [m * g, q * g] whose g x g blocks are circulant, cut to d_out x d_in. Prepared are the
// blocks' first columns [m, q, g].
class CirculantBlocks : public Matrix {
 public:
  CirculantBlocks(const MatrixSite& site, int64_t g);

  at::Tensor dense(const Params& params) const final;
  Form form() const final { return Form::other; }
  std::vector<at::Tensor> prepare(const Params& params) const final;
  at::Tensor product(const at::Tensor& x, at::TensorList prepared) const final;
  std::vector<at::Tensor> pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                   bool wants_x) const final;
  bool tiled(const at::Tensor& x) const final { return cpu::takes_circulant(x, sizes()); }
  at::Tensor merged(const at::Tensor& weight, const Params& params, double scale) const final;

 protected:
  std::vector<int64_t> shape() const { return {m_, q_, g_}; }
  // The blocks' first columns, m q g numbers in this order.
  virtual at::Tensor columns(const Params& params) const = 0;

 private:
  // One block, which a kernel of a GPU multiplies; blocks that one of a CPU does.
  bool on_device(const at::Tensor& x) const;
  bool on_cpu(const at::Tensor& x) const;
  cpu::CirculantShape sizes() const { return {m_, q_, g_, d_in(), d_out()}; }

  int64_t m_, q_, g_;
};

}  // namespace veneer
