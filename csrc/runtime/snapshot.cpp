#include "runtime/snapshot.h"

#include <cinttypes>
#include <cstring>

#include "runtime/session.h"

namespace q35 {

namespace {

constexpr uint32_t kMagic = 0x53353351;  // "Q35S"

struct Header {
  uint32_t magic;
  uint32_t position, rotary;
  uint32_t n_logits;  // 0: none were kept
  uint64_t n_recurrent;
};

uint64_t bytes_of(const Header &h) {
  return sizeof h + sizeof(float) * (h.n_recurrent + h.n_logits);
}

Header header_of(const qwen35_session &session) {
  const SequenceState &state = session.state;
  const uint64_t n_logits = session.has_logits ? session.model->config.n_vocab : 0;
  return {kMagic, state.position(), state.rotary(), static_cast<uint32_t>(n_logits),
          state.recurrent_count()};
}

Status check_range(const char *call, const qwen35_session &session, uint32_t first, uint32_t n,
                   uint32_t limit, uint64_t bytes) {
  if (first > limit || n > limit - first) {
    return fail(QWEN35_ERROR_ARGUMENT, "%s: entries %u to %" PRIu64 ", there are %u", call, first,
                uint64_t{first} + n, limit);
  }
  const uint64_t expected = n * session.state.token_bytes();
  if (bytes == expected) return kOk;
  return fail(QWEN35_ERROR_ARGUMENT,
              "%s: expected %" PRIu64 " bytes for %u entries, found %" PRIu64, call, expected, n,
              bytes);
}

}  // namespace

uint64_t state_bytes(const qwen35_session &session) {
  Header h = header_of(session);
  h.n_logits = 0;
  return bytes_of(h);
}

Status check_snapshots(const qwen35_outputs &outputs, size_t n) {
  if (outputs.n_snapshots == 0) return kOk;
  if (outputs.snapshot_at == nullptr || outputs.snapshots == nullptr) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_snapshots is set, snapshot_at or snapshots is NULL");
  }
  size_t last = 0;
  for (uint32_t i = 0; i < outputs.n_snapshots; i++) {
    const uint32_t at = outputs.snapshot_at[i];
    if (at <= last || at > n || outputs.snapshots[i] == nullptr) {
      return fail(QWEN35_ERROR_ARGUMENT,
                  "snapshot %u: expected a place from %zu to %zu and memory for it, found %u", i,
                  last + 1, n, at);
    }
    last = at;
  }
  return kOk;
}

uint8_t *state_of(void *snapshot) {
  return static_cast<uint8_t *>(snapshot) + sizeof(Header);
}

void write_header(const qwen35_session &session, uint32_t n_tokens, void *snapshot) {
  Header h = header_of(session);
  h.n_logits = 0;
  h.position += n_tokens;
  h.rotary += n_tokens;
  std::memcpy(snapshot, &h, sizeof h);
}

uint64_t snapshot_bytes(const qwen35_session &session) {
  return bytes_of(header_of(session));
}

Status take_snapshot(qwen35_session *session, void *out, uint64_t bytes) {
  session->settle();
  const Header h = header_of(*session);
  if (bytes != bytes_of(h)) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "qwen35_session_snapshot: expected %" PRIu64 " bytes, found %" PRIu64, bytes_of(h),
                bytes);
  }
  uint8_t *to = static_cast<uint8_t *>(out);
  std::memcpy(to, &h, sizeof h);
  to += sizeof h;
  std::memcpy(to, session->state.recurrent(), sizeof(float) * h.n_recurrent);
  to += sizeof(float) * h.n_recurrent;
  if (h.n_logits != 0) {
    std::memcpy(to, session->kept(), sizeof(float) * h.n_logits);
  }
  return kOk;
}

Status restore_snapshot(qwen35_session *session, const void *snapshot, uint64_t bytes) {
  SequenceState *state = &session->state;
  Header h = {};
  if (bytes >= sizeof h) std::memcpy(&h, snapshot, sizeof h);
  const bool logits_fit = h.n_logits == 0 || h.n_logits == session->model->config.n_vocab;
  if (h.magic != kMagic || h.n_recurrent != state->recurrent_count() || !logits_fit ||
      bytes != bytes_of(h)) {
    return fail(QWEN35_ERROR_ARGUMENT, "not a snapshot of a session of this model");
  }
  if (h.position > state->filled()) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "the snapshot stands after %u tokens, the session's caches hold %u: import the "
                "entries first",
                h.position, state->filled());
  }
  const uint8_t *from = static_cast<const uint8_t *>(snapshot) + sizeof h;
  session->settle();  // entries before the snapshot may still be due
  state->set_recurrent(from);
  state->cut(h.position, h.rotary);
  session->has_logits = h.n_logits != 0;
  if (session->has_logits) {
    session->keep_logits(reinterpret_cast<const float *>(from + sizeof(float) * h.n_recurrent));
  }
  return kOk;
}

Status export_kv(const qwen35_session &session, uint32_t first, uint32_t n, void *out,
                 uint64_t bytes) {
  Q35_TRY(check_range("qwen35_session_export", session, first, n, session.state.filled(), bytes));
  session.state.export_entries(first, n, static_cast<uint8_t *>(out));
  return kOk;
}

Status import_kv(qwen35_session *session, uint32_t first, uint32_t n, const void *entries,
                 uint64_t bytes) {
  session->settle();  // nothing may write older entries later
  SequenceState *state = &session->state;
  if (first > state->filled()) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "qwen35_session_import: entry %u would leave a gap behind the %u there are", first,
                state->filled());
  }
  Q35_TRY(check_range("qwen35_session_import", *session, first, n, state->capacity(), bytes));
  state->import_entries(first, n, static_cast<const uint8_t *>(entries));
  return kOk;
}

}  // namespace q35
