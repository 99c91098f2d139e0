// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// That the emulated device finds what kernels may get wrong: each test has a kernel that is right, and what happens
// without one of its waits.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>

#include "device.h"
#include "kernels/cuda/hopper.h"
#include "kernels/cuda/instructions.cuh"
#include "kernels/cuda/launch.cuh"

namespace {

using namespace veneer::kernels::cuda;

constexpr int threads = 128;

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int blocks, int cluster, int shared_bytes, Arguments... arguments) {
  const ClusterLaunch ways(cluster, blocks / cluster, threads, shared_bytes, /*stream=*/nullptr);
  ASSERT_EQ(cudaLaunchKernelEx(&ways.config, kernel, arguments...), cudaSuccess);
}

// For how many of 20 seeds f() is true.
template <class F>
int count_seeds(const F& f) {
  int count = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    emulator::device().seed = seed;
    count += f() ? 1 : 0;
  }
  emulator::device().seed = 0;
  return count;
}

// What the device says of a launch, nothing if all is well.
template <class F>
std::string complaint(const F& f) {
  try {
    f();
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

template <bool waits>
void reverse(const int* from, int* to) {
  VENEER_SHARED(int, shared);
  shared[threadIdx.x] = from[threadIdx.x];
  if (waits) __syncthreads();
  to[threadIdx.x] = shared[threads - 1 - threadIdx.x];
}

template <bool waits>
bool reverses() {
  int from[threads], to[threads];
  for (int i = 0; i < threads; ++i) from[i] = i;
  launch(reverse<waits>, 1, 1, threads * sizeof(int), &from[0], &to[0]);
  for (int i = 0; i < threads; ++i) {
    if (to[i] != threads - 1 - i) return false;
  }
  return true;
}

TEST(EmulatedDevice, FindsAMissingBarrier) {
  EXPECT_EQ(count_seeds(reverses<true>), 20);
  EXPECT_EQ(count_seeds(reverses<false>), 0);
}

template <bool waits>
void copy_by_engine(const int* from, int* to) {
  VENEER_SHARED(int, shared);
  copy_async(shared + threadIdx.x * 4, from + threadIdx.x * 4, true);
  copies_commit();
  if (waits) copies_wait<0>();
  to[threadIdx.x] = shared[threadIdx.x * 4];
  copies_wait<0>();
}

template <bool waits>
bool copies() {
  alignas(16) int from[threads * 4];
  int to[threads];
  for (int i = 0; i < threads * 4; ++i) from[i] = i;
  launch(copy_by_engine<waits>, 1, 1, sizeof(from), &from[0], &to[0]);
  for (int i = 0; i < threads; ++i) {
    if (to[i] != 4 * i) return false;
  }
  return true;
}

TEST(EmulatedDevice, FindsACopyThatWasNotWaitedFor) {
  EXPECT_EQ(count_seeds(copies<true>), 20);
  EXPECT_EQ(count_seeds(copies<false>), 0);
}

// A warpgroup's product of ones by ones, of depth 16.
template <bool waits>
void product_of_ones(float* to) {
  VENEER_SHARED(uint16_t, shared);
  const uint32_t matrix = (shared_address(shared) + 1023) / 1024 * 1024;
  for (uint32_t i = threadIdx.x; i < 2048; i += threads) store_shared(matrix + i * 4, 0x3C003C00);  // Fp16
  __syncthreads();
  float sum[32];
  const uint64_t descriptor = hopper::matrix_descriptor(matrix, 16);
  hopper::product<false, 64, false>(sum, descriptor, descriptor, 0);
  hopper::product_commit();
  if (waits) hopper::product_wait<0>();
  for (int i = 0; i < 32; ++i) to[threadIdx.x * 32 + i] = sum[i];
  hopper::product_wait<0>();
}

template <bool waits>
bool multiplies() {
  std::vector<float> to(threads * 32);
  launch(product_of_ones<waits>, 1, 1, 10 * 1024, to.data());
  return std::all_of(to.begin(), to.end(), [](float value) { return value == 16; });
}

TEST(EmulatedDevice, FindsAProductThatWasNotWaitedFor) {
  EXPECT_EQ(count_seeds(multiplies<true>), 20);
  EXPECT_EQ(count_seeds(multiplies<false>), 0);
}

// One thread hands numbers to another through a ring of two places, a few of them at a time as they are computed.
template <bool waits>
void hand_over(int* to) {
  VENEER_SHARED(int, shared);
  constexpr int places = 2, count = 12;
  const uint32_t ring = shared_address(shared), barriers = ring + 8;
  const auto full = [&](int i) { return barriers + i % places * 8; };
  const auto empty = [&](int i) { return barriers + (places + i % places) * 8; };
  if (threadIdx.x == 0) {
    for (int i = 0; i < places; ++i) hopper::barrier_init(full(i), 1), hopper::barrier_init(empty(i), 1);
  }
  __syncthreads();
  for (int i = 0; i < count; ++i) {
    const uint32_t round = i / places % 2;
    if (threadIdx.x == 0) {
      if (waits) hopper::barrier_wait(empty(i), round ^ 1);
      store_shared(ring + i % places * 4, i);
      hopper::barrier_arrive(full(i));
    } else if (threadIdx.x == 64) {
      hopper::barrier_wait(full(i), round);
      to[i] = static_cast<int>(load_shared(ring + i % places * 4));
      hopper::barrier_arrive(empty(i));
    }
  }
}

template <bool waits>
bool hands_over() {
  int to[12];
  if (!complaint([&] { launch(hand_over<waits>, 1, 1, 64, &to[0]); }).empty()) return false;
  for (int i = 0; i < 12; ++i) {
    if (to[i] != i) return false;
  }
  return true;
}

TEST(EmulatedDevice, LetsThreadsGetAheadOfOthers) {
  EXPECT_EQ(count_seeds(hands_over<true>), 20);
  EXPECT_LE(count_seeds(hands_over<false>), 5);
}

enum class Sender { right, ends_early, counts_too_little };

// Each block sends 16 bytes to the next one of its cluster.
template <Sender sender>
void send_around(int* to) {
  VENEER_SHARED(int, shared);
  const uint32_t base = (shared_address(shared) + 15) / 16 * 16, barrier = base + 16;
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 1);
  hopper::cluster_sync();
  if (threadIdx.x == 0) {
    hopper::barrier_expect(barrier, sender == Sender::counts_too_little ? 12 : 16);
    if (sender == Sender::ends_early && blockIdx.x == 1) {
      for (int i = 0; i < 100; ++i) emulator::maybe_yield();  // is late
    }
    const uint32_t next = (blockIdx.x + 1) % 4;
    hopper::send(hopper::address_in(base, next), hopper::address_in(barrier, next), blockIdx.x, 0, 0, 0);
    if (sender == Sender::ends_early && blockIdx.x == 2) return;
    hopper::barrier_wait(barrier, 0);
    to[blockIdx.x] = static_cast<int>(load_shared(base));
  }
  if (sender == Sender::ends_early && blockIdx.x == 2) return;
  hopper::cluster_sync();
}

template <Sender sender>
std::string sent() {
  int to[4];
  std::string said = complaint([&] { launch(send_around<sender>, 4, 4, 64, &to[0]); });
  for (int i = 0; said.empty() && i < 4; ++i) {
    if (to[i] != (i + 3) % 4) said = "wrong";
  }
  return said;
}

TEST(EmulatedDevice, FindsWhatIsWrongBetweenTheBlocksOfACluster) {
  EXPECT_EQ(count_seeds([] { return sent<Sender::right>().empty(); }), 20);
  EXPECT_GE(count_seeds([] { return sent<Sender::ends_early>().find("a block that has ended") != std::string::npos; }),
            1);
  EXPECT_EQ(count_seeds(
                [] { return sent<Sender::counts_too_little>().find("more bytes at a barrier") != std::string::npos; }),
            20);
}

void wait_for_nobody() {
  VENEER_SHARED(int, shared);
  const uint32_t barrier = shared_address(shared);
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 2);
  __syncthreads();
  if (threadIdx.x == 0) hopper::barrier_arrive(barrier);
  hopper::barrier_wait(barrier, 0);
}

