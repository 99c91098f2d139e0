// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/row_norms.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/limits.h"
#include "core/tile_rows.h"
#include "core/tiles.h"
#include "device/plain.h"
#include "kernels/cpu/dot.h"
#include "kernels/cpu/thin_product.h"

namespace veneer::cpu {

bool takes_row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b) {
  const auto takes = [](const at::Tensor& t) { return device::on_cpu(t) && wide_type(t.scalar_type()) == at::kFloat; };
  return takes_rows(weight) && takes(a) && takes(b) && a.size(0) > 0 && a.size(0) <= limits().tiled_rank;
}

at::Tensor row_norms(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale) {
  const int64_t d = weight.size(1), r = a.size(0), width = padded(r);
  const auto s = static_cast<float>(scale);
  // ||w + s b a||^2 = ||w||^2 + s b (2 w a^T + s b a a^T)^T, of a row w and a row b.
  const at::Tensor wide_a = wide(a), left = as_float(b);
  const at::Tensor twice = turned_and_padded(wide_a, 2.0);
  const at::Tensor squares = turned_and_padded(at::mm(wide_a, wide_a.t()), scale);
  at::Tensor norms = at::empty({weight.size(0)}, left.options());
  for_type(weight, [&]<class T>(T) {
    by_tiles(weight, tile_height(16 << 10, d), [&](const Tile& tile) {
      const int64_t n = tile.rows;
      const float* const rows = widened(in<T>(weight) + tile.begin * d, n * d, 0);
      const float* const own = in<float>(left) + tile.begin * r;
      float* const inner = room<float>(n * width, 1);
      kernels::cpu::thin_product({rows, d, 1, in<float>(twice), width, inner, width, n, d, width, false});
      kernels::cpu::thin_product({own, r, 1, in<float>(squares), width, inner, width, n, r, width, true});
      float* const to = out<float>(norms) + tile.begin;
      for (int64_t i = 0; i < n; ++i) {
        const float* const row = rows + i * d;
        const float square = kernels::cpu::dot(row, row, d) + s * kernels::cpu::dot(own + i * r, inner + i * width, r);
        to[i] = std::sqrt(std::max(square, 0.0F));
      }
    });
  });
  return norms;
}

}  // namespace veneer::cpu
