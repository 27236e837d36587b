// C API: sessions.
#include <new>

#include "api/api.h"
#include "runtime/sampler.h"
#include "runtime/session.h"

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

qwen35_status qwen35_session_create(qwen35_model *model, const qwen35_session_params *params,
                                    qwen35_session **out) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_session_create", "model");
  if (out == nullptr) return refuse_null("qwen35_session_create", "out");
  if (!model->has_weights) {
    return fail(QWEN35_ERROR_ARGUMENT, "the model was opened with vocab_only: it has no weights");
  }
  qwen35_session_params defaults;
  qwen35_session_defaults(&defaults);
  if (params == nullptr) params = &defaults;
  Q35_TRY(check_struct_size("session_params", params->struct_size, sizeof *params));
  if (params->kv_type < QWEN35_KV_AUTO || params->kv_type > QWEN35_KV_Q8_0) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "kv_type: expected 0 (auto), 1 (f32), 2 (f16) or 3 (q8_0), found %d",
                params->kv_type);
  }
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

void qwen35_session_memory(const qwen35_session *session, uint64_t *reserved, uint64_t *committed) {
  if (session == nullptr) return;
  const uint64_t scratch = session->model->batcher.scratch_bytes();
  if (reserved != nullptr) *reserved = session->state.reserved_bytes() + scratch;
  if (committed != nullptr) *committed = session->state.committed_bytes() + scratch;
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
