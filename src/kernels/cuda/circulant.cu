// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Circular convolution of every row with one real filter. Two rows make one complex transform, x1 + i x2: a real filter
// keeps them apart, and in conj(fft(x1 + i x2)) fft(dy1 + i dy2) the mixed terms are anti-Hermitian, so that the last
// kernel's Hermitian part drops them.
#include "kernels/cuda/circulant.h"

#include <algorithm>

#include "kernels/cuda/circulant_general.cuh"
#include "kernels/cuda/circulant_plan.cuh"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"

namespace veneer::kernels::cuda {
namespace {

template <class T, int R>
__global__ void __launch_bounds__(Plan<R>::threads* Plan<R>::product_groups) product_kernel(CirculantProduct<T> call) {
  using P = Plan<R>;
  VENEER_SHARED(Complex, shared);
  fill_tables<R>(shared, call.spectrum);
  __syncthreads();
  const int group = threadIdx.x / P::threads, t = threadIdx.x % P::threads;
  Complex* z = shared + P::tables + group * P::buffer;
  const Complex* filter = shared + P::filter + t % (16 * R);
  const int64_t tiles = (call.n + 2 * P::pairs - 1) / (2 * P::pairs);
  const int64_t step = static_cast<int64_t>(gridDim.x) * (blockDim.x / P::threads);
  for (int64_t tile = blockIdx.x + static_cast<int64_t>(group) * gridDim.x; tile < tiles; tile += step) {
    Complex v[16];
    read_columns<R>(call.x, tile, call.n, shared, z, t, [] {});  // over columns that this thread was the last to read
    prefetch_tile<R>(call.x, tile + step, call.n, t);
    group_sync(group + 1, P::threads);
    transform_block<R>(shared, z, t, v);
#pragma unroll
    for (int j = 0; j < 16; ++j) v[j] = v[j] * filter[j * 16 * R];
    invert_block<R>(shared, z, t, v);
    group_sync(group + 1, P::threads);
    write_columns<R>(call.y, tile, call.n, shared, z, t);
  }
}

template <class T, int R>
__global__ void __launch_bounds__(Plan<R>::threads* Plan<R>::gradient_groups)
    gradient_kernel(CirculantGradients<T> call) {
  using P = Plan<R>;
  VENEER_SHARED(Complex, shared);
  fill_tables<R>(shared, call.dx != nullptr ? call.spectrum : nullptr);
  const int groups = blockDim.x / P::threads, group = threadIdx.x / P::threads, t = threadIdx.x % P::threads;
  Complex* all_sums = shared + P::tables + groups * P::buffer;
  for (int i = threadIdx.x; i < groups * P::sums; i += blockDim.x) all_sums[i] = {};
  __syncthreads();
  Complex* z = shared + P::tables + group * P::buffer;
  Complex* sums = all_sums + group * P::sums + t;  // only this thread's until the end
  const Complex* filter = shared + P::filter + t % (16 * R);
  const auto wait = [group] { group_sync(group + 1, P::threads); };
  const int64_t tiles = (call.n + 2 * P::pairs - 1) / (2 * P::pairs);
  const int64_t step = static_cast<int64_t>(gridDim.x) * groups;
  for (int64_t tile = blockIdx.x + static_cast<int64_t>(group) * gridDim.x; tile < tiles; tile += step) {
    Complex x[16], v[16];
    read_columns<R>(call.x, tile, call.n, shared, z, t, [] {});
    prefetch_tile<R>(call.x, tile + step, call.n, t);
    wait();
    transform_block<R>(shared, z, t, x);
    read_columns<R>(call.dy, tile, call.n, shared, z, t, wait);
    prefetch_tile<R>(call.dy, tile + step, call.n, t);
    wait();
    transform_block<R>(shared, z, t, v);
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      sums[j * P::threads] = sums[j * P::threads] + conj(x[j]) * v[j];
      v[j] = v[j] * conj(filter[j * 16 * R]);
    }
    if (call.dx != nullptr) {
      invert_block<R>(shared, z, t, v);
      wait();
      write_columns<R>(call.dx, tile, call.n, shared, z, t);
    } else {
      wait();
    }
  }
  __syncthreads();
  auto* partial = static_cast<Complex*>(call.workspace) + static_cast<int64_t>(blockIdx.x) * P::d;
  for (int i = threadIdx.x; i < P::d; i += blockDim.x) {
    Complex sum{};
    for (int pair = 0; pair < groups * P::pairs; ++pair) {
      sum = sum +
            all_sums[pair / P::pairs * P::sums + i / (16 * R) * P::threads + pair % P::pairs * (16 * R) + i % (16 * R)];
    }
    partial[i] = sum;
  }
}

// The partial sums' sum, in slices and then over them, and its Hermitian part. `radix` is the plan's R, 0 for sums in
// the order of frequencies; in either order the first d/2 + 1 numbers are the half spectrum.
constexpr int sum_width = 32, sum_slices = 16;

__global__ void __launch_bounds__(sum_width* sum_slices)
    sum_kernel(const Complex* partials, int count, int d, int radix, Complex* dspectrum) {
  __shared__ Complex slices[sum_slices][sum_width];
  const int at = blockIdx.x * sum_width + threadIdx.x;
  int k = at, mirror = (d - at) % d;
  if (radix != 0) {
    k = at / 16 % radix + radix * (at % 16 + 16 * (at / (16 * radix)));
    const int opposite = (d - k) % d, digits = opposite / radix;
    mirror = digits / 16 * (16 * radix) + opposite % radix * 16 + digits % 16;
  }
  Complex sum{};
  if (at <= d / 2) {
#pragma unroll 4
    for (int i = threadIdx.y; i < count; i += sum_slices) {
      const Complex* partial = partials + static_cast<int64_t>(i) * d;
      sum = sum + (partial[at] + conj(partial[mirror]));
    }
  }
  slices[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || at > d / 2) return;
  for (int i = 1; i < sum_slices; ++i) sum = sum + slices[i][threadIdx.x];
  dspectrum[k] = {0.5F * sum.re, 0.5F * sum.im};
}

int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess)
    return 0;
  return value;
}

