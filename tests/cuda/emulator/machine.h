// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// A GPU's multiprocessors on a CPU, for tests of kernels' logic: each CUDA thread is a fiber with its own stack, of
// which one runs at a time, until it waits. What runs next is drawn at random, some fall behind the others, and copies
// and products that the hardware runs beside the threads happen at random too, at the latest when nothing else can go
// on: a wait that is missing shows as a wrong result for some seeds, one too many as a deadlock. Results say nothing of
// a real GPU's speed, of its caches and memory model, nor of registers.
#pragma once

#include <setjmp.h>
#include <vector_types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <vector>

namespace emulator {

// Of an address of shared memory, what is in a block; above it stands the block's rank in its cluster.
constexpr uint32_t window_bits = 18, window = 1U << window_bits;
constexpr uint32_t address_in(uint32_t address, uint32_t rank) { return address % window | rank << window_bits; }
// The address of what a plain layout has at `address`, with the 128-byte swizzle.
constexpr uint32_t swizzled(uint32_t address) { return address ^ (address >> 7 & 7) << 4; }

// What the next launches run on.
struct Device {
  int major = 9;        // compute capability
  int processors = 4;   // few: blocks that stay then take several tiles of small matrices
  int clusters = 3;     // how many fit at once, of any size
  int shared = 232448;  // bytes, that a block may ask for
  uint64_t seed = 0;    // of what comes first
  uint64_t launches = 0;
  std::string launched;  // a line for each launch, with the types of the kernel's parameters
};
Device& device();

class Cluster;
struct Block;
struct Warp;
struct Thread;

extern Thread* running;
extern dim3 gridDim, blockDim;  // of the launch

// Ends the launch with a std::runtime_error: a kernel did what has no defined result.
[[noreturn]] void fail(const std::string& why);

// Threads that wait for the same thing.
struct Event {
  std::vector<Thread*> waiting;
};

// Lets the running thread wait until `ready`, which is asked again whenever the event is woken.
template <class Ready>
void wait(Event& event, const char* what, const Ready& ready);
void park(Event& event, const char* what);
void wake(Event& event);

struct Copy {
  bool done = false;
  Event event;
};

// A stack and where it goes on. It serves one thread after another.
struct Fiber {
  std::byte* stack = nullptr;
  bool begun = false;
  jmp_buf context{};
};

struct Thread {
  uint3 index{};
  int number = 0;  // in its block
  Block* block = nullptr;
  Warp* warp = nullptr;
  Fiber* fiber = nullptr;
  bool ended = false;
  const char* waits_for = nullptr;

  // Copies and products of this thread that may still be under way, by the groups they were committed in.
  using Group = std::vector<std::shared_ptr<Copy>>;
  Group copies, stores;
  std::deque<Group> copy_groups, store_groups;
  int64_t products = 0;                 // that it has started
  std::vector<int64_t> product_groups;  // how many those were at each commit

  int lane() const { return number % 32; }
};

// A matrix product of a warpgroup, as far as one warp's 16 rows go (kernels/cuda/hopper.h).
enum class Left { rows, columns, registers };  // what lies together in memory, or that nothing does

struct Product {
  int columns;
  bool bf16, turned;
  Left left_as;
  uint64_t left, right;  // descriptors
  bool add;
  uint32_t started = 0;  // lanes
  std::array<float*, 32> sums{};
  std::array<std::array<uint32_t, 4>, 32> fragments{};
};

// What lanes of a warp show each other.
struct Exchange {
  const char* what;
  uint32_t mask, arrived = 0;
  std::array<std::array<std::byte, 32>, 32> values{};
  Event event;
};

struct Warp {
  Block* block = nullptr;
  int number = 0;
  std::map<uint32_t, std::shared_ptr<Exchange>> exchanges;  // by the lanes that take part
  std::deque<Product> products;                             // not done
  int64_t products_done = 0;
  Event product_done;
  bool behind = false, products_behind = false;  // nothing of it, or of its products, happens while others can go on
};

struct NamedBarrier {
  int arrived = 0, count = 0;
  int64_t round = 0;
  Event event;

