#include "model/tensor_slots.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <new>

#include "base/array.h"
#include "base/checked.h"
#include "base/cpu.h"
#include "base/thread_pool.h"

namespace q35 {

namespace {

using gguf::File;
using gguf::shown;
using gguf::TensorInfo;

constexpr uint64_t kAlign = 64;  // a cache line and the widest vector
constexpr uint64_t kGuard = 64;  // bytes behind a matrix that kernels may read and ignore
constexpr uint64_t kPage =
    4096;  // the smallest page: what lies behind a file's end up to here is 0
constexpr uint64_t kPiece =
    4u << 20;  // one read: large against a system call, small against a share
constexpr uint64_t kWovenPiece = 256u << 10;  // one that is woven: stays in the cache

// A part of a matrix on its way from the file to memory.
struct Piece {
  const TensorInfo *info;
  uint64_t offset;  // in the tensor
  uint64_t bytes;
  uint8_t *dst;
  WeaveFn weave;  // null: as in the file
  uint64_t row_bytes;
};

uint64_t slot_elements(const TensorSlot &slot) {
  return slot.rows * slot.cols;
}

// A mapped matrix whose guard would reach beyond the last mapped page is read instead.
bool can_map(const TensorInfo &info, const Region &map) {
  uint64_t end = 0;
  return checked_round_up(map.size(), kPage, &end) && info.offset + info.bytes + kGuard <= end;
}

// Whether the tensor gets room in the private storage.
bool is_private(const TensorSlot &slot, const TensorStore &w) {
  return slot.vector != nullptr || w.maps == nullptr ||
         !can_map(*slot.info, w.maps[slot.info->shard]);
}

// Sum of the private tensors' room.
Status storage_bytes(const Array<TensorSlot> &slots, const TensorStore &w, uint64_t *out) {
  uint64_t total = 0;
  for (const TensorSlot &slot : slots) {
    if (!is_private(slot, w)) continue;
    const uint64_t bytes = slot.vector != nullptr ? slot_elements(slot) * 4 : slot.info->bytes;
    uint64_t room = 0;
    if (!checked_add(bytes, kGuard, &room) || !checked_round_up(room, kAlign, &room) ||
        !checked_add(total, room, &total)) {
      return fail(QWEN35_ERROR_MEMORY, "the weights do not fit the address space");
    }
  }
  *out = total;
  return kOk;
}

// Reads a small float tensor as F32 and checks its values.
Status load_vector(const File &file, const TensorSlot &slot, float *dst) {
  const TensorInfo &info = *slot.info;
  const uint64_t n = slot_elements(slot);
  if (info.type == DType::F32) {
    Q35_TRY(file.read(info, 0, dst, info.bytes));
  } else {
    Array<uint8_t> raw;
    Q35_TRY(raw.resize(info.bytes));
    Q35_TRY(file.read(info, 0, raw.data(), info.bytes));
    type_traits(info.type).decode(raw.data(), dst, n);
  }
  for (uint64_t i = 0; i < n; i++) {
    if (std::isfinite(dst[i]) && !(slot.never_positive && dst[i] > 0)) continue;
    return fail(QWEN35_ERROR_MODEL,
                "tensor '%s' at offset %" PRIu64 ": element %" PRIu64 ": expected %s, found %g",
                slot.name, info.offset, i, slot.never_positive ? "a value <= 0" : "a finite value",
                static_cast<double>(dst[i]));
  }
  return kOk;
}

void bind_matrix(const TensorSlot &slot, const uint8_t *data, bool woven) {
  Matrix *m = slot.matrix;
  m->data = data;
  m->woven = woven;
  m->type = slot.info->type;
  m->rows = static_cast<uint32_t>(slot.rows);
  m->cols = static_cast<uint32_t>(slot.cols);
  m->row_bytes = slot.info->bytes / slot.rows;
}

// Pieces of a matrix; only whole groups of rows are woven.
Status add_pieces(const TensorSlot &slot, uint8_t *dst, WeaveFn weave, Array<Piece> *pieces) {
  const TensorInfo &info = *slot.info;
  const uint64_t row_bytes = info.bytes / slot.rows, group_bytes = kWovenRows * row_bytes;
  const uint64_t woven = weave != nullptr ? slot.rows / kWovenRows * group_bytes : 0;
  const uint64_t step = std::max<uint64_t>(kWovenPiece / group_bytes, 1) * group_bytes;
  for (uint64_t at = 0; at < woven; at += step) {
    Q35_TRY(pieces->push_back({&info, at, std::min(step, woven - at), dst + at, weave, row_bytes}));
  }
  for (uint64_t at = woven; at < info.bytes; at += kPiece) {
    const uint64_t bytes = std::min(kPiece, info.bytes - at);
    Q35_TRY(pieces->push_back({&info, at, bytes, dst + at, nullptr, row_bytes}));
  }
  return kOk;
}

// scratch: room for a woven piece and its guard
Status read_piece(const File &file, const Piece &piece, uint8_t *scratch) {
  const TensorInfo &info = *piece.info;
  if (piece.weave == nullptr) return file.read(info, piece.offset, piece.dst, piece.bytes);
  Q35_TRY(file.read(info, piece.offset, scratch, piece.bytes));
  const uint32_t n_blocks =
      static_cast<uint32_t>(piece.row_bytes / type_traits(info.type).block_bytes);
  for (uint64_t at = 0; at < piece.bytes; at += kWovenRows * piece.row_bytes) {
    piece.weave(scratch + at, piece.row_bytes, n_blocks, piece.dst + at);
  }
  return kOk;
}

// Reads all pieces. Messages belong to a thread, so a piece that fails on a worker (or was skipped)
// is tried once more here, where its message reaches the caller.
Status read_pieces(const File &file, const Array<Piece> &pieces, ThreadPool *pool) {
  uint64_t room = 0;
  for (const Piece &piece : pieces) {
    if (piece.weave != nullptr) room = std::max(room, piece.bytes + kGuard);
  }
  Array<uint8_t> done, scratch;
  Q35_TRY(done.resize(pieces.size()));
  Q35_TRY(scratch.resize(room * (pool != nullptr ? pool->size() : 1)));
  if (pool != nullptr) {
    pool->run(static_cast<uint32_t>(pieces.size()), [&](uint32_t i, int thread) {
      done[i] = read_piece(file, pieces[i], scratch.data() + thread * room) == kOk;
    });
  }
  for (size_t i = 0; i < pieces.size(); i++) {
    if (!done[i]) Q35_TRY(read_piece(file, pieces[i], scratch.data()));
  }
  return kOk;
}

Status map_shards(const File &file, TensorStore *w) {
  Q35_TRY(file.check_unchanged());
  w->maps.reset(new (std::nothrow) Region[file.shard_count()]);
  if (w->maps == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for the maps of shards");
  for (uint32_t i = 0; i < file.shard_count(); i++) {
    Q35_TRY(Region::map_file(file.shard_fd(i), file.shard_bytes(i), &w->maps[i]));
  }
  return kOk;
}

// Refuses now what would end in swapping or in the process being killed: pages are committed only
// while the weights are read.
Status check_memory(uint64_t need) {
  const uint64_t have = available_memory();
  if (have == 0 || need <= have) return kOk;
  return fail(
      QWEN35_ERROR_MEMORY,
      "the weights need %.2f GB, %.2f GB of memory are available: take a file of fewer bits, "
      "or use_mmap to leave them on disk",
      1e-9 * static_cast<double>(need), 1e-9 * static_cast<double>(have));
}

// Gives every slot its memory: vectors and private matrices in w->memory, the others in the maps.
Status fill_slots(const File &file, const Array<TensorSlot> &slots, const WeaveFn *weave,
                  ThreadPool *pool, TensorStore *w) {
  uint64_t total = 0;
  Q35_TRY(storage_bytes(slots, *w, &total));
  Q35_TRY(check_memory(total));
  Q35_TRY(Region::allocate(total, true, &w->memory));
  uint8_t *next = w->memory.data();
  Array<Piece> pieces;
  for (const TensorSlot &slot : slots) {
    const TensorInfo &info = *slot.info;
    w->n_params += slot_elements(slot);
    w->bytes += info.bytes;
    if (!is_private(slot, *w)) {
      bind_matrix(slot, w->maps[info.shard].data() + info.offset, false);
      continue;
    }
    const uint64_t bytes = slot.vector != nullptr ? slot_elements(slot) * 4 : info.bytes;
    if (slot.vector != nullptr) {
      Q35_TRY(load_vector(file, slot, reinterpret_cast<float *>(next)));
      *slot.vector = reinterpret_cast<const float *>(next);
    } else {
      const WeaveFn fn = weave[static_cast<uint32_t>(info.type)];
      bind_matrix(slot, next, fn != nullptr);
      Q35_TRY(add_pieces(slot, next, fn, &pieces));
    }
    next += (bytes + kGuard + kAlign - 1) / kAlign * kAlign;
  }
  return read_pieces(file, pieces, pool);
}

// The dimensions of a slot for messages, without those of 1 behind the second.
struct ShapeText {
  char text[96];

  explicit ShapeText(const TensorSlot &slot) {
    int n = std::snprintf(text, sizeof text, "[%" PRIu64 ", %" PRIu64, slot.ne[0], slot.ne[1]);
    for (int i = 2; i < 4 && slot.ne[2] * slot.ne[3] != 1; i++) {
      n += std::snprintf(text + n, sizeof text - n, ", %" PRIu64, slot.ne[i]);
    }
    std::snprintf(text + n, sizeof text - n, "]");
  }
};

Status check_slot(const TensorSlot &slot) {
  const TensorInfo &info = *slot.info;
  if (!std::equal(info.ne, info.ne + 4, slot.ne)) {
    return fail(QWEN35_ERROR_MODEL,
                "tensor '%s' at offset %" PRIu64 ": expected shape %s, found [%" PRIu64 ", %" PRIu64
                ", %" PRIu64 ", %" PRIu64 "]",
                slot.name, info.offset, ShapeText(slot).text, info.ne[0], info.ne[1], info.ne[2],
                info.ne[3]);
  }
  const bool is_float =
      info.type == DType::F32 || info.type == DType::F16 || info.type == DType::BF16;
  if (slot.vector != nullptr && !is_float) {
    return fail(QWEN35_ERROR_UNSUPPORTED,
                "tensor '%s' at offset %" PRIu64 ": expected type F32, F16 or BF16, found %s",
                slot.name, info.offset, type_traits(info.type).name);
  }
  return kOk;
}

}  // namespace

Status match_slots(const File &file, const char *what, bool (*ignored)(std::string_view),
                   Array<TensorSlot> *slots) {
  Array<uint8_t> claimed;
  Q35_TRY(claimed.resize(file.tensors().size()));
  for (TensorSlot &slot : *slots) {
    slot.info = file.find_tensor(slot.name);
    if (slot.info == nullptr) {
      return fail(QWEN35_ERROR_MODEL, "tensor '%s' is missing: expected shape %s", slot.name,
                  ShapeText(slot).text);
    }
    Q35_TRY(check_slot(slot));
    claimed[slot.info - file.tensors().data()] = 1;
  }
  for (size_t i = 0; i < claimed.size(); i++) {
    const TensorInfo &tensor = file.tensors()[i];
    if (claimed[i] || ignored(tensor.name)) continue;
    return fail(QWEN35_ERROR_UNSUPPORTED,
                "tensor '%s' at offset %" PRIu64 " is not part of %s of %zu tensors",
                shown(tensor.name).text, tensor.offset, what, slots->size());
  }
  return kOk;
}

Status load_slots(const File &file, const Array<TensorSlot> &slots, bool use_mmap,
                  const WeaveFn *weave, ThreadPool *pool, TensorStore *out) {
  if (use_mmap) Q35_TRY(map_shards(file, out));
  return fill_slots(file, slots, weave, pool, out);
}

}  // namespace q35
