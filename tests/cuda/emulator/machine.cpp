// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "machine.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
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

void Cluster::arrive_at_cluster_barrier() { all_.arrive(live_, "the cluster's barrier"); }

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
    if (barrier.count == 0 && barrier.arrived > 0 && barrier.arrived == block.live) barrier.release();
  }
  if (live_ > 0 && all_.arrived == live_) all_.release();
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
    run_first_product(*warps[which]);
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
