// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "machine.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace emulator {
namespace {

constexpr size_t stack_bytes = size_t{64} * 1024;

const size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
size_t stride() { return size_t{window} + page_bytes; }  // a page that faults behind each block's memory

std::byte* mapped(size_t bytes) {
  void* const p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(p);
}

// Fibers stay for the next launch: to make one costs more than most threads do.
std::deque<Fiber>& fibers() {
  static std::deque<Fiber> all;
  return all;
}

Fiber& fiber(size_t i) {
  constexpr size_t at_once = 256;
  while (fibers().size() <= i) {
    std::byte* const stacks = mapped(at_once * stack_bytes);
    for (size_t k = 0; k < at_once; ++k) fibers().push_back({stacks + k * stack_bytes, false, {}});
  }
  return fibers()[i];
}

// What a fiber does, for one thread after another.
void serve() {
  while (true) running->block->cluster->execute(*running);
}

// Starts a fiber; a context is only used for this: a swap of them would ask the system for the signal mask each time.
[[noreturn]] void start(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack = {fiber.stack, 0, stack_bytes};
  context.uc_link = nullptr;
  makecontext(&context, serve, 0);
  fiber.begun = true;
  setcontext(&context);
  std::abort();
}

float number(bool bf16, uint32_t bits) {
  const auto half = static_cast<uint16_t>(bits);
  return bf16 ? __bfloat162float(__ushort_as_bfloat16(half)) : __half2float(__ushort_as_half(half));
}

// The address of what a plain layout has at `address`, with the 128-byte swizzle.
uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

void run_product(Cluster& cluster, const Warp& warp, const Product& product) {
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
      if (product.left_in_registers) {
        const int lane = row % 8 * 4 + k % 8 / 2, which = row / 8 + k / 8 * 2;
        left[row][k] = number(product.bf16, product.fragments[lane][which] >> (k % 2 * 16));
      } else {
        const int y = warp.number % 4 * 16 + row;
        left[row][k] = at(start(product.left) + y / 8 * eight(product.left) + y % 8 * 128 + k * 2);
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

Thread* running = nullptr;
dim3 gridDim, blockDim;

Device& device() {
  static Device the;
  return the;
}

void fail(const std::string& why) {
  if (running == nullptr) {
    for (Fiber& fiber : fibers()) fiber.begun = false;  // they are in the midst of threads that never go on
    throw std::runtime_error(why);
  }
  Thread& self = *running;
  Cluster& cluster = *self.block->cluster;
  cluster.failure = why + ", in thread " + std::to_string(self.number) + " of block " +
                    std::to_string(self.block->index.x) + ", " + std::to_string(self.block->index.y);
  while (true) cluster.suspend();
}

void park(Event& event, const char* what) {
  running->waits_for = what;
  event.waiting.push_back(running);
  running->block->cluster->suspend();
  running->waits_for = nullptr;
}

void wake(Event& event) {
  for (Thread* const thread : event.waiting) thread->block->cluster->resume(thread);
  event.waiting.clear();
}

void maybe_yield() {
  Cluster& cluster = *running->block->cluster;
  if (!cluster.chance(8)) return;
  cluster.resume(running);
  cluster.suspend();
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

void sync_threads(int name, int count) {
  NamedBarrier& barrier = running->block->barriers[name];
  barrier.count = count;
  ++barrier.arrived;
  if (barrier.arrived == (count == 0 ? running->block->live : count)) {
    barrier.arrived = 0;
    ++barrier.round;
    wake(barrier.event);
    maybe_yield();
  } else {
    wait(barrier.event, "a barrier of the block", [&, before = barrier.round] { return barrier.round != before; });
  }
}

void start_product(const Product& product, float* sums, const uint32_t* fragment) {
  Thread& self = *running;
  Warp& warp = *self.warp;
  const int64_t index = self.products++ - warp.products_done;
  if (index < 0) fail("a product that other lanes have done without this one");
  if (index == static_cast<int64_t>(warp.products.size())) warp.products.push_back(product);
  Product& shared = warp.products[index];
  if (shared.columns != product.columns || shared.turned != product.turned || shared.left != product.left ||
      shared.right != product.right || shared.add != product.add) {
    fail("lanes of a warp start different products");
  }
  shared.sums[self.lane()] = sums;
  if (!product.add) std::fill_n(sums, product.columns / 2, std::numeric_limits<float>::quiet_NaN());  // not there yet
  if (fragment != nullptr) std::copy_n(fragment, 4, shared.fragments[self.lane()].begin());
  shared.started |= 1U << self.lane();
  maybe_yield();
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

Cluster::Cluster(size_t shared_bytes, int size, const std::function<void()>& kernel)
    : kernel_(kernel),
      threads_(static_cast<int>(blockDim.x * blockDim.y * blockDim.z)),
      shared_bytes_(shared_bytes),
      first_(static_cast<uint32_t>(window - (shared_bytes + 15) / 16 * 16)),
      blocks_(static_cast<size_t>(size)),
      random_(device().seed * 0x9E3779B97F4A7C15ULL + device().launches++) {
  shared_ = mapped(stride() * static_cast<size_t>(size));
  for (int rank = 0; rank < size; ++rank) mprotect(shared_ + stride() * (rank + 1) - page_bytes, page_bytes, PROT_NONE);
}

Cluster::~Cluster() { munmap(shared_, stride() * blocks_.size()); }

std::byte* Cluster::memory(uint32_t address, size_t bytes) {
  const uint32_t rank = address >> window_bits, inside = address & (window - 1);
  if (rank >= blocks_.size() || inside < first_ || inside + bytes > first_ + shared_bytes_) {
    fail("an address outside the block's shared memory");
  }
  if (blocks_[rank].live == 0) fail("the shared memory of a block that has ended");
  return shared_ + rank * stride() + inside;
}

uint32_t Cluster::address(const void* p) const {
  const auto offset = static_cast<size_t>(static_cast<const std::byte*>(p) - shared_);
  const size_t rank = offset / stride(), inside = offset % stride();
  if (static_cast<const std::byte*>(p) < shared_ || rank >= blocks_.size() || inside > window) {
    fail("a pointer that is not to the block's shared memory");
  }
  return static_cast<uint32_t>(rank << window_bits | inside);
}

Barrier& Cluster::barrier(uint32_t address, bool init) {
  memory(address, 8);
  if (address % 8 != 0) fail("a barrier at an address that is not a multiple of 8");
  if (init) return barriers_[address];
  const auto found = barriers_.find(address);
  if (found == barriers_.end()) fail("a barrier that was not initialised");
  return found->second;
}

void Cluster::check_phase(Barrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  barrier.pending = barrier.count;
  barrier.phase ^= 1;
  wake(barrier.event);
}

void Cluster::arrive(uint32_t address) {
  Barrier& to = barrier(address);
  if (to.pending == 0) fail("more arrivals at a barrier than its phase has");
  --to.pending;
  check_phase(to);
}

void Cluster::complete(uint32_t address, int64_t bytes) {
  Barrier& to = barrier(address);
  to.bytes -= bytes;
  if (to.pending == 0 && to.bytes < 0) fail("more bytes at a barrier than were expected");
  check_phase(to);
}

std::shared_ptr<Copy> Cluster::later(std::function<void()> task) {
  tasks_.push_back({std::move(task), std::make_shared<Copy>()});
  return tasks_.back().copy;
}

uint64_t Cluster::random() {
  random_ = random_ * 6364136223846793005ULL + 1442695040888963407ULL;
  return random_ >> 33;
}

void Cluster::suspend() {
  if (_setjmp(running->fiber->context) == 0) _longjmp(scheduler_, 1);
}

void Cluster::go_on(Thread& thread) {
  if (_setjmp(scheduler_) != 0) return;
  if (!thread.fiber->begun) start(*thread.fiber);
  _longjmp(thread.fiber->context, 1);
}

void Cluster::arrive_at_cluster_barrier() {
  if (++all_.arrived == live_) {
    all_.arrived = 0;
    ++all_.round;
    wake(all_.event);
  } else {
    wait(all_.event, "the cluster's barrier", [&, before = all_.round] { return all_.round != before; });
  }
}

// One thread from begin to end; comes back when its fiber has another one to serve.
void Cluster::execute(Thread& thread) {
  kernel_();
  Block& block = *thread.block;
  for (const auto& group : thread.store_groups) {
    for (const auto& copy : group) {
      if (!copy->done) fail("a thread ends before what it stores was read from shared memory");
    }
  }
  if (!thread.stores.empty()) fail("a thread ends with a store that it has not committed");
  thread.ended = true;
  --live_;
  --block.live;
  for (auto& [name, barrier] : block.barriers) {
    if (barrier.count == 0 && barrier.arrived > 0 && barrier.arrived == block.live) {
      barrier.arrived = 0;
      ++barrier.round;
      wake(barrier.event);
    }
  }
  if (live_ > 0 && all_.arrived == live_) {
    all_.arrived = 0;
    ++all_.round;
    wake(all_.event);
  }
  suspend();
}

bool Cluster::advance_beside() {
  // A product whose lanes have all started it, or a copy.
  std::vector<Warp*> warps;
  for (Block& block : blocks_) {
    for (Warp& warp : block.warps) {
      if (!warp.products_behind && !warp.products.empty() && warp.products.front().started == ~0U)
        warps.push_back(&warp);
    }
  }
  const size_t all = warps.size() + tasks_.size();
  if (all == 0) return false;
  const size_t which = random() % all;
  if (which < warps.size()) {
    Warp& warp = *warps[which];
    run_product(*this, warp, warp.products.front());
    warp.products.pop_front();
    ++warp.products_done;
    wake(warp.product_done);
    return true;
  }
  std::swap(tasks_[which - warps.size()], tasks_.back());
  const Task task = std::move(tasks_.back());
  tasks_.pop_back();
  task.run();
  task.copy->done = true;
  wake(task.copy->event);
  return true;
}

std::string Cluster::state() const {
  std::map<std::string, int> waiting;
  for (const Block& block : blocks_) {
    for (const Thread& thread : block.threads) {
      if (!thread.ended) ++waiting[thread.waits_for == nullptr ? "nothing" : thread.waits_for];
    }
  }
  std::string all = "nothing can go on:";
  for (const auto& [what, count] : waiting) all += " " + std::to_string(count) + " threads wait for " + what + ";";
  return all;
}

// Threads that are drawn at random get on at one pace. So that some get as far ahead as barriers let them, others fall
// behind now and then: a block's, a warpgroup's of one block or all, or a warp's; or their products.
void Cluster::choose_behind() {
  const size_t warps = blocks_[0].warps.size();
  const uint64_t what = random() % 4, block = random() % (2 * blocks_.size()), warp = random() % warps;
  const uint64_t size = random() % 3;  // of what falls behind
  some_behind_ = what != 0;
  for (Block& each : blocks_) {
    // Half the time in all blocks, but not all of them.
    const bool in_block = block >= blocks_.size() ? size != 0 : each.rank == static_cast<int>(block);
    for (Warp& one : each.warps) {
      const auto number = static_cast<uint64_t>(one.number);
      const bool chosen = in_block && (size == 0 || (size == 1 ? number / 4 == warp / 4 : number == warp));
      one.behind = chosen && (what & 1) != 0;
      one.products_behind = chosen && (what & 2) != 0;
    }
  }
  std::vector<Thread*> all;
  all.swap(ready_);
  all.insert(all.end(), behind_.begin(), behind_.end());
  behind_.clear();
  for (Thread* const thread : all) resume(thread);
}

void Cluster::run(int64_t first) {
  ready_.clear();
  behind_.clear();
  tasks_.clear();
  barriers_.clear();
  all_ = {};
  live_ = 0;
  patience_ = 1U << random() % 8;
  for (size_t rank = 0; rank < blocks_.size(); ++rank) {
    Block& block = blocks_[rank];
    const auto number = static_cast<uint64_t>(first) + rank;
    block = Block{};
    block.cluster = this;
    block.rank = static_cast<int>(rank);
    block.live = threads_;
    block.index = {static_cast<unsigned>(number % gridDim.x), static_cast<unsigned>(number / gridDim.x % gridDim.y),
                   static_cast<unsigned>(number / gridDim.x / gridDim.y)};
    block.threads = std::vector<Thread>(threads_);
    block.warps = std::vector<Warp>((threads_ + 31) / 32);
    std::memset(shared_ + rank * stride() + first_, 0xFF, shared_bytes_);  // not a number, in every format
    for (size_t warp = 0; warp < block.warps.size(); ++warp) {
      block.warps[warp].block = &block;
      block.warps[warp].number = static_cast<int>(warp);
    }
    for (int i = 0; i < threads_; ++i) {
      Thread& thread = block.threads[i];
      thread.number = i;
      thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
      thread.block = &block;
      thread.warp = &block.warps[i / 32];
      thread.fiber = &fiber(rank * threads_ + i);
      ready_.push_back(&thread);
    }
    live_ += threads_;
  }
  choose_behind();
  while (live_ > 0) {
    constexpr unsigned turns = 300000;
    if (chance(turns)) choose_behind();
    if (ready_.empty() || chance(patience_)) {
      if (advance_beside()) continue;
      if (ready_.empty()) {
        if (!some_behind_) fail(state());
        choose_behind();  // until it is nothing: then all others have had their turn
        continue;
      }
    }
    std::swap(ready_[random() % ready_.size()], ready_.back());
    running = ready_.back();
    ready_.pop_back();
    go_on(*running);
    running = nullptr;
    if (!failure.empty()) fail(failure);
  }
  if (!tasks_.empty()) fail("a copy that was not waited for");
  for (const Block& block : blocks_) {
    for (const Warp& warp : block.warps) {
      if (!warp.products.empty()) fail("a matrix product that was not waited for");
    }
  }
}

}  // namespace emulator
