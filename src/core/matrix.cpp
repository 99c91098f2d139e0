// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/matrix.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <algorithm>

#include "core/blocks.h"
#include "core/recording.h"
#include "veneer/dropout.h"
#include "veneer/numeric.h"

namespace veneer {

at::Tensor Dropped::all() const { return seeded_dropout(x, seed, p); }

at::Tensor Dropped::part(int64_t begin, int64_t end) const {
  at::Tensor rows = x.narrow(0, begin, end - begin);
  if (!seed.defined()) return rows;
  at::Tensor dropped = at::empty_like(rows);
  seeded_dropout_part(dropped, rows, seed, p, begin * x.size(1), /*accumulate=*/false);
  return dropped;
}

void Dropped::add_part(const at::Tensor& dx, const at::Tensor& g, int64_t begin) const {
  const at::Tensor rows = dx.narrow(0, begin, g.size(0));
  if (seed.defined()) {
    seeded_dropout_part(rows, g, seed, p, begin * x.size(1), /*accumulate=*/true);
  } else {
    rows.add_(g);
  }
}

void by_rows(const at::Tensor& x, bool whole, const std::function<void(int64_t, int64_t, int64_t)>& f) {
  if (x.is_meta()) return;
  const int64_t n = x.size(0);
  if (n == 0) return;
  if (whole || !x.is_cpu()) return f(0, n, 0);
  constexpr int64_t bytes = int64_t{512} << 10, fewest = 32;
  const int64_t fit = std::max(fewest, bytes / std::max<int64_t>(1, x.size(1) * x.element_size()));
  const int64_t strip = std::max(fit, (n + row_strips - 1) / row_strips);
  const int64_t parts = (strip + fit - 1) / fit, part = (strip + parts - 1) / parts;
  const at::ThreadLocalState state;  // workers have none of their own: no gradients are recorded here
  at::parallel_for(0, (n + strip - 1) / strip, 1, [&](int64_t first, int64_t last) {
    const at::ThreadLocalStateGuard guard(state);
    for (int64_t i = first; i < last; ++i) {
      const int64_t end = std::min(n, (i + 1) * strip);
      for (int64_t begin = i * strip; begin < end; begin += part) f(begin, std::min(end, begin + part), i);
    }
  });
}

at::Tensor Matrix::product(const at::Tensor& x, at::TensorList prepared) const {
  return form() == Form::factors ? low_rank_product(x, prepared[0], prepared[1]) : at::linear(x, as(prepared[0], x));
}

std::vector<at::Tensor> Matrix::pullback(const at::Tensor& x, const at::Tensor& dy, at::TensorList prepared,
                                         bool wants_x) const {
  const Recording recording;
  std::vector<at::Tensor> inputs{x.detach().requires_grad_(wants_x)};
  for (const auto& tensor : prepared) inputs.push_back(tensor.detach().requires_grad_(tensor.requires_grad()));
  return gradients_of({product(inputs[0], at::TensorList(inputs).slice(1))}, inputs, {dy});
}

at::Tensor Matrix::apply(const at::Tensor& x, const Params& params) const {
  // Some libraries refuse products and transforms of no rows.
  if (TORCH_GUARD_SIZE_OBLIVIOUS(x.sym_size(0).sym_eq(0))) return at::linear(x, as(dense(params), x));
  return product(x, prepare(params));
}

at::Tensor Matrix::accumulate(const at::Tensor& y, bool owned, const at::Tensor& x, const Params& params,
                              double scale) const {
  if (form() == Form::factors) {
    // One product adds into the base's output: no separate product, scaling or sum is written.
    const auto factors = prepare(params);
    const at::Tensor h = as(at::linear(x, as(factors[0], x)), y), b = as(factors[1], y).t();
    return owned ? y.addmm_(h, b, 1.0, scale) : y.addmm(h, b, 1.0, scale);
  }
  const at::Tensor update = as(apply(x, params), y);
  return owned ? y.add_(update, scale) : y.add(update, scale);
}

at::Tensor Matrix::merged(const at::Tensor& weight, const Params& params, double scale) const {
  if (form() != Form::factors) return weight.add(as(build(params), weight), scale);
  const auto factors = prepare(params);
  return at::addmm(weight, as(factors[1], weight), as(factors[0], weight), 1.0, scale);
}

at::Tensor Matrix::row_norms(const at::Tensor& weight, const Params& params, double scale) const {
  const at::Tensor w = wide(weight);
  if (form() != Form::factors) return at::linalg_vector_norm(w.add(as(dense(params), w), scale), 2, at::IntArrayRef{1});
  // ||W + sBA||^2 row by row without the d_out x d_in product: ||W||^2 + 2s <W A^T, B> + s^2 <B A A^T, B>.
  const auto factors = prepare(params);
  const at::Tensor a = as(factors[0], w), b = as(factors[1], w);
  const at::Tensor cross = at::matmul(w, a.t()).mul(2.0 * scale);
  const at::Tensor square = at::matmul(b, at::matmul(a, a.t())).mul(scale * scale);
  const at::Tensor base = at::linalg_vector_norm(w, 2, at::IntArrayRef{1}).square();
  return base.add((cross + square).mul(b).sum(1)).clamp_min(0.0).sqrt();
}

namespace {

using Tensors = std::vector<at::Tensor>;

// Sums of gradients are held once for each strip, which pays where they are small beside x; else products are large
// too, and ATen's own threads serve them.
bool large(const Tensors& prepared, const at::Tensor& x) {
  int64_t numbers = 0;
  for (const auto& tensor : prepared) numbers += tensor.numel();
  return numbers * row_strips > x.numel();
}

// h [N, r] = dropout(x) A^T.
at::Tensor inner(const Dropped& x, const at::Tensor& a) {
  if (!x.seed.defined()) return at::mm(x.x, a.t());
  const at::Tensor h = at::empty_symint({x.x.sym_size(0), a.sym_size(0)}, x.x.options());
  by_rows(x.x, false, [&](int64_t begin, int64_t end, int64_t) {
    at::Tensor part = h.narrow(0, begin, end - begin);
    at::mm_out(part, x.part(begin, end), a.t());
  });
  return h;
}

// t, its rows scaled by the gain where there is one; t may be overwritten.
at::Tensor gained(const at::Tensor& t, const at::Tensor& gain) {
  return gain.defined() ? t.mul_(as(gain, t).unsqueeze(1)) : t;
}

// Of the matrix itself.
Tensors dense_gradients(const at::Tensor& dx, const at::Tensor& dy, const Dropped& x, const at::Tensor& m, double scale,
                        const at::Tensor& gain) {
  if (dx.defined() && x.seed.defined()) {
    x.add_part(dx, at::mm(dy, m).mul_(scale), 0);
  } else if (dx.defined()) {
    dx.addmm_(dy, m, 1.0, scale);
  }
  return {gained(at::mm(dy.t(), x.part(0, dy.size(0))).mul_(scale), gain)};
}

// Of the two factors, from h = dropout(x) A^T.
Tensors factor_gradients(const at::Tensor& dx, const at::Tensor& dy, const Dropped& x, const at::Tensor& a,
                         const at::Tensor& b, const at::Tensor& h, double scale, const at::Tensor& gain) {
  // Thin products are fast where both are read along their rows: dh [N, r] = dy (s B) with B turned round before, and
  // dB = s dy^T h as (h^T dy)^T.
  const at::Tensor dh = at::mm(dy, gained(b * scale, gain).t().contiguous().t());
  const at::Tensor db = gained(at::mm(h.t(), dy).mul_(scale).t(), gain);
  if (!x.seed.defined()) {
    if (dx.defined()) dx.addmm_(dh, a);
    return {at::mm(dh.t(), x.x), db};
  }
  const at::Tensor sums = at::zeros({row_strips, a.size(0), a.size(1)}, a.options());
  by_rows(x.x, false, [&](int64_t begin, int64_t end, int64_t strip) {
    const at::Tensor part = dh.narrow(0, begin, end - begin);
    sums.select(0, strip).addmm_(part.t(), x.part(begin, end));
    if (dx.defined()) x.add_part(dx, at::mm(part, a), begin);
  });
  return {sums.sum(0), db};
}

// Of what `prepared` is made of, by parts of the rows.
Tensors row_gradients(const Matrix& matrix, const at::Tensor& dx, const at::Tensor& dy, const Dropped& x,
                      const Tensors& prepared, double scale, const at::Tensor& gain) {
  if (matrix.costly() && !dx.defined() && !x.seed.defined() && x.x.size(0) >= 2 * matrix.d_in() &&
      wide_type(x.x.scalar_type()) == x.x.scalar_type()) {
    const at::Tensor unit = at::eye(matrix.d_in(), x.x.options());  // whose row i is multiplied to column i of M
    return row_gradients(matrix, dx, at::mm(x.x.t(), dy), {unit, {}}, prepared, scale, gain);
  }
  const bool whole = large(prepared, x.x);
  Tensors sums;
  for (const auto& tensor : prepared) {
    std::vector<int64_t> sizes = tensor.sizes().vec();
    sizes.insert(sizes.begin(), whole ? 1 : row_strips);
    const auto options = tensor.options().dtype(wide_type(tensor.scalar_type()));
    sums.push_back(tensor.requires_grad() ? at::zeros(sizes, options) : at::Tensor());
  }
  by_rows(x.x, whole, [&](int64_t begin, int64_t end, int64_t strip) {
    at::Tensor g = dy.narrow(0, begin, end - begin);
    if (gain.defined()) g = g * as(gain, g);
    const auto found = matrix.pullback(x.part(begin, end), g, prepared, dx.defined());
    for (size_t i = 0; i < sums.size(); ++i) {
      if (sums[i].defined() && found[i + 1].defined()) sums[i].select(0, strip).add_(found[i + 1], scale);
    }
    if (dx.defined() && found[0].defined()) {
      x.add_part(dx, (scale == 1.0 ? as(found[0], dx) : as(found[0] * scale, dx)).contiguous(), begin);
    }
  });
  for (auto& sum : sums) {
    if (sum.defined()) sum = sum.sum(0);
  }
  return sums;
}

}  // namespace

std::vector<at::Tensor> Matrix::fused_add(const at::Tensor& y, const Dropped& x, const Params& params,
                                          double scale) const {
  if (form() == Form::factors) {
    const auto factors = prepare(params);
    const at::Tensor h = inner(x, as(factors[0], x.x));
    if (y.defined()) y.addmm_(h, as(factors[1], y).t(), 1.0, scale);
    return {h};
  }
  if (!y.defined() || y.is_meta() || y.size(0) == 0) return {};
  const Tensors prepared = prepare(params);
  if (form() == Form::dense) {
    y.addmm_(x.part(0, y.size(0)), as(prepared[0], y).t(), 1.0, scale);
    return {};
  }
  by_rows(x.x, large(prepared, x.x), [&](int64_t begin, int64_t end, int64_t) {
    const at::Tensor part = y.narrow(0, begin, end - begin);
    part.add_(as(product(x.part(begin, end), prepared), part), scale);
  });
  return {};
}

std::vector<at::Tensor> Matrix::fused_gradients(const at::Tensor& dx, const at::Tensor& dy, const Dropped& x,
                                                const Params& params, const std::vector<at::Tensor>& kept, double scale,
                                                const Merged& base) const {
  const size_t count = params.tensors().size();
  Tensors gradients(count), leaves(count), trained;
  for (size_t i = 0; i < count; ++i) {
    leaves[i] = params.tensors()[i].detach();
    if (!params.specs()[i].trainable) continue;
    trained.push_back(leaves[i].requires_grad_());
    if (dy.is_meta()) gradients[i] = at::empty_like(leaves[i]);
  }
  if (dy.is_meta()) return gradients;

  Tensors prepared, sums;
  {
    const Recording recording;
    prepared = prepare(params.with(leaves));
  }
  {
    const c10::NoGradGuard no_grad;
    at::Tensor rest = dx;  // what is still to be added to
    if (dx.defined() && base.weight.defined()) {
      const at::Tensor all = form() == Form::dense ? base.weight.add(as(prepared[0], dy), scale)
                                                   : merged(base.weight, params.with(leaves), scale);
      at::mm_out(rest, dy, gained(all, base.gain));
      rest.reset();
    }
    if (form() == Form::dense) {
      sums = dense_gradients(rest, dy, x, as(prepared[0], dy), scale, base.gain);
    } else if (form() == Form::factors) {
      sums = factor_gradients(rest, dy, x, as(prepared[0], dy), as(prepared[1], dy), kept[0], scale, base.gain);
    } else {
      sums = row_gradients(*this, rest, dy, x, prepared, scale, base.gain);
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      if (sums[i].defined()) sums[i] = as(sums[i], prepared[i]);
    }
  }
  const Recording recording;
  const auto found = gradients_of(prepared, trained, sums);
  for (size_t i = 0, place = 0; i < count; ++i) {
    if (!params.specs()[i].trainable) continue;
    gradients[i] = found[place].defined() ? found[place] : at::zeros_like(leaves[i].detach());
    ++place;
  }
  return gradients;
}

}  // namespace veneer