  void arrive(int all, const char* what);  // and waits for so many
  void release();
};

struct Block {
  Cluster* cluster = nullptr;
  uint3 index{};
  int rank = 0, live = 0;  // in its cluster; threads that have not ended
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::map<int, NamedBarrier> barriers;
};

// mbarrier
struct Barrier {
  int count = 0, pending = 0;
  int64_t bytes = 0;  // still to come
  uint32_t phase = 0;
  Event event;
};

// The blocks that can reach each other's shared memory, and all that is under way in them.
class Cluster {
 public:
  Cluster(size_t shared_bytes, int size, const std::function<void()>& kernel);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  // Blocks first, first + 1, ... of the grid.
  void run(int64_t first);

  // Memory behind an address, of so many bytes, which must lie in what a block has asked for.
  std::byte* memory(uint32_t address, size_t bytes);
  uint32_t address(const void* p) const;
  uint32_t first_address() const { return first_; }  // in a block, of what was asked for

  Barrier& barrier(uint32_t address, bool init = false);
  void arrive(uint32_t barrier);
  void complete(uint32_t barrier, int64_t bytes);

  // Something that happens by itself later.
  std::shared_ptr<Copy> later(std::function<void()> task);
  bool chance(unsigned one_in) { return random() % one_in == 0; }
  void resume(Thread* thread) { (thread->warp->behind ? behind_ : ready_).push_back(thread); }
  void suspend();
  void arrive_at_cluster_barrier();
  void execute(Thread& thread);

  std::string failure;

 private:
  struct Task {
    std::function<void()> run;
    std::shared_ptr<Copy> copy;
  };
  [[gnu::noinline]] void go_on(Thread& thread);  // its frame is that of its setjmp
  uint64_t random();
  void choose_behind();
  bool advance_beside();  // one copy or product; false if there is none
  void check_phase(Barrier& barrier);
  std::string state() const;

  std::function<void()> kernel_;
  int threads_;  // of a block
  size_t shared_bytes_;
  uint32_t first_;
  std::byte* shared_ = nullptr;
  std::vector<Block> blocks_;
  std::vector<Thread*> ready_, behind_;
  bool some_behind_ = false;
  std::vector<Task> tasks_;
  std::unordered_map<uint32_t, Barrier> barriers_;
  NamedBarrier all_;
  int live_ = 0;
  unsigned patience_ = 2;
  jmp_buf scheduler_{};
  uint64_t random_;
};

template <class Ready>
void wait(Event& event, const char* what, const Ready& ready) {
  while (!ready()) park(event, what);
}

// Sometimes lets others go first.
void maybe_yield();

// All lanes of the mask: each gets what the others brought.
std::shared_ptr<Exchange> exchange(uint32_t mask, const void* value, size_t bytes, const char* what);
template <class V>
std::array<V, 32> exchanged(uint32_t mask, const V& value, const char* what) {
  static_assert(sizeof(V) <= 32 && std::is_trivially_copyable_v<V>);
  const auto all = exchange(mask, &value, sizeof(V), what);
  std::array<V, 32> values;
  for (int lane = 0; lane < 32; ++lane) std::memcpy(&values[lane], all->values[lane].data(), sizeof(V));
  return values;
}

// So many threads of the block; 0: all that have not ended.
void sync_threads(int name, int count);

// The number that the lower half has.
float number(bool bf16, uint32_t bits);

void start_product(const Product& product, float* sums, const uint32_t* fragment);
void run_first_product(Warp& warp);  // which all lanes have started
void commit_products();
void wait_for_products(int pending);

void commit(Thread::Group& open, std::deque<Thread::Group>& groups);
void wait_for_groups(std::deque<Thread::Group>& groups, int pending, const char* what);

}  // namespace emulator
