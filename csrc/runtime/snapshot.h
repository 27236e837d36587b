// Copies of a session that the caller keeps: what cannot be cut back in a snapshot, entries of the
// caches apart, since those of a prefix are shared by everything that follows it.
#pragma once

#include <cstdint>

#include "base/status.h"
#include "include/qwen35.h"

struct qwen35_session;

namespace q35 {

// A snapshot is a header, the recurrent state and, when the session has any, the kept logits.
uint64_t snapshot_bytes(const qwen35_session &session);
uint64_t state_bytes(const qwen35_session &session);  // of one without logits
[[nodiscard]] Status take_snapshot(const qwen35_session &session, void *out, uint64_t bytes);
// Nothing changes when the snapshot is refused.
[[nodiscard]] Status restore_snapshot(qwen35_session *session, const void *snapshot,
                                      uint64_t bytes);

// Snapshots on the way through an eval of n tokens: are they well-formed; where the state belongs
// that one will have, and what to put before it: n_tokens of text follow the position.
[[nodiscard]] Status check_snapshots(const qwen35_outputs &outputs, size_t n);
uint8_t *state_of(void *snapshot);
void write_header(const qwen35_session &session, uint32_t n_tokens, void *snapshot);

[[nodiscard]] Status export_kv(const qwen35_session &session, uint32_t first, uint32_t n, void *out,
                               uint64_t bytes);
[[nodiscard]] Status import_kv(qwen35_session *session, uint32_t first, uint32_t n,
                               const void *entries, uint64_t bytes);

}  // namespace q35
