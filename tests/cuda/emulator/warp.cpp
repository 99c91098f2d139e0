// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What threads do together: those of a warp, of a warpgroup and of a block.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "machine.h"

namespace emulator {
namespace {

// 16 rows of the 64.
void multiply(Cluster& cluster, const Warp& warp, const Product& product) {
  const uint32_t block = static_cast<uint32_t>(warp.block->rank) << window_bits;
  const auto start = [&](uint64_t descriptor) { return block | static_cast<uint32_t>(descriptor & 0x3FFF) << 4; };
  const auto leading = [](uint64_t descriptor) { return static_cast<uint32_t>(descriptor >> 16 & 0x3FFF) << 4; };
  const auto eight = [](uint64_t descriptor) { return static_cast<uint32_t>(descriptor >> 32 & 0x3FFF) << 4; };
  const auto at = [&](uint32_t address) {
    uint16_t bits;
    std::memcpy(&bits, cluster.memory(swizzled(address), 2), 2);
    return number(product.bf16, bits);
  };
  float left[16][16], right[16][256];
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < 16; ++k) {
      const int y = warp.number % 4 * 16 + row;
      if (product.left_as == Left::registers) {
        const int lane = row % 8 * 4 + k % 8 / 2, which = row / 8 + k / 8 * 2;
        left[row][k] = number(product.bf16, product.fragments[lane][which] >> (k % 2 * 16));
      } else {
        const uint32_t inside = product.left_as == Left::columns ? k / 8 * eight(product.left) + k % 8 * 128 + y * 2
                                                                 : y / 8 * eight(product.left) + y % 8 * 128 + k * 2;
        left[row][k] = at(start(product.left) + inside);
      }
    }
  }
  for (int k = 0; k < 16; ++k) {
    for (int column = 0; column < product.columns; ++column) {
      const uint32_t inside = product.turned ? column / 64 * leading(product.right) + k / 8 * eight(product.right) +
                                                   k % 8 * 128 + column % 64 * 2
                                             : column / 8 * eight(product.right) + column % 8 * 128 + k * 2;
      right[k][column] = at(start(product.right) + inside);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < product.columns / 2; ++i) {
      const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      float sum = product.add ? product.sums[lane][i] : 0.0F;
      for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
      product.sums[lane][i] = sum;
    }
  }
}

}  // namespace

float number(bool bf16, uint32_t bits) {
  const auto half = static_cast<uint16_t>(bits);
  return bf16 ? __bfloat162float(__ushort_as_bfloat16(half)) : __half2float(__ushort_as_half(half));
}

std::shared_ptr<Exchange> exchange(uint32_t mask, const void* value, size_t bytes, const char* what) {
  Warp& warp = *running->warp;
  const int lane = running->lane();
  if ((mask >> lane & 1) == 0) fail(std::string(what) + " with a mask that leaves out its own lane");
  auto& open = warp.exchanges[mask];
  if (open == nullptr) open = std::make_shared<Exchange>(Exchange{what, mask, 0, {}, {}});
  const std::shared_ptr<Exchange> mine = open;
  if (std::strcmp(mine->what, what) != 0) fail(std::string(what) + " where another lane is at " + mine->what);
  std::memcpy(mine->values[lane].data(), value, bytes);
  mine->arrived |= 1U << lane;
  if (mine->arrived == mask) {
    open = nullptr;
    wake(mine->event);
  } else {
    wait(mine->event, what, [&] { return mine->arrived == mask; });
  }
  return mine;
}

void NamedBarrier::release() {
  arrived = 0;
  ++round;
  wake(event);
}

void NamedBarrier::arrive(int all, const char* what) {
  if (++arrived == all) {
    release();
    maybe_yield();
  } else {
    wait(event, what, [this, before = round] { return round != before; });
  }
}

void sync_threads(int name, int count) {
  NamedBarrier& barrier = running->block->barriers[name];
  barrier.count = count;
  barrier.arrive(count == 0 ? running->block->live : count, "a barrier of the block");
}

void start_product(const Product& product, float* sums, const uint32_t* fragment) {
  Thread& self = *running;
  Warp& warp = *self.warp;
  const int64_t index = self.products++ - warp.products_done;
  if (index < 0) fail("a product that other lanes have done without this one");
  if (index == static_cast<int64_t>(warp.products.size())) warp.products.push_back(product);
  Product& shared = warp.products[index];
  if (shared.columns != product.columns || shared.turned != product.turned || shared.left_as != product.left_as ||
      shared.left != product.left || shared.right != product.right || shared.add != product.add) {
    fail("lanes of a warp start different products");
  }
  shared.sums[self.lane()] = sums;
  if (!product.add) std::fill_n(sums, product.columns / 2, std::numeric_limits<float>::quiet_NaN());  // not there yet
  if (fragment != nullptr) std::copy_n(fragment, 4, shared.fragments[self.lane()].begin());
  shared.started |= 1U << self.lane();
  maybe_yield();
}

void run_first_product(Warp& warp) {
  multiply(*warp.block->cluster, warp, warp.products.front());
  warp.products.pop_front();
  ++warp.products_done;
  wake(warp.product_done);
}

void commit_products() { running->product_groups.push_back(running->products); }

void wait_for_products(int pending) {
  Thread& self = *running;
  const auto last = static_cast<int64_t>(self.product_groups.size()) - 1 - pending;
  if (last < 0) return;
  wait(self.warp->product_done, "a matrix product",
       [&] { return self.warp->products_done >= self.product_groups[last]; });
  maybe_yield();
}

void commit(Thread::Group& open, std::deque<Thread::Group>& groups) {
  groups.push_back(std::move(open));
  open.clear();
}

void wait_for_groups(std::deque<Thread::Group>& groups, int pending, const char* what) {
  for (; static_cast<int>(groups.size()) > pending; groups.pop_front()) {
    for (const auto& copy : groups.front()) wait(copy->event, what, [&] { return copy->done; });
  }
}

}  // namespace emulator
