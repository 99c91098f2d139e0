// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/circulant_rows.h"

#include <ATen/ATen.h>

#include <map>
#include <memory>
#include <mutex>

#include "core/tiles.h"
#include "kernels/cpu/circulant.h"

namespace veneer::cpu {
namespace {

using Transform = kernels::cpu::CirculantTransform;

// Made once for a length.
const Transform& transform_of(int64_t length) {
  static std::mutex mutex;
  static std::map<int64_t, std::unique_ptr<const Transform>> all;
  const std::lock_guard lock(mutex);
  auto& one = all[length];
  if (!one) one = std::make_unique<const Transform>(length);
  return *one;
}

// The filters of all blocks in the transform's order, scaled for the way back.
std::vector<std::vector<float>> filters(const at::Tensor& spectra, const Transform& transform) {
  const at::Tensor plain = spectra.resolve_conj().to(at::kComplexFloat).contiguous();
  const int64_t bins = plain.size(-1), g = transform.length();
  std::vector<std::vector<float>> result;
  for (int64_t i = 0; i < plain.numel() / bins; ++i) {
    result.push_back(transform.ordered(in<float>(plain) + 2 * i * bins, 1.0F / static_cast<float>(g)));
  }
  return result;
}

int64_t width_of(int64_t block, int64_t g, int64_t d) { return std::clamp<int64_t>(d - block * g, 0, g); }

// The tiles of `count` blocks of n rows from `begin` on, one after another in z.
template <class T>
void read(const Transform& transform, const at::Tensor& x, int64_t begin, int64_t n, int64_t count, float* z) {
  const int64_t g = transform.length(), d = x.size(1);
  const float* const rows = widened(in<T>(x) + begin * d, n * d, 0);
  for (int64_t i = 0; i < count; ++i) {
    transform.forward(rows + i * g, n, width_of(i, g, d), d, z + i * transform.numbers());
  }
}

// Block by block of the output, y = the sum over the input's blocks of filter(block, input) z(input), transformed back.
template <class T, class Filter>
void write(const Transform& transform, const float* z, int64_t inputs, int64_t outputs, const Filter& filter,
           bool conjugate, const at::Tensor& y, int64_t begin, int64_t n) {
  const int64_t g = transform.length(), d = y.size(1);
  T* const to = out<T>(y) + begin * d;
  float* const rows = tile_for(to, n * d, 0);
  float* const sum = room<float>(transform.numbers(), 2);
  for (int64_t i = 0; i < outputs; ++i) {
    for (int64_t j = 0; j < inputs; ++j) {
      transform.multiply(z + j * transform.numbers(), filter(i, j), conjugate, /*accumulate=*/j > 0, sum);
    }
    transform.inverse(sum, rows + i * g, n, width_of(i, g, d), d);
  }
  put(rows, to, n * d);
}

}  // namespace

bool takes_circulant(const at::Tensor& x, const CirculantShape& shape) {
  // In numbers: tiles of all blocks of a row, and the sums of all pairs of blocks.
  constexpr int64_t most_in_tiles = int64_t{1} << 14, most_in_sums = int64_t{1} << 13;
  const auto [m, q, g, d_in, d_out] = shape;
  return takes_rows(x) && Transform::takes(g) && (m + q) * g <= most_in_tiles && m * q * g <= most_in_sums;
}

at::Tensor circulant_product(const at::Tensor& x, const at::Tensor& spectra, const CirculantShape& shape) {
  const Transform& transform = transform_of(shape.g);
  const auto all = filters(spectra, transform);
  const auto filter = [&](int64_t i, int64_t j) { return all[static_cast<size_t>(i * shape.q + j)].data(); };
  at::Tensor y = at::empty({x.size(0), shape.d_out}, x.options());
  for_type(x, [&]<class T>(T) {
    by_tiles(x, Transform::rows, [&](int64_t begin, int64_t n, int64_t) {
      float* const z = room<float>(shape.q * transform.numbers(), 1);
      read<T>(transform, x, begin, n, shape.q, z);
      write<T>(transform, z, shape.q, shape.m, filter, /*conjugate=*/false, y, begin, n);
    });
  });
  return y;
}

std::pair<at::Tensor, at::Tensor> circulant_gradients(const at::Tensor& x, const at::Tensor& dy,
                                                      const at::Tensor& spectra, const CirculantShape& shape,
                                                      bool wants_x) {
  const auto [m, q, g, d_in, d_out] = shape;
  const Transform& transform = transform_of(g);
  const int64_t numbers = transform.numbers(), blocks = m * q, count = q;
  const auto all = wants_x ? filters(spectra, transform) : std::vector<std::vector<float>>();
  const auto filter = [&](int64_t i, int64_t j) { return all[static_cast<size_t>(j * count + i)].data(); };
  const at::Tensor dx = wants_x ? at::empty_like(x) : at::Tensor(), slopes = dy.contiguous();
  const at::Tensor sums = at::zeros({row_strips, blocks, numbers}, x.options().dtype(at::kFloat));
  for_type(x, [&]<class T>(T) {
    by_tiles(x, Transform::rows, [&](int64_t begin, int64_t n, int64_t strip) {
      float* const zx = room<float>((shape.q + shape.m) * numbers, 1);
      float* const zy = zx + shape.q * numbers;
      read<T>(transform, x, begin, n, shape.q, zx);
      read<T>(transform, slopes, begin, n, shape.m, zy);
      float* to = out<float>(sums) + strip * shape.m * shape.q * numbers;
      for (int64_t i = 0; i < shape.m; ++i) {
        for (int64_t j = 0; j < shape.q; ++j, to += numbers) {
          transform.correlate(zx + j * numbers, zy + i * numbers, to);
        }
      }
      if (wants_x) write<T>(transform, zy, shape.m, shape.q, filter, /*conjugate=*/true, dx, begin, n);
    });
  });
  const at::Tensor total = sums.sum(0), result = at::empty({m, q, g / 2 + 1}, x.options().dtype(at::kComplexFloat));
  for (int64_t i = 0; i < blocks; ++i) {
    std::vector<float> ordered(static_cast<size_t>(2 * g));
    transform.add_lanes(in<float>(total) + i * numbers, ordered.data());
    transform.real_half(ordered.data(), out<float>(result) + 2 * i * (g / 2 + 1));
  }
  return {dx, result};
}

}  // namespace veneer::cpu
