// C API of sampling: checks of pointers and the rows of the vocabulary that are never drawn.
#include <new>

#include "api/api.h"
#include "runtime/engine.h"
#include "runtime/sampler.h"

using q35::Array;
using q35::clear_error;
using q35::fail;
using q35::kOk;
using q35::refuse_null;
using q35::Status;

namespace {

// Rows the tokenizer marks unused and rows beyond its end.
Status list_unused(const q35::Tokenizer &tokenizer, int32_t n_vocab, Array<int32_t> *out) {
  for (int32_t id = 0; id < n_vocab; id++) {
    const bool used = id < tokenizer.size() && tokenizer.type(id) != q35::TokenType::Unused;
    if (!used) Q35_TRY(out->push_back(id));
  }
  return kOk;
}

}  // namespace

// The setting that the Qwen 3.5 model cards share for thinking in text, without its penalty.
void qwen35_sampling_defaults(qwen35_sampling_params *params) {
  if (params == nullptr) return;
  *params = {};
  params->struct_size = sizeof *params;
  params->temperature = 1.0f;
  params->top_k = 20;
  params->top_p = 0.95f;
  params->repetition_penalty = 1.0f;
  params->n_logprobs = -1;
}

qwen35_status qwen35_sampler_create(const qwen35_model *model, const qwen35_sampling_params *params,
                                    qwen35_sampler **out) {
  clear_error();
  if (model == nullptr) return refuse_null("qwen35_sampler_create", "model");
  if (params == nullptr) return refuse_null("qwen35_sampler_create", "params");
  if (out == nullptr) return refuse_null("qwen35_sampler_create", "out");
  const int32_t n_vocab = static_cast<int32_t>(model->config.n_vocab);
  Array<int32_t> unused;
  Q35_TRY(list_unused(model->tokenizer, n_vocab, &unused));
  qwen35_sampler *created = new (std::nothrow) qwen35_sampler;
  if (created == nullptr) return fail(QWEN35_ERROR_MEMORY, "out of memory: sampler");
  const Status status = created->sampler.init(n_vocab, unused.data(), unused.size(), *params);
  if (status != kOk) {
    delete created;
    return status;
  }
  *out = created;
  return kOk;
}

void qwen35_sampler_close(qwen35_sampler *sampler) {
  delete sampler;
}

qwen35_status qwen35_sampler_accept(qwen35_sampler *sampler, const int32_t *tokens, size_t n,
                                    int32_t from_prompt) {
  clear_error();
  if (sampler == nullptr) return refuse_null("qwen35_sampler_accept", "sampler");
  if (tokens == nullptr && n != 0) return refuse_null("qwen35_sampler_accept", "tokens");
  return sampler->sampler.accept(tokens, n, from_prompt != 0);
}

qwen35_status qwen35_sampler_allow(qwen35_sampler *sampler, const uint32_t *words, size_t n_words) {
  clear_error();
  if (sampler == nullptr) return refuse_null("qwen35_sampler_allow", "sampler");
  return sampler->sampler.allow(words, n_words);
}

qwen35_status qwen35_sampler_sample(qwen35_sampler *sampler, const float *logits,
                                    qwen35_sample *out) {
  clear_error();
  if (sampler == nullptr) return refuse_null("qwen35_sampler_sample", "sampler");
  if (logits == nullptr) return refuse_null("qwen35_sampler_sample", "logits");
  if (out == nullptr) return refuse_null("qwen35_sampler_sample", "out");
  return sampler->sampler.sample(logits, out);
}
