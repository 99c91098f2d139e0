// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The device of the tests where it is the emulated one. Memory ends at a page that faults.
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

#include "machine.h"
#include "support.h"

namespace kernel_test {
namespace {

constexpr uint8_t untouched = 0xFF;
constexpr int64_t before = 256;

int64_t page() { return sysconf(_SC_PAGESIZE); }
// Up to the page that faults; the start of the numbers is a multiple of 16, as is all that a caller may rely on.
int64_t room(int64_t count) { return (before + (count + 15) / 16 * 16 + page() - 1) / page() * page(); }

}  // namespace

Bytes::Bytes(int64_t count) : count_(count) {
  void* const p = mmap(nullptr, static_cast<size_t>(room(count) + page()), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  all_ = static_cast<uint8_t*>(p);
  mprotect(all_ + room(count), static_cast<size_t>(page()), PROT_NONE);
  std::memset(all_, untouched, static_cast<size_t>(room(count)));
  data_ = all_ + room(count) - (count + 15) / 16 * 16;
}
Bytes::~Bytes() { munmap(all_, static_cast<size_t>(room(count_) + page())); }

void Bytes::write(const void* from) {
  if (count_ > 0) std::memcpy(data_, from, static_cast<size_t>(count_));
}
void Bytes::read(void* to) const {
  if (count_ > 0) std::memcpy(to, data_, static_cast<size_t>(count_));
}
void Bytes::check() const {
  for (const uint8_t* p = all_; p < all_ + room(count_); ++p) {
    if (p == data_ && count_ > 0) p += count_;
    if (p < all_ + room(count_) && *p != untouched) {
      ADD_FAILURE() << "a byte " << (p - data_) << " bytes from the start of " << count_ << " was written";
      return;
    }
  }
}

int processors() { return emulator::device().processors; }
void set_processors(int count) { emulator::device().processors = count; }
bool is_emulated() { return true; }
void set_seed(uint64_t seed) { emulator::device().seed = seed; }

}  // namespace kernel_test
