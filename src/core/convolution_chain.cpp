// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/convolution_chain.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/resized.h"
#include "core/row_convolution.h"
#include "veneer/numeric.h"

namespace veneer {
namespace {

using kernels::cpu::RowTransform;

// The chain on tiles of rows. A tile is never turned back into rows between the two convolutions.
struct Tiles {
  const cpu::RowConvolution &first, &second;
  at::Tensor filters[2];  // [R, length, 2]
  int64_t n;

  Tiles(const Convolution& c1, const Convolution& c2, const at::Tensor& s1, const at::Tensor& s2, int64_t n)
      : first(c1.of_rows()), second(c2.of_rows()), filters{first.filters(s1), second.filters(s2)}, n(n) {}

  int64_t ranks() const { return filters[0].size(0); }
  int64_t numbers() const { return first.transform().numbers(); }
  const float* filter(int which, int64_t r) const {
    return cpu::in<float>(filters[which]) + r * filters[which].stride(0);
  }

  template <class T>
  void product(const at::Tensor& x, const at::Tensor& y) const {
    const RowTransform &one = first.transform(), &two = second.transform();
    cpu::by_tiles(x, RowTransform::rows, [&](const cpu::Tile& tile) {
      float* const z = cpu::room<float>(3 * numbers(), 1);
      float *const inner = z + numbers(), *const sum = inner + numbers();
      cpu::read_blocks<T>(one, x, tile.begin, tile.rows, 1, z);
      for (int64_t r = 0; r < ranks(); ++r) {
        one.pass_on(two, z, filter(0, r), /*conjugate=*/false, n, inner);
        two.multiply(inner, filter(1, r), /*conjugate=*/false, /*accumulate=*/r > 0, sum);
      }
      cpu::write_blocks<T>(
          two, [&](int64_t) { return sum; }, 1, y, tile.begin, tile.rows);
    });
  }

  // Sums [strips, R, 2, length, 2] of conj(x) dy, for the first convolution and for the second; or, for none, [strips,
  // R, 0, length, 2].
  template <class T>
  void gradients(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& dx, const at::Tensor& sums) const {
    const RowTransform &one = first.transform(), &two = second.transform();
    const int64_t each = sums.size(2);
    cpu::by_summed_tiles(one, x, each * ranks(), sums, [&](int64_t begin, int64_t rows, float* to) {
      float* const zx = cpu::room<float>(4 * numbers(), 1);
      float *const zy = zx + numbers(), *const inner = zy + numbers(), *const sum = inner + numbers();
      if (each > 0) cpu::read_blocks<T>(one, x, begin, rows, 1, zx);
      cpu::read_blocks<T>(two, dy, begin, rows, 1, zy);
      for (int64_t r = 0; r < ranks(); ++r, to += each * numbers()) {
        two.pass_on(one, zy, filter(1, r), /*conjugate=*/true, n, inner);
        if (dx.defined()) one.multiply(inner, filter(0, r), /*conjugate=*/true, /*accumulate=*/r > 0, sum);
        if (each == 0) continue;
        one.correlate(zx, inner, to);
        one.pass_on(two, zx, filter(0, r), /*conjugate=*/false, n, inner);
        two.correlate(inner, zy, to + numbers());
      }
      const auto back = [&](int64_t) { return sum; };
      if (dx.defined()) cpu::write_blocks<T>(one, back, 1, dx, begin, rows);
    });
  }
};

}  // namespace

ConvolutionChain::ConvolutionChain(Convolution first, Convolution second, int64_t n)
    : first_(std::move(first)), second_(std::move(second)), n_(n) {
  TORCH_INTERNAL_ASSERT(first_.length() == second_.length() && n_ <= first_.length());
}

bool ConvolutionChain::tiled(const at::Tensor& x) const {
  constexpr int64_t longest = 8192;  // four tiles of it are as much as a second-level cache holds
  return cpu::takes_rows(x) && first_.length() <= longest && cpu::RowConvolution::takes(first_.length());
}

at::Tensor ConvolutionChain::product(const at::Tensor& x, const at::Tensor& first, const at::Tensor& second,
                                     int64_t width) const {
  if (!at::GradMode::is_enabled() && tiled(x)) {
    at::Tensor y = at::empty({x.size(0), width}, x.options());
    const Tiles tiles(first_, second_, first, second, n_);
    cpu::for_type(x, [&]<class T>(T) { tiles.product<T>(x, y); });
    return y;
  }
  const at::Tensor one = first_.spectrum(x).unsqueeze(1) * first_.spectrum(first);
  const at::Tensor inner = resized(first_.signal(one), n_);  // [N, R, n]
  const at::Tensor y = second_.signal((second_.spectrum(inner) * second_.spectrum(second)).sum(1));
  return as(resized(y, width), x);
}

std::vector<at::Tensor> ConvolutionChain::pullback(const at::Tensor& x, const at::Tensor& dy, const at::Tensor& first,
                                                   const at::Tensor& second, bool wants_x) const {
  if (!at::GradMode::is_enabled() && tiled(x)) {
    const Tiles tiles(first_, second_, first, second, n_);
    const at::Tensor dx = wants_x ? at::empty_like(x) : at::Tensor(), slopes = dy.contiguous();
    const int64_t each = first.requires_grad() || second.requires_grad() ? 2 : 0;
    const at::Tensor sums =
        at::zeros({strips_of(x), tiles.ranks(), each, first_.length(), 2}, x.options().dtype(at::kFloat));
    cpu::for_type(x, [&]<class T>(T) { tiles.gradients<T>(x, slopes, dx, sums); });
    if (each == 0) return {dx, {}, {}};
    return {dx, tiles.first.correlations(sums.select(2, 0)), tiles.second.correlations(sums.select(2, 1))};
  }
  const at::Tensor one = first_.spectrum(first), two = second_.spectrum(second);         // [R, k]
  const at::Tensor signal = first_.spectrum(x).unsqueeze(1);                             // [N, 1, k]
  const at::Tensor inner = second_.spectrum(resized(first_.signal(signal * one), n_));   // [N, R, k]
  const at::Tensor g = second_.spectrum(dy).unsqueeze(1);                                // [N, 1, k]
  const at::Tensor back = first_.spectrum(resized(second_.signal(g * two.conj()), n_));  // [N, R, k]
  at::Tensor dx;
  if (wants_x) dx = resized(first_.signal((back * one.conj()).sum(1)), x.size(1));
  return {dx, first_.correlation(signal, back), second_.correlation(inner, g)};
}

}  // namespace veneer
