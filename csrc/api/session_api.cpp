// C API: sessions.
#include <new>

#include "api/api.h"
#include "runtime/sampler.h"
#include "runtime/session.h"
#include "runtime/snapshot.h"

using q35::check_struct_size;
using q35::clear_error;
using q35::fail;
using q35::kOk;
using q35::refuse_null;
using q35::Status;

void qwen35_session_defaults(qwen35_session_params *params) {
  if (params == nullptr) return;
  *params = {};
  params->struct_size = sizeof *params;
}

namespace {

// Fills in the defaults where there are no parameters.
Status check_session_params(const qwen35_session_params **params, qwen35_session_params *defaults) {
  qwen35_session_defaults(defaults);
  if (*params == nullptr) *params = defaults;
  Q35_TRY(check_struct_size("session_params", (*params)->struct_size, sizeof **params));
  if ((*params)->kv_type < QWEN35_KV_AUTO || (*params)->kv_type > QWEN35_KV_IQ4_NL) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "kv_type: expected 0 (auto), 1 (f32), 2 (f16), 3 (q8_0) or 4 (iq4_nl), found %d",
                (*params)->kv_type);
  }
  return kOk;
}

}  // namespace

qwen35_status qwen35_session_create(qwen35_model *model, const qwen35_session_params *params,
                                    qwen35_session **out) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_session_create", "model");
  if (out == nullptr) return refuse_null("qwen35_session_create", "out");
  if (!model->has_weights) {
    return fail(QWEN35_ERROR_ARGUMENT, "the model was opened with vocab_only: it has no weights");
  }
  qwen35_session_params defaults;
  Q35_TRY(check_session_params(&params, &defaults));
  qwen35_session *session = new (std::nothrow) qwen35_session(model);
  if (session == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for a session handle");
  const Status status = session->init(*params);
  if (status != kOk) {
    delete session;
    return status;
  }
  *out = session;
  return kOk;
}

void qwen35_session_close(qwen35_session *session) {
  delete session;
}

uint32_t qwen35_session_position(const qwen35_session *session) {
  return session == nullptr ? 0 : session->state.position();
}

uint32_t qwen35_session_context(const qwen35_session *session) {
  return session == nullptr ? 0 : session->state.capacity();
}

void qwen35_session_reset(qwen35_session *session) {
  if (session != nullptr) session->reset();
}

qwen35_status qwen35_session_eval(qwen35_session *session, const int32_t *tokens, size_t n,
                                  const qwen35_outputs *outputs, qwen35_progress progress,
                                  void *user) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_eval", "session");
  if (tokens == nullptr) return refuse_null("qwen35_session_eval", "tokens");
  if (n == 0) return fail(QWEN35_ERROR_ARGUMENT, "qwen35_session_eval: no tokens given");
  qwen35_outputs wanted = {};
  if (outputs != nullptr) {
    Q35_TRY(check_struct_size("outputs", outputs->struct_size, sizeof *outputs));
    wanted = *outputs;
  }
  Q35_TRY(q35::check_snapshots(wanted, n));
  return session->eval(tokens, n, wanted, progress, user);
}

qwen35_status qwen35_session_eval_picture(qwen35_session *session, const float *rows,
                                          uint32_t grid_rows, uint32_t grid_columns,
                                          float *hidden_sum, qwen35_progress progress, void *user) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_eval_picture", "session");
  if (rows == nullptr) return refuse_null("qwen35_session_eval_picture", "rows");
  if (grid_rows == 0 || grid_columns == 0) {
    return fail(QWEN35_ERROR_ARGUMENT, "qwen35_session_eval_picture: an empty picture");
  }
  return session->eval_picture(rows, grid_rows, grid_columns, hidden_sum, progress, user);
}

void qwen35_session_cancel(qwen35_session *session) {
  if (session != nullptr) session->cancel.store(1);
}

void qwen35_session_clear_cancel(qwen35_session *session) {
  if (session != nullptr) session->cancel.store(0);
}

qwen35_status qwen35_session_estimate(const qwen35_model *model, int32_t n_threads,
                                      const qwen35_session_params *params,
                                      qwen35_session_needs *out) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_session_estimate", "model");
  if (out == nullptr) return refuse_null("qwen35_session_estimate", "out");
  qwen35_session_params defaults;
  Q35_TRY(check_session_params(&params, &defaults));
  if (n_threads < 0 || n_threads > 1024) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_threads: expected 0 to 1024, found %d", n_threads);
  }
  return q35::estimate_session(*model, n_threads, *params, out);
}

void qwen35_session_memory(const qwen35_session *session, uint64_t *reserved, uint64_t *committed) {
  if (session == nullptr) return;
  const uint64_t scratch = session->model->batcher.scratch_bytes();
  if (reserved != nullptr) *reserved = session->state.reserved_bytes() + scratch;
  if (committed != nullptr) *committed = session->state.committed_bytes() + scratch;
}

uint64_t qwen35_session_snapshot_bytes(const qwen35_session *session) {
  return session == nullptr ? 0 : q35::snapshot_bytes(*session);
}

uint64_t qwen35_session_state_bytes(const qwen35_session *session) {
  return session == nullptr ? 0 : q35::state_bytes(*session);
}

qwen35_status qwen35_session_snapshot(const qwen35_session *session, void *out, uint64_t bytes) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_snapshot", "session");
  if (out == nullptr) return refuse_null("qwen35_session_snapshot", "out");
  return q35::take_snapshot(*session, out, bytes);
}

qwen35_status qwen35_session_restore(qwen35_session *session, const void *snapshot,
                                     uint64_t bytes) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_restore", "session");
  if (snapshot == nullptr) return refuse_null("qwen35_session_restore", "snapshot");
  return q35::restore_snapshot(session, snapshot, bytes);
}

uint64_t qwen35_session_token_bytes(const qwen35_session *session) {
  return session == nullptr ? 0 : session->state.token_bytes();
}

qwen35_status qwen35_session_export(const qwen35_session *session, uint32_t first, uint32_t n,
                                    void *out, uint64_t bytes) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_export", "session");
  if (out == nullptr) return refuse_null("qwen35_session_export", "out");
  return q35::export_kv(*session, first, n, out, bytes);
}

qwen35_status qwen35_session_import(qwen35_session *session, uint32_t first, uint32_t n,
                                    const void *entries, uint64_t bytes) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_import", "session");
  if (entries == nullptr) return refuse_null("qwen35_session_import", "entries");
  return q35::import_kv(session, first, n, entries, bytes);
}

qwen35_status qwen35_session_sample(qwen35_session *session, qwen35_sampler *sampler,
                                    qwen35_sample *out) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_sample", "session");
  if (sampler == nullptr) return refuse_null("qwen35_session_sample", "sampler");
  if (out == nullptr) return refuse_null("qwen35_session_sample", "out");
  if (sampler->sampler.n_vocab() != static_cast<int32_t>(session->kept_logits.size())) {
    return fail(
        QWEN35_ERROR_ARGUMENT,
        "qwen35_session_sample: the sampler is for a vocabulary of %d, the session's is %zu",
        sampler->sampler.n_vocab(), session->kept_logits.size());
  }
  if (!session->has_logits) {
    return fail(QWEN35_ERROR_ARGUMENT, "no logits to sample from: evaluate tokens first");
  }
  return sampler->sampler.sample(session->kept_logits.data(), out);
}
