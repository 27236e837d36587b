// Buffers for kernel checks: the byte after the last is an unmapped page, so that an over-read
// faults; outputs sit between canaries.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace q35 {

// Values that end right before an unmapped page, with `slack` readable bytes after them.
template <class T>
class Guarded {
 public:
  explicit Guarded(size_t count, size_t slack = 0) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t used = (count * sizeof(T) + slack + page - 1) / page * page;
    bytes_ = used + page;
    base_ = static_cast<uint8_t *>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + used, page, PROT_NONE) != 0) {
      std::fprintf(stderr, "check_kernels: cannot map %zu bytes\n", bytes_);
      std::exit(2);
    }
    data_ = reinterpret_cast<T *>(base_ + used - slack - count * sizeof(T));
  }
  ~Guarded() { munmap(base_, bytes_); }
  Guarded(const Guarded &) = delete;
  Guarded &operator=(const Guarded &) = delete;

  T *data() { return data_; }
  const T *data() const { return data_; }
  size_t size() const { return count_; }
  T &operator[](size_t i) { return data_[i]; }
  const T &operator[](size_t i) const { return data_[i]; }

 private:
  uint8_t *base_;
  size_t bytes_, count_;
  T *data_;
};

// Deterministic random numbers (splitmix64).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
  }
  uint32_t below(uint32_t n) { return static_cast<uint32_t>((next() >> 32) * n >> 32); }
  // Uniform in [-1, 1).
  float unit() {
    return static_cast<float>(static_cast<int64_t>(next() >> 40) - (1 << 23)) / (1 << 23);
  }

 private:
  uint64_t state_;
};

}  // namespace q35
