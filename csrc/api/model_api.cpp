// C API: library, model and tokenizer.
#include <cstdio>
#include <cstring>
#include <new>

#include "api/api.h"
#include "base/cpu.h"
#include "runtime/engine.h"
#include "runtime/measure.h"

using q35::clear_error;
using q35::fail;
using q35::kOk;
using q35::refuse_null;
using q35::Status;

namespace {

Status check_threads(int32_t n_threads) {
  if (n_threads >= 0 && n_threads <= 1024) return kOk;
  return fail(QWEN35_ERROR_ARGUMENT, "n_threads: expected 0 to 1024, found %d", n_threads);
}

Status check_params(const qwen35_model_params &params) {
  Q35_TRY(q35::check_struct_size("model_params", params.struct_size, sizeof params));
  const float factor = params.rope_factor;
  if (factor != 0.0f && !(factor >= 1.0f && factor <= 1024.0f)) {
    return fail(QWEN35_ERROR_ARGUMENT, "rope_factor: expected 0, or 1 to 1024, found %g",
                static_cast<double>(factor));
  }
  return check_threads(params.n_threads);
}

}  // namespace

const char *qwen35_last_error(void) {
  return q35::last_error();
}

const char *qwen35_version(void) {
  return QWEN35_VERSION;
}

qwen35_status qwen35_system_info(char *text, size_t capacity) {
  clear_error();
  if (text == nullptr || capacity == 0) return refuse_null("qwen35_system_info", "text");
  q35::Isa isa;
  Q35_TRY(q35::choose_isa(&isa));
  const q35::CpuFeatures cpu = q35::cpu_features();
  std::snprintf(text, capacity, "isa=%s features=%s%s%s%s%s%s%s%s cores=%d", q35::isa_name(isa),
                cpu.avx2 ? "avx2,fma,f16c" : "", cpu.avx_vnni ? ",avx_vnni" : "",
                cpu.avx512 ? ",avx512,vnni" : "", cpu.bf16 ? ",bf16" : "", cpu.amx ? ",amx" : "",
                cpu.neon ? "neon" : "", cpu.dotprod ? ",dotprod" : "", cpu.i8mm ? ",i8mm" : "",
                q35::usable_cores());
  return kOk;
}

qwen35_status qwen35_measure(int32_t n_threads, qwen35_machine *out) {
  clear_error();
  if (out == nullptr) return refuse_null("qwen35_measure", "out");
  Q35_TRY(check_threads(n_threads));
  return q35::measure_machine(n_threads, out);
}

void qwen35_model_defaults(qwen35_model_params *params) {
  if (params == nullptr) return;
  *params = {};
  params->struct_size = sizeof *params;
}

qwen35_status qwen35_model_open(const char *path, const qwen35_model_params *params,
                                qwen35_model **out) {
  clear_error();
  if (path == nullptr) return refuse_null("qwen35_model_open", "path");
  if (out == nullptr) return refuse_null("qwen35_model_open", "out");
  qwen35_model_params defaults;
  qwen35_model_defaults(&defaults);
  if (params == nullptr) params = &defaults;
  Q35_TRY(check_params(*params));
  qwen35_model *model = new (std::nothrow) qwen35_model;
  if (model == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory for a model handle");
  const Status status = model->open(path, *params);
  if (status != kOk) {
    delete model;
    return q35::name_file(status, path);
  }
  *out = model;
  return kOk;
}

void qwen35_model_close(qwen35_model *model) {
  delete model;
}

qwen35_status qwen35_model_get_info(const qwen35_model *model, qwen35_model_info *out) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_model_get_info", "model");
  if (out == nullptr) return refuse_null("qwen35_model_get_info", "out");
  model->info(out);
  return kOk;
}

int32_t qwen35_model_threads(const qwen35_model *model) {
  return model == nullptr ? 0 : model->pool.size();
}

const char *qwen35_model_string(const qwen35_model *model, const char *key) {
  return model == nullptr || key == nullptr ? nullptr : model->string(key);
}

qwen35_status qwen35_tokenize(const qwen35_model *model, const char *text, size_t length,
                              uint32_t flags, int32_t *tokens, size_t capacity, size_t *n_tokens) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_tokenize", "model");
  if (text == nullptr && length != 0) return refuse_null("qwen35_tokenize", "text");
  if (tokens == nullptr && capacity != 0) return refuse_null("qwen35_tokenize", "tokens");
  if (n_tokens == nullptr) return refuse_null("qwen35_tokenize", "n_tokens");
  if ((flags & ~uint32_t{QWEN35_TOKENIZE_SPECIAL}) != 0) {
    return fail(QWEN35_ERROR_ARGUMENT, "qwen35_tokenize: unknown flags 0x%x", flags);
  }
  q35::Array<int32_t> ids;
  const bool special = (flags & QWEN35_TOKENIZE_SPECIAL) != 0;
  Q35_TRY(model->tokenizer.encode({text, length}, special, SIZE_MAX, &ids));
  const size_t count = ids.size() < capacity ? ids.size() : capacity;
  if (count != 0) std::memcpy(tokens, ids.data(), count * sizeof(int32_t));
  *n_tokens = ids.size();
  return kOk;
}

qwen35_status qwen35_token_bytes(const qwen35_model *model, int32_t token, const char **bytes,
                                 size_t *length, int32_t *type) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_token_bytes", "model");
  if (bytes == nullptr || length == nullptr) {
    return refuse_null("qwen35_token_bytes", bytes == nullptr ? "bytes" : "length");
  }
  if (token < 0 || token >= model->tokenizer.size()) {
    return fail(QWEN35_ERROR_ARGUMENT, "token: expected 0 to %d, found %d",
                model->tokenizer.size() - 1, token);
  }
  const std::string_view text = model->tokenizer.bytes(token);
  *bytes = text.data();
  *length = text.size();
  if (type != nullptr) *type = static_cast<int32_t>(model->tokenizer.type(token));
  return kOk;
}

void qwen35_model_head_statistics(qwen35_model *model, qwen35_head_stats *out) {
  if (model != nullptr && out != nullptr) model->batcher.head_stats(out);
}
