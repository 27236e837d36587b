// Region: a move-only range of address space straight from the operating system.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/status.h"

namespace q35 {

class Region {
 public:
  Region() = default;
  Region(Region &&other) noexcept { swap(other); }
  Region &operator=(Region &&other) noexcept {
    swap(other);
    return *this;
  }
  Region(const Region &) = delete;
  Region &operator=(const Region &) = delete;
  ~Region();

  // Zero pages that take memory only when touched; 2 MiB aligned and advised to use huge pages when
  // huge_pages is set (weights, state), left to small pages otherwise (caches that grow slowly).
  [[nodiscard]] static Status allocate(uint64_t bytes, bool huge_pages, Region *out);
  // Read-only private map of a whole file.
  [[nodiscard]] static Status map_file(int fd, uint64_t bytes, Region *out);

  uint8_t *data() const { return data_; }
  uint64_t size() const { return size_; }

  void swap(Region &other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(base_, other.base_);
    std::swap(base_size_, other.base_size_);
  }

 private:
  uint8_t *data_ = nullptr;
  uint64_t size_ = 0;
  void *base_ = nullptr;  // what was mapped; data_ is aligned inside it
  uint64_t base_size_ = 0;
};

}  // namespace q35
