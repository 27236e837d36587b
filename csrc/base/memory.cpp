#include "base/memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "base/checked.h"

namespace q35 {

namespace {
constexpr uint64_t kHugePage = 2u << 20;
}

Region::~Region() {
  if (base_ != nullptr) munmap(base_, base_size_);
}

Status Region::allocate(uint64_t bytes, bool huge_pages, Region *out) {
  uint64_t padded = 0;
  if (bytes == 0) bytes = 1;
  if (!checked_add(bytes, kHugePage, &padded) || padded > SIZE_MAX) {
    return fail(QWEN35_ERROR_MEMORY, "cannot reserve %llu bytes",
                static_cast<unsigned long long>(bytes));
  }
  void *base = mmap(nullptr, padded, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) {
    return fail(QWEN35_ERROR_MEMORY, "cannot reserve %llu bytes: %s",
                static_cast<unsigned long long>(bytes), std::strerror(errno));
  }
  Region region;
  region.base_ = base;
  region.base_size_ = padded;
  const uintptr_t address = reinterpret_cast<uintptr_t>(base);
  region.data_ = static_cast<uint8_t *>(base) + ((0 - address) & (kHugePage - 1));
  region.size_ = bytes;
#ifdef MADV_HUGEPAGE
  if (huge_pages) madvise(region.data_, bytes, MADV_HUGEPAGE);  // advice only: failure is fine
#else
  (void)huge_pages;
#endif
  *out = std::move(region);
  return kOk;
}

Status Region::map_file(int fd, uint64_t bytes, Region *out) {
  void *base = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
  if (base == MAP_FAILED) {
    const Status code = errno == ENOMEM ? QWEN35_ERROR_MEMORY : QWEN35_ERROR_IO;
    return fail(code, "cannot map %llu bytes: %s", static_cast<unsigned long long>(bytes),
                std::strerror(errno));
  }
  Region region;
  region.base_ = base;
  region.base_size_ = bytes;
  region.data_ = static_cast<uint8_t *>(base);
  region.size_ = bytes;
  *out = std::move(region);
  return kOk;
}

}  // namespace q35