void arrive_too_often() {
  VENEER_SHARED(int, shared);
  const uint32_t barrier = shared_address(shared);
  if (threadIdx.x == 0) hopper::barrier_init(barrier, 1);
  __syncthreads();
  if (threadIdx.x == 0) hopper::barrier_expect(barrier, 16);  // that never come
  __syncthreads();
  hopper::barrier_arrive(barrier);
}

void write_beyond() {
  VENEER_SHARED(int, shared);
  store_shared(shared_address(shared) + threadIdx.x * 4, 1);
}

void go_different_ways() {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();
  } else {
    __shfl_sync(~0U, 1, 0);
  }
}

void use_what_is_no_barrier() {
  VENEER_SHARED(int, shared);
  hopper::barrier_wait(shared_address(shared), 0);
}

TEST(EmulatedDevice, SaysWhatAKernelDidWrong) {
  const auto said = [](void (*kernel)()) { return complaint([&] { launch(kernel, 1, 1, 64); }); };
  EXPECT_EQ(said(wait_for_nobody), "nothing can go on: 128 threads wait for an mbarrier;");
  EXPECT_NE(said(arrive_too_often).find("more arrivals at a barrier than its phase has"), std::string::npos);
  EXPECT_NE(said(write_beyond).find("an address outside the block's shared memory"), std::string::npos);
  EXPECT_NE(said(go_different_ways).find("where another lane is at"), std::string::npos);
  EXPECT_NE(said(use_what_is_no_barrier).find("a barrier that was not initialised"), std::string::npos);
}

TEST(EmulatedDevice, RefusesLaunchesThatDoNotFit) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(1);
  config.blockDim = dim3(1025);
  EXPECT_EQ(cudaLaunchKernelEx(&config, write_beyond), cudaErrorInvalidConfiguration);
  config.blockDim = dim3(32);
  config.dynamicSmemBytes = 100 * 1024;
  EXPECT_EQ(cudaLaunchKernelEx(&config, write_beyond), cudaErrorInvalidConfiguration);
  EXPECT_EQ(cudaFuncSetAttribute(write_beyond, cudaFuncAttributeMaxDynamicSharedMemorySize, 300 * 1024),
            cudaErrorInvalidValue);
}

}  // namespace
