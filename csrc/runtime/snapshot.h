// Copies of a session that the caller keeps: what cannot be cut back in a snapshot, entries of the
// caches apart, since those of a prefix are shared by everything that follows it.
#pragma once

#include <cstdint>

#include "base/status.h"

struct qwen35_session;

namespace q35 {

// A snapshot is a header, the recurrent state and, when the session has any, the kept logits.
uint64_t snapshot_bytes(const qwen35_session &session);
[[nodiscard]] Status take_snapshot(const qwen35_session &session, void *out, uint64_t bytes);
// Nothing changes when the snapshot is refused.
[[nodiscard]] Status restore_snapshot(qwen35_session *session, const void *snapshot,
                                      uint64_t bytes);

[[nodiscard]] Status export_kv(const qwen35_session &session, uint32_t first, uint32_t n, void *out,
                               uint64_t bytes);
[[nodiscard]] Status import_kv(qwen35_session *session, uint32_t first, uint32_t n,
                               const void *entries, uint64_t bytes);

}  // namespace q35
