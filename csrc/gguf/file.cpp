// Opening GGUF files and their shards, look-up by name, and positional reads.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "gguf/gguf.h"
#include "gguf/header.h"

namespace q35::gguf {

namespace {

// Headers of real models are about 12 MB, nearly all of it vocabulary.
constexpr uint64_t kFirstRead = 16u << 20;
constexpr uint64_t kMaxHeader = 256u << 20;
constexpr uint32_t kMaxShards = 512;
constexpr size_t kSuffixBytes = sizeof("-00001-of-00003.gguf") - 1;

const char *base_name(const char *path) {
  const char *slash = std::strrchr(path, '/');
  return slash == nullptr ? path : slash + 1;
}

Status system_error(const char *action, const char *path) {
  const Status code = errno == ENOMEM ? QWEN35_ERROR_MEMORY : QWEN35_ERROR_IO;
  return fail(code, "cannot %s %s: %s", action, path, std::strerror(errno));
}

Status read_at(int fd, const char *path, uint64_t offset, void *dst, uint64_t bytes) {
  uint8_t *at = static_cast<uint8_t *>(dst);
  while (bytes != 0) {
    const size_t piece = std::min<uint64_t>(bytes, 1u << 30);  // the system's limit is 2 GiB
    const ssize_t n = pread(fd, at, piece, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return system_error("read", path);
    if (n == 0) {
      return fail(QWEN35_ERROR_IO,
                  "%s became shorter while it was read: no data at offset %" PRIu64
                  ", expected %" PRIu64 " bytes",
                  path, offset, bytes);
    }
    at += n;
    offset += static_cast<uint64_t>(n);
    bytes -= static_cast<uint64_t>(n);
  }
  return kOk;
}

// Opens a regular file for reading. O_NONBLOCK keeps a named pipe from blocking; it has no effect
// on regular files.
Status open_regular(const char *path, int *fd, uint64_t *bytes) {
  struct stat info;
  *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*fd < 0) return system_error("open", path);
  if (fstat(*fd, &info) != 0) return system_error("examine", path);
  if (S_ISDIR(info.st_mode)) {
    return fail(QWEN35_ERROR_IO, "%s is a directory; expected a GGUF file", path);
  }
  if (!S_ISREG(info.st_mode)) {
    return fail(QWEN35_ERROR_IO, "%s is not a regular file; expected a GGUF file", path);
  }
  *bytes = static_cast<uint64_t>(info.st_size);
  return kOk;
}

// Makes *header hold exactly the first `bytes` bytes of the file; `have` are there already.
Status grow_header(int fd, const char *path, uint64_t have, uint64_t bytes, uint8_t **header) {
  void *grown = std::realloc(*header, bytes == 0 ? 1 : bytes);
  if (grown == nullptr) {
    return fail(QWEN35_ERROR_MEMORY, "out of memory: %" PRIu64 " bytes for the header of %s", bytes,
                path);
  }
  *header = static_cast<uint8_t *>(grown);
  return bytes <= have ? kOk : read_at(fd, path, have, *header + have, bytes - have);
}

// Reads as much of the file as its header takes. The final parse runs over a buffer cut to the
// header's length, so that nothing can refer to bytes behind it.
Status read_header(int fd, const char *path, uint64_t file_bytes, uint8_t **header, Header *out) {
  const char *name = base_name(path);
  uint64_t have = 0;
  uint64_t want = std::min(file_bytes, kFirstRead);
  for (;;) {
    Q35_TRY(grow_header(fd, path, have, want, header));
    have = want;
    const Status status = parse_header(name, *header, have, file_bytes, out);
    if (status == kOk) break;
    if (status != kNeedMore) return status;
    if (out->needed > kMaxHeader) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: the header takes more than %" PRIu64 " bytes, expected at most %" PRIu64,
                  name, out->needed - 1, kMaxHeader);
    }
    want = std::min({std::max(out->needed, have * 4), file_bytes, kMaxHeader});
  }
  Q35_TRY(grow_header(fd, path, have, out->bytes, header));
  return parse_header(name, *header, out->bytes, file_bytes, out);
}