int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }
int shared_limit() { return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }

// A gradient needs two rows and their frequencies.
int64_t general_bytes(int64_t d, int buffers) {
  return d * (buffers * int64_t{sizeof(Complex)} + int64_t{sizeof(uint16_t)});
}

int64_t general_ctas(int64_t n) { return std::min<int64_t>((n + 1) / 2, 2 * int64_t{multiprocessors()}); }

template <class Kernel, class... Arguments>
cudaError_t launch_rows(Kernel* kernel, int64_t ctas, int threads, int64_t bytes, void* stream,
                        const Arguments&... arguments) {
  return launch(kernel, static_cast<unsigned>(ctas), static_cast<unsigned>(threads), static_cast<size_t>(bytes),
                static_cast<cudaStream_t>(stream), arguments...);
}

// Launches `kernel` with as many groups as fit, at most `groups`; the number of CTAs, or 0 where not one group fits.
template <int R, class Call>
int64_t launch_plan(void (*kernel)(Call), int groups, int group_numbers, const Call& call, void* stream,
                    cudaError_t& status) {
  using P = Plan<R>;
  constexpr int64_t size = sizeof(Complex);
  groups = static_cast<int>(std::min<int64_t>(groups, (shared_limit() / size - P::tables) / group_numbers));
  if (groups < 1) return 0;
  const int64_t ctas = std::min<int64_t>((call.n + 2 * P::pairs - 1) / (2 * P::pairs), multiprocessors());
  status = launch_rows(kernel, ctas, groups * P::threads, size * (P::tables + groups * group_numbers), stream, call);
  return ctas;
}

// Calls `use` with the plan's R as a type, or returns 0: each size costs seconds to compile.
template <class Use>
int64_t with_plan(int64_t d, const Use& use) {
  switch (d) {
    case 768: return use(std::integral_constant<int, 3>{});
    case 1024: return use(std::integral_constant<int, 4>{});
    case 2048: return use(std::integral_constant<int, 8>{});
    case 4096: return use(std::integral_constant<int, 16>{});
    case 5120: return use(std::integral_constant<int, 20>{});
    case 8192: return use(std::integral_constant<int, 32>{});
    default: return 0;
  }
}

}  // namespace

bool circulant_supported(int64_t d) {
  return d >= 1 && radices_of(d).complete && general_bytes(d, 2) <= shared_limit();
}

size_t circulant_workspace(int64_t n, int64_t d) {
  return static_cast<size_t>(general_ctas(n) * d) * sizeof(Complex);  // no plan has more CTAs
}

template <class T>
int circulant_product(const CirculantProduct<T>& call, void* stream) {
  if (call.n == 0) return cudaSuccess;
  cudaError_t status = cudaSuccess;
  const int64_t ctas = with_plan(call.d, [&](auto radix) {
    constexpr int R = decltype(radix)::value;
    return launch_plan<R>(product_kernel<T, R>, Plan<R>::product_groups, Plan<R>::buffer, call, stream, status);
  });
  if (ctas != 0) return status;
  const CirculantGradients<T> general{nullptr, call.x, call.spectrum, call.y, nullptr, nullptr, call.n, call.d};
  return launch_rows(general_kernel<T>, general_ctas(call.n), general_threads, general_bytes(call.d, 1), stream,
                     general, radices_of(call.d));
}

template <class T>
int circulant_gradients(const CirculantGradients<T>& call, void* stream) {
  cudaError_t status = cudaSuccess;
  int64_t ctas = 0, radix_of_sums = 0;
  if (call.n != 0) {
    ctas = with_plan(call.d, [&](auto radix) {
      constexpr int R = decltype(radix)::value;
      radix_of_sums = R;
      return launch_plan<R>(gradient_kernel<T, R>, Plan<R>::gradient_groups, Plan<R>::buffer + Plan<R>::sums, call,
                            stream, status);
    });
    if (ctas == 0) {
      radix_of_sums = 0;
      ctas = general_ctas(call.n);
      status = launch_rows(general_kernel<T>, ctas, general_threads, general_bytes(call.d, 2), stream, call,
                           radices_of(call.d));
    }
    if (status != cudaSuccess) return status;
  }
  const auto blocks = static_cast<unsigned>((call.d / 2 + sum_width) / sum_width);
  return launch(sum_kernel, blocks, dim3(sum_width, sum_slices), 0, static_cast<cudaStream_t>(stream),
                static_cast<const Complex*>(call.workspace), static_cast<int>(ctas), static_cast<int>(call.d),
                static_cast<int>(radix_of_sums), call.dspectrum);
}

template int circulant_product(const CirculantProduct<float>&, void*);
template int circulant_product(const CirculantProduct<Bf16>&, void*);
template int circulant_product(const CirculantProduct<Fp16>&, void*);
template int circulant_gradients(const CirculantGradients<float>&, void*);
template int circulant_gradients(const CirculantGradients<Bf16>&, void*);
template int circulant_gradients(const CirculantGradients<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
