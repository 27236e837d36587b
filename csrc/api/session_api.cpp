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

namespace {

Status check_vocabulary(const char *call, const qwen35_session &session,
                        const qwen35_sampler &sampler) {
  const uint32_t n_vocab = session.model->config.n_vocab;
  if (sampler.sampler.n_vocab() == static_cast<int32_t>(n_vocab)) return kOk;
  return fail(QWEN35_ERROR_ARGUMENT,
              "%s: the sampler is for a vocabulary of %d, the session's is %u", call,
              sampler.sampler.n_vocab(), n_vocab);
}

Status check_limits(const qwen35_limits &limits) {
  Q35_TRY(check_struct_size("limits", limits.struct_size, sizeof limits));
  if (limits.follow == nullptr) return refuse_null("qwen35_session_decode", "limits->follow");
  if (limits.allow == nullptr) return refuse_null("qwen35_session_decode", "limits->allow");
  return kOk;
}

// Whether what an eval gives of branches can be given.
Status check_branch_outputs(const qwen35_outputs &outputs) {
  if (outputs.n_branches == 0) return kOk;
  if (outputs.branch_lengths == nullptr || outputs.branch_tokens == nullptr) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "n_branches is set, branch_lengths or branch_tokens is NULL");
  }
  if (outputs.logits == nullptr || outputs.hidden != nullptr || outputs.hidden_sum != nullptr) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "branches give logits only: expected logits, and neither hidden nor hidden_sum");
  }
  return kOk;
}

}  // namespace

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
  if ((*params)->draft > (QWEN35_DRAFT_MTP | QWEN35_DRAFT_LOOKUP | QWEN35_DRAFT_ALWAYS)) {
    return fail(QWEN35_ERROR_ARGUMENT, "draft: expected a sum of QWEN35_DRAFT_*, found %u",
                (*params)->draft);
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
  Q35_TRY(check_branch_outputs(wanted));
  return session->eval(tokens, n, wanted, progress, user);
}

qwen35_status qwen35_session_branch(qwen35_session *session, const int32_t *tokens,
                                    const uint32_t *lengths, size_t n, const uint8_t *want,
                                    float *logits) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_branch", "session");
  if (tokens == nullptr) return refuse_null("qwen35_session_branch", "tokens");
  if (lengths == nullptr) return refuse_null("qwen35_session_branch", "lengths");
  if (logits == nullptr) return refuse_null("qwen35_session_branch", "logits");
  if (n == 0) return fail(QWEN35_ERROR_ARGUMENT, "qwen35_session_branch: no continuations given");
  return session->branch({n, lengths, tokens}, want, logits);
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

qwen35_status qwen35_session_estimate(qwen35_model *model, int32_t n_threads,
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
  return q35::estimate_session(model, n_threads, *params, out);
}

void qwen35_session_memory(const qwen35_session *session, uint64_t *reserved, uint64_t *committed) {
  if (session == nullptr) return;
  const uint64_t scratch =
      session->model->batcher.scratch_bytes() + session->drafter.scratch_bytes();
  if (reserved != nullptr) *reserved = session->state.reserved_bytes() + scratch;
  if (committed != nullptr) *committed = session->state.committed_bytes() + scratch;
}

const float *qwen35_session_logits(qwen35_session *session) {
  return session == nullptr || !session->has_logits ? nullptr : session->kept();
}

uint64_t qwen35_session_snapshot_bytes(const qwen35_session *session) {
  return session == nullptr ? 0 : q35::snapshot_bytes(*session);
}

uint64_t qwen35_session_state_bytes(const qwen35_session *session) {
  return session == nullptr ? 0 : q35::state_bytes(*session);
}

qwen35_status qwen35_session_snapshot(qwen35_session *session, void *out, uint64_t bytes) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_snapshot", "session");
  if (out == nullptr) return refuse_null("qwen35_session_snapshot", "out");
  return q35::take_snapshot(session, out, bytes);
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
  Q35_TRY(check_vocabulary("qwen35_session_sample", *session, *sampler));
  if (!session->has_logits) {
    return fail(QWEN35_ERROR_ARGUMENT, "no logits to sample from: evaluate tokens first");
  }
  return sampler->sampler.sample(session->kept(), out);
}

qwen35_status qwen35_session_decode(qwen35_session *session, const int32_t *tokens, size_t n,
                                    qwen35_sampler *sampler, const int32_t *stop_tokens,
                                    size_t n_stop, const qwen35_limits *limits, qwen35_sample *out,
                                    size_t max, size_t *n_out) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_decode", "session");
  if (tokens == nullptr && n != 0) return refuse_null("qwen35_session_decode", "tokens");
  if (sampler == nullptr) return refuse_null("qwen35_session_decode", "sampler");
  if (stop_tokens == nullptr && n_stop != 0) {
    return refuse_null("qwen35_session_decode", "stop_tokens");
  }
  if (out == nullptr) return refuse_null("qwen35_session_decode", "out");
  if (n_out == nullptr) return refuse_null("qwen35_session_decode", "n_out");
  if (max == 0) return fail(QWEN35_ERROR_ARGUMENT, "qwen35_session_decode: max is 0");
  if (limits != nullptr) Q35_TRY(check_limits(*limits));
  Q35_TRY(check_vocabulary("qwen35_session_decode", *session, *sampler));
  return session->decode(tokens, n,
                         {&sampler->sampler, stop_tokens, n_stop, limits, out, max, n_out});
}

qwen35_status qwen35_session_take_back(qwen35_session *session, qwen35_sampler *sampler, size_t n) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_take_back", "session");
  if (sampler == nullptr) return refuse_null("qwen35_session_take_back", "sampler");
  return session->take_back(&sampler->sampler, n);
}

qwen35_status qwen35_session_draft_context(qwen35_session *session, const int32_t *tokens,
                                           size_t n) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_draft_context", "session");
  if (tokens == nullptr && n != 0) return refuse_null("qwen35_session_draft_context", "tokens");
  const uint32_t n_vocab = session->model->config.n_vocab;
  for (size_t i = 0; i < n; i++) {
    if (tokens[i] >= 0 && static_cast<uint32_t>(tokens[i]) >= n_vocab) {
      return fail(QWEN35_ERROR_ARGUMENT,
                  "token %zu: expected an id below %u, or a negative number, found %d", i, n_vocab,
                  tokens[i]);
    }
  }
  return session->drafter.set_text(tokens, n);
}

void qwen35_session_draft_statistics(const qwen35_session *session, qwen35_draft_stats *out) {
  if (session != nullptr && out != nullptr) *out = session->drafter.stats;
}

qwen35_status qwen35_session_impose_acceptance(qwen35_session *session, const float *chances,
                                               size_t n) {
  clear_error();
  if (session == nullptr) return refuse_null("qwen35_session_impose_acceptance", "session");
  if (chances == nullptr && n != 0) {
    return refuse_null("qwen35_session_impose_acceptance", "chances");
  }
  return session->drafter.impose(chances, n);
}