// For "<stem>-00002-of-00003.gguf": true, with the length of the stem and the two numbers.
bool parse_shard_name(const char *path, size_t *stem, uint32_t *number, uint32_t *count) {
  const size_t length = std::strlen(path);
  if (length < kSuffixBytes) return false;
  const char *suffix = path + length - kSuffixBytes;
  const char *pattern = "-ddddd-of-ddddd.gguf";  // d: a digit
  for (size_t i = 0; i < kSuffixBytes; i++) {
    const bool digit = suffix[i] >= '0' && suffix[i] <= '9';
    if (pattern[i] == 'd' ? !digit : suffix[i] != pattern[i]) return false;
  }
  *stem = length - kSuffixBytes;
  *number = static_cast<uint32_t>(std::strtoul(suffix + 1, nullptr, 10));
  *count = static_cast<uint32_t>(std::strtoul(suffix + 10, nullptr, 10));
  return true;
}

const Value *find_value(const Array<Value> &values, std::string_view key) {
  for (const Value &value : values) {
    if (value.key == key) return &value;
  }
  return nullptr;
}

// split.no and split.count are u16, written by some tools as u32.
bool split_number(const Array<Value> &values, std::string_view key, uint32_t *out) {
  const Value *value = find_value(values, key);
  if (value == nullptr) return false;
  if (value->type == ValueType::U16 || value->type == ValueType::I16) {
    uint16_t number = 0;
    std::memcpy(&number, value->data, 2);
    *out = number;
    return true;
  }
  if (value->type != ValueType::U32 && value->type != ValueType::I32) return false;
  std::memcpy(out, value->data, 4);
  return true;
}

// Sorts indices [0, n) by name and refuses a name that occurs twice.
template <class NameOf>
Status sort_by_name(size_t n, const char *what, const NameOf &name_of, Array<uint32_t> *order) {
  Q35_TRY(order->resize(n));
  for (size_t i = 0; i < n; i++) (*order)[i] = static_cast<uint32_t>(i);
  std::sort(order->begin(), order->end(),
            [&](uint32_t a, uint32_t b) { return name_of(a) < name_of(b); });
  for (size_t i = 1; i < n; i++) {
    if (name_of((*order)[i - 1]) == name_of((*order)[i])) {
      return fail(QWEN35_ERROR_MODEL, "%s '%s' occurs twice", what,
                  shown(name_of((*order)[i])).text);
    }
  }
  return kOk;
}

template <class NameOf>
const uint32_t *find_by_name(const Array<uint32_t> &order, std::string_view name,
                             const NameOf &name_of) {
  const uint32_t *at = std::lower_bound(
      order.begin(), order.end(), name,
      [&](uint32_t index, std::string_view wanted) { return name_of(index) < wanted; });
  return at != order.end() && name_of(*at) == name ? at : nullptr;
}

}  // namespace

File::~File() {
  close_shards();
}

void File::close_shards() {
  for (Shard &shard : shards_) {
    if (shard.fd >= 0) close(shard.fd);
    std::free(shard.header);
    std::free(shard.path);
  }
  shards_.clear();
  tensors_.clear();
}

