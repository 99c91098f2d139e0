// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/circulant_rows.h"

#include <ATen/ATen.h>

#include "core/row_convolution.h"

namespace veneer::cpu {

bool takes_circulant(const at::Tensor& x, const CirculantShape& shape) {
  // In numbers: tiles of all blocks of a row, and the sums of all pairs of blocks.
  constexpr int64_t most_in_tiles = int64_t{1} << 14, most_in_sums = int64_t{1} << 13;
  return takes_rows(x) && RowConvolution::takes(shape.g) && (shape.m + shape.q) * shape.g <= most_in_tiles &&
         shape.m * shape.q * shape.g <= most_in_sums;
}

namespace {

// Block by block of the output: the sum over the input's blocks of filter(output, input) times its tile in z.
template <class T, class Filter>
void write_products(const kernels::cpu::RowTransform& transform, const float* z, int64_t inputs, int64_t outputs,
                    const Filter& filter, bool conjugate, const at::Tensor& y, int64_t begin, int64_t n) {
  float* const sum = room<float>(transform.numbers(), 2);
  const auto product = [&](int64_t i) {
    for (int64_t j = 0; j < inputs; ++j) {
      transform.multiply(z + j * transform.numbers(), filter(i, j), conjugate, /*accumulate=*/j > 0, sum);
    }
    return sum;
  };
  write_blocks<T>(transform, product, outputs, y, begin, n);
}

}  // namespace

at::Tensor circulant_product(const at::Tensor& x, const at::Tensor& columns, const CirculantShape& shape) {
  const auto& convolution = RowConvolution::of(shape.g, shape.negacyclic);
  const auto& transform = convolution.transform();
  const at::Tensor filters = convolution.filters(columns);
  const auto filter = [&](int64_t i, int64_t j) { return in<float>(filters) + (i * shape.q + j) * 2 * shape.g; };
  at::Tensor y = at::empty({x.size(0), shape.d_out}, x.options());
  for_type(x, [&]<class T>(T) {
    by_tiles(x, kernels::cpu::RowTransform::rows, [&](const Tile& tile) {
      float* const z = room<float>(shape.q * transform.numbers(), 1);
      read_blocks<T>(transform, x, tile.begin, tile.rows, shape.q, z);
      write_products<T>(transform, z, shape.q, shape.m, filter, /*conjugate=*/false, y, tile.begin, tile.rows);
    });
  });
  return y;
}

std::pair<at::Tensor, at::Tensor> circulant_gradients(const at::Tensor& x, const at::Tensor& dy,
                                                      const at::Tensor& columns, const CirculantShape& shape,
                                                      bool wants_x) {
  const auto& convolution = RowConvolution::of(shape.g, shape.negacyclic);
  const auto& transform = convolution.transform();
  const int64_t numbers = transform.numbers();
  const at::Tensor filters = wants_x ? convolution.filters(columns) : at::Tensor();
  const auto filter = [&](int64_t i, int64_t j) { return in<float>(filters) + (j * shape.q + i) * 2 * shape.g; };
  const at::Tensor dx = wants_x ? at::empty_like(x) : at::Tensor(), slopes = dy.contiguous();
  const at::Tensor sums = at::zeros({strips_of(x), shape.m, shape.q, shape.g, 2}, x.options().dtype(at::kFloat));
  for_type(x, [&]<class T>(T) {
    by_summed_tiles(transform, x, shape.m * shape.q, sums, [&](int64_t begin, int64_t n, float* to) {
      float* const zx = room<float>((shape.q + shape.m) * numbers, 1);
      float* const zy = zx + shape.q * numbers;
      read_blocks<T>(transform, x, begin, n, shape.q, zx);
      read_blocks<T>(transform, slopes, begin, n, shape.m, zy);
      for (int64_t i = 0; i < shape.m; ++i) {
        for (int64_t j = 0; j < shape.q; ++j, to += numbers) {
          transform.correlate(zx + j * numbers, zy + i * numbers, to);
        }
      }
      if (wants_x) write_products<T>(transform, zy, shape.m, shape.q, filter, /*conjugate=*/true, dx, begin, n);
    });
  });
  return {dx, convolution.correlations(sums)};
}

}  // namespace veneer::cpu
