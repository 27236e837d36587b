// Array<T>: a growable array of trivial values whose allocation failures are statuses, not throws.
#pragma once

#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#include "base/checked.h"
#include "base/status.h"

namespace q35 {

template <class T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>, "Array moves its elements with memcpy");

 public:
  Array() = default;
  Array(Array &&other) noexcept { swap(other); }
  Array &operator=(Array &&other) noexcept {
    swap(other);
    return *this;
  }
  Array(const Array &) = delete;
  Array &operator=(const Array &) = delete;
  ~Array() { std::free(data_); }

  T *data() { return data_; }
  const T *data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T &operator[](size_t i) { return data_[i]; }
  const T &operator[](size_t i) const { return data_[i]; }
  T *begin() { return data_; }
  T *end() { return data_ + size_; }
  const T *begin() const { return data_; }
  const T *end() const { return data_ + size_; }
  T &back() { return data_[size_ - 1]; }
  void clear() { size_ = 0; }
  void pop_back() { size_--; }
  // Keeps the first n elements; n <= size().
  void truncate(size_t n) { size_ = n; }

  [[nodiscard]] Status reserve(size_t n) {
    if (n <= capacity_) return kOk;
    uint64_t bytes = 0;
    if (!checked_mul(n, sizeof(T), &bytes) || !checked_round_up(bytes, 64, &bytes)) {
      return fail(QWEN35_ERROR_MEMORY, "array of %zu elements is too large", n);
    }
    T *grown = static_cast<T *>(std::aligned_alloc(64, bytes));
    if (grown == nullptr) {
      return fail(QWEN35_ERROR_MEMORY, "out of memory: %llu bytes",
                  static_cast<unsigned long long>(bytes));
    }
    if (size_ != 0) std::memcpy(static_cast<void *>(grown), data_, size_ * sizeof(T));
    std::free(data_);
    data_ = grown;
    capacity_ = n;
    return kOk;
  }

  // New elements are zero bytes.
  [[nodiscard]] Status resize(size_t n) {
    Q35_TRY(reserve(n));
    if (n > size_) std::memset(static_cast<void *>(data_ + size_), 0, (n - size_) * sizeof(T));
    size_ = n;
    return kOk;
  }

  [[nodiscard]] Status push_back(const T &value) {
    if (size_ == capacity_) {
      const T copy = value;  // `value` may live in this array
      Q35_TRY(reserve(capacity_ == 0 ? 16 : capacity_ * 2));
      data_[size_++] = copy;
      return kOk;
    }
    data_[size_++] = value;
    return kOk;
  }

  [[nodiscard]] Status append(const T *values, size_t n) {
    if (n == 0) return kOk;
    if (n > capacity_ - size_) {
      Q35_TRY(reserve(size_ + n > capacity_ * 2 ? size_ + n : capacity_ * 2));
    }
    std::memcpy(static_cast<void *>(data_ + size_), values, n * sizeof(T));
    size_ += n;
    return kOk;
  }

  void swap(Array &other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

 private:
  T *data_ = nullptr;
  size_t size_ = 0;
  size_t capacity_ = 0;
};

}  // namespace q35