Status File::open_shard(const char *path, Array<Value> *values) {
  Q35_TRY(shards_.push_back({-1, 0, nullptr, nullptr}));
  Shard &shard = shards_.back();
  shard.path = strdup(path);
  if (shard.path == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for a file name");
  Q35_TRY(open_regular(path, &shard.fd, &shard.file_bytes));
  Header header;
  Q35_TRY(read_header(shard.fd, path, shard.file_bytes, &shard.header, &header));
  for (TensorInfo &tensor : header.tensors) {
    tensor.shard = shard_count() - 1;
    Q35_TRY(tensors_.push_back(tensor));
  }
  values->swap(header.values);
  return kOk;
}

// Opens all shards of the model that `path` is one of. The names are derived from `path`, never
// read from a file, so nothing outside its folder is opened.
Status File::open_siblings(const char *path) {
  size_t stem = 0;
  uint32_t number = 0;
  uint32_t count = 0;
  if (!parse_shard_name(path, &stem, &number, &count) || count < 2 || count > kMaxShards ||
      number < 1 || number > count) {
    return fail(QWEN35_ERROR_MODEL,
                "%s is one shard of several: expected a name that ends in -00001-of-0000N.gguf",
                base_name(path));
  }
  Array<char> name;
  Q35_TRY(name.resize(stem + kSuffixBytes + 1));
  std::memcpy(name.data(), path, stem);
  for (uint32_t i = 0; i < count; i++) {
    std::snprintf(name.data() + stem, kSuffixBytes + 1, "-%05u-of-%05u.gguf", (i + 1) % 100000,
                  count % 100000);
    Array<Value> values;
    Q35_TRY(open_shard(name.data(), i == 0 ? &values_ : &values));
    const Array<Value> &own = i == 0 ? values_ : values;
    uint32_t found_number = 0;
    uint32_t found_count = 0;
    if (!split_number(own, "split.no", &found_number) ||
        !split_number(own, "split.count", &found_count) || found_number != i ||
        found_count != count) {
      return fail(QWEN35_ERROR_MODEL,
                  "%s: split.no and split.count: expected %" PRIu32 " of %" PRIu32
                  ", found %" PRIu32 " of %" PRIu32,
                  base_name(name.data()), i, count, found_number, found_count);
    }
  }
  uint32_t expected = 0;
  if (split_number(values_, "split.tensors.count", &expected) && expected != tensors_.size()) {
    return fail(QWEN35_ERROR_MODEL, "%s: key 'split.tensors.count': expected %zu, found %" PRIu32,
                base_name(path), tensors_.size(), expected);
  }
  return kOk;
}

Status File::build_orders() {
  Q35_TRY(
      sort_by_name(values_.size(), "key", [&](uint32_t i) { return values_[i].key; }, &key_order_));
  return sort_by_name(
      tensors_.size(), "tensor", [&](uint32_t i) { return tensors_[i].name; }, &name_order_);
}

Status File::open(const char *path) {
  if (!shards_.empty()) return fail(QWEN35_ERROR_INTERNAL, "File::open was called twice");
  Array<Value> values;
  uint32_t count = 0;
  Q35_TRY(open_shard(path, &values));
  if (split_number(values, "split.count", &count) && count != 1) {
    close_shards();  // start again in the order of the shards, whichever of them was named
    Q35_TRY(open_siblings(path));
  } else {
    values_.swap(values);
  }
  return build_orders();
}

const char *File::shard_path(uint32_t shard) const {
  return shards_[shard].path;
}

int File::shard_fd(uint32_t shard) const {
  return shards_[shard].fd;
}

uint64_t File::shard_bytes(uint32_t shard) const {
  return shards_[shard].file_bytes;
}

const Value *File::find(std::string_view key) const {
  const uint32_t *at = find_by_name(key_order_, key, [&](uint32_t i) { return values_[i].key; });
  return at == nullptr ? nullptr : &values_[*at];
}

const TensorInfo *File::find_tensor(std::string_view name) const {
  const uint32_t *at =
      find_by_name(name_order_, name, [&](uint32_t i) { return tensors_[i].name; });
  return at == nullptr ? nullptr : &tensors_[*at];
}

Status File::read(const TensorInfo &tensor, uint64_t offset, void *dst, uint64_t bytes) const {
  if (offset > tensor.bytes || bytes > tensor.bytes - offset) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "tensor '%s': read of %" PRIu64 " bytes at %" PRIu64 ", it has %" PRIu64 " bytes",
                shown(tensor.name).text, bytes, offset, tensor.bytes);
  }
  const Shard &shard = shards_[tensor.shard];
  return read_at(shard.fd, shard.path, tensor.offset + offset, dst, bytes);
}

Status File::check_unchanged() const {
  for (const Shard &shard : shards_) {
    struct stat info;
    if (fstat(shard.fd, &info) != 0) return system_error("examine", shard.path);
    if (static_cast<uint64_t>(info.st_size) != shard.file_bytes) {
      return fail(QWEN35_ERROR_IO, "%s changed its size from %" PRIu64 " to %" PRIu64 " bytes",
                  shard.path, shard.file_bytes, static_cast<uint64_t>(info.st_size));
    }
  }
  return kOk;
}

}  // namespace q35::gguf
