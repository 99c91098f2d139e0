// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Circular convolution of every row with one real filter. Two rows make one complex transform, x1 + i x2: a real filter
// keeps them apart, and in conj(fft(x1 + i x2)) fft(dy1 + i dy2) the mixed terms are anti-Hermitian, so that the last
// kernel's Hermitian part drops them.
#include "kernels/cuda/circulant.h"

#include <algorithm>

#include "kernels/cuda/numbers.cuh"

namespace veneer::kernels::cuda {
namespace {

__device__ void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

__device__ void barrier(int name, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// W[k] of the half spectrum, with the inverse transform's 1 / d.
__device__ Complex filter_value(const Complex* spectrum, int k, int d) {
  const Complex w = 2 * k > d ? conj(spectrum[d - k]) : spectrum[k];
  const float scale = 1.0F / static_cast<float>(d);
  return {w.re * scale, w.im * scale};
}

template <class T>
__device__ Complex pair_value(const T* x, int64_t row, int64_t n, int64_t d, int64_t i) {
  const T* at = x + row * d + i;
  return {row < n ? wide(at[0]) : 0.0F, row + 1 < n ? wide(at[d]) : 0.0F};
}

template <class T>
__device__ void store_pair(T* y, int64_t row, int64_t n, int64_t d, int64_t i, Complex value) {
  T* at = y + row * d + i;
  if (row < n) at[0] = narrow<T>(value.re);
  if (row + 1 < n) at[d] = narrow<T>(value.im);
}

// Sizes d = R 16 16. A group of threads transforms a tile of row pairs, 16 points a thread: a pass over columns of R
// points, 256 apart, between which and the rest lie the only barriers; then blocks of 256, each 16 neighbouring
// threads' own. Groups of a CTA share the tables and nothing else, so they drift apart and one's loads hide behind
// another's arithmetic. Rows go from memory to registers in coalesced lines, without a detour through shared memory.
template <int R>
struct Plan {
  static constexpr int d = 256 * R;
  static constexpr int pairs = R == 1 ? 8 : R <= 3 ? 4 : R <= 6 ? 2 : 1;  // of a tile: 128 threads or more
  static constexpr int threads = 16 * R * pairs;
  static constexpr int columns = (256 * pairs + threads - 1) / threads;  // a thread
  // Beyond a radix of 20 the twiddles would take the room of the sums: 1..7, 8, 16, 24 and products of these.
  static constexpr int twiddle_rows = R <= 20 ? R - 1 : 7 + R / 8 - 1;
  // In Complex numbers. A block of 16 rows of 16 is padded to 17, against bank conflicts.
  static constexpr int block = 16 * 17;
  static constexpr int outer = 0, inner = outer + 256 * twiddle_rows, filter = inner + 256, tables = filter + d;
  static constexpr int buffer = R * pairs * block, sums = d * pairs;
  // As many groups as registers allow without spills, and shared memory at launch.
  static constexpr int product_groups = (R == 4 || R == 8 || R == 16 ? 1024 : 768) / threads;
  static constexpr int gradient_groups = 512 / threads;

  // Position (k1, k2, k3) of a tile's or a table's spectrum is the number k3 of thread (k1, k2).
  __host__ __device__ static constexpr int frequency_at(int index) {
    return index / 16 % R + R * (index % 16 + 16 * (index / (16 * R)));
  }
};

template <int R>
__device__ void fill_tables(Complex* tables, const Complex* spectrum) {
  using P = Plan<R>;
  for (int i = threadIdx.x; i < 256 * P::twiddle_rows; i += blockDim.x) {
    const int row = i / 256 + 1, k = R <= 20 || row < 8 ? row : 8 * (row - 7);
    tables[P::outer + i] = root(i % 256 * k, P::d);
  }
  for (int i = threadIdx.x; i < 256; i += blockDim.x) tables[P::inner + i] = root(i / 16 * (i % 16), 256);
  if (spectrum == nullptr) return;
  for (int i = threadIdx.x; i < P::d; i += blockDim.x) {
    tables[P::filter + i] = filter_value(spectrum, P::frequency_at(i), P::d);
  }
}

template <int R>
__device__ Complex outer_twiddle(const Complex* tables, int column, int k) {
  const Complex* outer = tables + Plan<R>::outer + column - 256;
  if (R <= 20 || k < 8) return outer[256 * k];
  const Complex high = outer[256 * (7 + k / 8)];
  return k % 8 == 0 ? high : high * outer[256 * (k % 8)];
}

// `ready` waits until z may be overwritten: after the loads are on their way.
template <int R, class T, class Ready>
__device__ void read_columns(const T* x, int64_t tile, int64_t n, const Complex* tables, Complex* z, int t,
                             Ready ready) {
  using P = Plan<R>;
  Complex v[P::columns][R];
#pragma unroll
  for (int i = 0; i < P::columns; ++i) {
    const int column = t + i * P::threads;
    if (column < 256 * P::pairs) {
      const int64_t row = 2 * (tile * P::pairs + column / 256);
#pragma unroll
      for (int j = 0; j < R; ++j) v[i][j] = pair_value(x, row, n, P::d, j * 256 + column % 256);
      dft<R>(v[i]);
    } else {  // left undefined, the last tile's numbers would stay alive, and spill
#pragma unroll
      for (int j = 0; j < R; ++j) v[i][j] = {};
    }
  }
  ready();
#pragma unroll
  for (int i = 0; i < P::columns; ++i) {
    const int column = t + i * P::threads;
    if (column >= 256 * P::pairs) break;
    Complex* at = z + column / 256 * R * P::block + column % 256 + column % 256 / 16;
    at[0] = v[i][0];
#pragma unroll
    for (int k = 1; k < R; ++k) at[k * P::block] = v[i][k] * outer_twiddle<R>(tables, column % 256, k);
  }
}

template <int R, class T>
__device__ void write_columns(T* y, int64_t tile, int64_t n, const Complex* tables, const Complex* z, int t) {
  using P = Plan<R>;
#pragma unroll
  for (int i = 0; i < P::columns; ++i) {
    const int column = t + i * P::threads;
    if (column >= 256 * P::pairs) break;
    const Complex* at = z + column / 256 * R * P::block + column % 256 + column % 256 / 16;
    Complex v[R];
    v[0] = at[0];
#pragma unroll
    for (int k = 1; k < R; ++k) v[k] = at[k * P::block] * conj(outer_twiddle<R>(tables, column % 256, k));
    inverse_dft<R>(v);
    const int64_t row = 2 * (tile * P::pairs + column / 256);
#pragma unroll
    for (int j = 0; j < R; ++j) store_pair(y, row, n, P::d, j * 256 + column % 256, v[j]);
  }
}

// A block's two passes of radix 16. Its 16 threads are one half of a warp.
template <int R>
__device__ void transform_block(const Complex* tables, Complex* z, int t, Complex (&v)[16]) {
  const int lane = t % 16;
  z += t / 16 * Plan<R>::block;
#pragma unroll
  for (int j = 0; j < 16; ++j) v[j] = z[j * 17 + lane];
  dft<16>(v);
  z[lane] = v[0];
#pragma unroll
  for (int k = 1; k < 16; ++k) z[k * 17 + lane] = v[k] * tables[Plan<R>::inner + k * 16 + lane];
  __syncwarp();
#pragma unroll
  for (int j = 0; j < 16; ++j) v[j] = z[lane * 17 + j];
  dft<16>(v);
}

template <int R>
__device__ void invert_block(const Complex* tables, Complex* z, int t, Complex (&v)[16]) {
  const int lane = t % 16;
  z += t / 16 * Plan<R>::block;
  inverse_dft<16>(v);
#pragma unroll
  for (int j = 0; j < 16; ++j) z[lane * 17 + j] = v[j];
  __syncwarp();
  v[0] = z[lane];
#pragma unroll
  for (int k = 1; k < 16; ++k) v[k] = z[k * 17 + lane] * conj(tables[Plan<R>::inner + k * 16 + lane]);
  inverse_dft<16>(v);
#pragma unroll
  for (int k = 0; k < 16; ++k) z[k * 17 + lane] = v[k];
}

// The next tile on its way to L2: what is left to wait for is L2's latency, not the memory's.
template <int R, class T>
__device__ void prefetch_tile(const T* x, int64_t tile, int64_t n, int t) {
  using P = Plan<R>;
  constexpr int64_t step = 32 / sizeof(T);  // a sector
  const int64_t first = tile * 2 * P::pairs * P::d;
#pragma unroll
  for (int i = 0; i < 32 / step; ++i) {
    const int64_t at = first + (t + i * P::threads) * step;
    if (at < n * P::d) prefetch(x + at);
  }
}

template <class T, int R>
__global__ void __launch_bounds__(Plan<R>::threads* Plan<R>::product_groups) product_kernel(CirculantProduct<T> call) {
  using P = Plan<R>;
  extern __shared__ Complex shared[];
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
    barrier(group + 1, P::threads);
    transform_block<R>(shared, z, t, v);
#pragma unroll
    for (int j = 0; j < 16; ++j) v[j] = v[j] * filter[j * 16 * R];
    invert_block<R>(shared, z, t, v);
    barrier(group + 1, P::threads);
    write_columns<R>(call.y, tile, call.n, shared, z, t);
  }
}

template <class T, int R>
__global__ void __launch_bounds__(Plan<R>::threads* Plan<R>::gradient_groups)
    gradient_kernel(CirculantGradients<T> call) {
  using P = Plan<R>;
  extern __shared__ Complex shared[];
  fill_tables<R>(shared, call.dx != nullptr ? call.spectrum : nullptr);
  const int groups = blockDim.x / P::threads, group = threadIdx.x / P::threads, t = threadIdx.x % P::threads;
  Complex* all_sums = shared + P::tables + groups * P::buffer;
  for (int i = threadIdx.x; i < groups * P::sums; i += blockDim.x) all_sums[i] = {};
  __syncthreads();
  Complex* z = shared + P::tables + group * P::buffer;
  Complex* sums = all_sums + group * P::sums + t;  // only this thread's until the end
  const Complex* filter = shared + P::filter + t % (16 * R);
  const auto wait = [group] { barrier(group + 1, P::threads); };
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

// Every other size: a pass at a time through shared memory, one row pair a CTA.
constexpr int general_threads = 256;

template <bool inverse>
__device__ void run_pass(Complex* z, int radix, int length, int d) {
  for (int i = threadIdx.x; i < d / radix; i += blockDim.x) {
    switch (radix) {
      case 2: butterfly<2, inverse>(z, i, length); break;
      case 3: butterfly<3, inverse>(z, i, length); break;
      case 4: butterfly<4, inverse>(z, i, length); break;
      case 5: butterfly<5, inverse>(z, i, length); break;
      case 7: butterfly<7, inverse>(z, i, length); break;
      default: butterfly<8, inverse>(z, i, length);
    }
  }
}

__device__ void transform(Complex* z, const Radices& radices, int d) {
  int length = d;
  for (int pass = 0; pass < radices.count; length /= radices.radix[pass++]) {
    __syncthreads();
    run_pass<false>(z, radices.radix[pass], length, d);
  }
  __syncthreads();
}

__device__ void invert(Complex* z, const Radices& radices, int d) {
  int length = 1;
  for (int pass = radices.count - 1; pass >= 0; --pass) {
    length *= radices.radix[pass];
    __syncthreads();
    run_pass<true>(z, radices.radix[pass], length, d);
  }
  __syncthreads();
}

// Either call: a product is gradients without x.
template <class T>
__global__ void __launch_bounds__(general_threads)
    general_kernel(CirculantGradients<T> call, const __grid_constant__ Radices radices) {
  extern __shared__ Complex shared[];
  const int d = static_cast<int>(call.d);
  const bool product = call.x == nullptr;
  Complex *z = shared, *zx = shared + d;
  auto* frequencies = reinterpret_cast<uint16_t*>(shared + (product ? 1 : 2) * d);
  auto* partial = static_cast<Complex*>(call.workspace) + static_cast<int64_t>(blockIdx.x) * d;
  for (int i = threadIdx.x; i < d; i += blockDim.x) frequencies[i] = static_cast<uint16_t>(frequency(radices, d, i));
  for (int64_t row = 2 * static_cast<int64_t>(blockIdx.x); row < call.n; row += 2 * static_cast<int64_t>(gridDim.x)) {
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
      z[i] = pair_value(call.dy, row, call.n, d, i);
      if (!product) zx[i] = pair_value(call.x, row, call.n, d, i);
    }
    transform(z, radices, d);
    if (!product) transform(zx, radices, d);
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
      const int k = frequencies[i];
      if (!product) {
        const Complex term = conj(zx[i]) * z[i];
        partial[k] = row == 2 * static_cast<int64_t>(blockIdx.x) ? term : partial[k] + term;
      }
      if (call.dx == nullptr) continue;
      const Complex w = filter_value(call.spectrum, k, d);
      z[i] = z[i] * (product ? w : conj(w));
    }
    if (call.dx == nullptr) continue;  // the next loads go where this thread has just read
    invert(z, radices, d);
    for (int i = threadIdx.x; i < d; i += blockDim.x) store_pair(call.dx, row, call.n, d, i, z[i]);
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
cudaError_t launch(Kernel* kernel, int64_t ctas, int threads, int64_t bytes, void* stream,
                   const Arguments&... arguments) {
  const auto status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                           cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(ctas), static_cast<unsigned>(threads), static_cast<size_t>(bytes),
           static_cast<cudaStream_t>(stream)>>>(arguments...);
  return cudaGetLastError();
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
  status = launch(kernel, ctas, groups * P::threads, size * (P::tables + groups * group_numbers), stream, call);
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
  return launch(general_kernel<T>, general_ctas(call.n), general_threads, general_bytes(call.d, 1), stream, general,
                radices_of(call.d));
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
      status =
          launch(general_kernel<T>, ctas, general_threads, general_bytes(call.d, 2), stream, call, radices_of(call.d));
    }
    if (status != cudaSuccess) return status;
  }
  const auto blocks = static_cast<unsigned>((call.d / 2 + sum_width) / sum_width);
  sum_kernel<<<blocks, dim3(sum_width, sum_slices), 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const Complex*>(call.workspace), static_cast<int>(ctas), static_cast<int>(call.d),
      static_cast<int>(radix_of_sums), call.dspectrum);
  return cudaGetLastError();
}

template int circulant_product(const CirculantProduct<float>&, void*);
template int circulant_product(const CirculantProduct<Bf16>&, void*);
template int circulant_product(const CirculantProduct<Fp16>&, void*);
template int circulant_gradients(const CirculantGradients<float>&, void*);
template int circulant_gradients(const CirculantGradients<Bf16>&, void*);
template int circulant_gradients(const CirculantGradients<Fp16>&, void*);

}  // namespace veneer::kernels::cuda
