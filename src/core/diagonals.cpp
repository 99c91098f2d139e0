// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/diagonals.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "device/columns.h"
#include "device/plain.h"
#include "kernels/cpu/diagonal_growth.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

// base + scale * M on a CPU, M [rows, columns] by the first places of its diagonals, from the last row's to the last
// column's, and what it grows by along them: left [rows, k] right [k, columns], or nothing. In base's dtype.
at::Tensor by_diagonals(const at::Tensor& first, int64_t rows, int64_t columns, const at::Tensor& left,
                        const at::Tensor& right, const at::Tensor& base, double scale) {
  const auto type =
      wide_type(base.defined() ? at::promote_types(base.scalar_type(), first.scalar_type()) : first.scalar_type());
  const auto doubles = [](const at::Tensor& t) { return t.defined() ? t.to(at::kDouble).contiguous() : t; };
  const at::Tensor l = doubles(left), r = doubles(right), whole = base.defined() ? base.to(type).contiguous() : base;
  const at::Tensor sums = first.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).contiguous();
  const at::Tensor result = at::empty({rows, columns}, first.options().dtype(type));
  const auto grow = [&]<class T>(T) {
    const kernels::cpu::DiagonalGrowth<T> call{rows,
                                               columns,
                                               l.defined() ? l.size(1) : 0,
                                               l.defined() ? l.const_data_ptr<double>() : nullptr,
                                               r.defined() ? r.const_data_ptr<double>() : nullptr,
                                               whole.defined() ? whole.const_data_ptr<T>() : nullptr,
                                               scale,
                                               result.mutable_data_ptr<T>()};
    constexpr int64_t grain = 64;
    at::parallel_for(0, sums.numel(), grain, [&](int64_t begin, int64_t end) {
      kernels::cpu::diagonal_growth(call, sums.mutable_data_ptr<double>(), begin, end);
    });
  };
  type == at::kDouble ? grow(double()) : grow(float());
  return base.defined() ? as(result, base) : result;
}

}  // namespace

// Row i is a window of the diagonals that starts at d_out - 1 - i.
at::Tensor with_diagonals(const at::Tensor& diagonals, int64_t d_in) { return diagonals.unfold(-1, d_in, 1).flip(-2); }

at::Tensor on_diagonals(const at::Tensor& base, const at::Tensor& diagonals, double scale) {
  const int64_t rows = base.size(0), columns = base.size(1);
  if (device::on_cpu(base)) return by_diagonals(diagonals, rows, columns, {}, {}, base, scale);
  return base.add(as(with_diagonals(diagonals, columns), base), scale);
}

bool grows(const at::Tensor& like) { return device::on_cpu(like) || device::on_gpu(like); }

at::Tensor grown(const Matrix& matrix, const at::Tensor& left, const at::Tensor& right, at::TensorList prepared,
                 const at::Tensor& base, double scale) {
  const at::Tensor in = at::eye(1, matrix.d_in(), left.options()), out = at::eye(1, matrix.d_out(), left.options());
  std::vector<at::Tensor> frozen;  // of which no gradient is taken
  for (const at::Tensor& tensor : prepared) frozen.push_back(tensor.detach());
  const at::Tensor column = matrix.product(in, frozen).squeeze(0);
  const at::Tensor row = matrix.pullback(in, out, frozen, true)[0].squeeze(0);
  const int64_t rows = matrix.d_out(), columns = matrix.d_in();
  const at::Tensor l = left.narrow(0, 0, rows), r = right.narrow(1, 0, columns);
  if (!device::on_cpu(left)) {
    const at::Tensor m = at::matmul(l, r).contiguous();
    m.select(1, 0).copy_(column);
    m.select(0, 0).copy_(row);
    device::diagonal_sums(m);
    return base.defined() ? base.add(as(m, base), scale) : m;
  }
  // The first places of the diagonals, from the last row's to the last column's.
  return by_diagonals(at::cat({column.flip(0), row.narrow(0, 1, columns - 1)}), rows, columns, l, r, base, scale);
}

}  // namespace veneer
