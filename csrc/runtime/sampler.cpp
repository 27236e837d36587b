// Sampling parameters, penalties, cuts and the draw. The passes over the vocabulary are
// LogitScan's.
#include "runtime/sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

namespace q35 {

namespace {

constexpr int32_t kMaxLogprobs = 20;  // entries of qwen35_sample.top
constexpr uint32_t kSeen = 1u << 31;  // in the prompt or generated
constexpr uint32_t kCount = kSeen - 1;

uint64_t rotate_left(uint64_t x, int bits) {
  return (x << bits) | (x >> (64 - bits));
}

// `range` says in words what [lowest, highest] is.
Status check_range(const char *name, float value, float lowest, float highest, const char *range) {
  if (value >= lowest && value <= highest) return kOk;  // false for NaN
  return fail(QWEN35_ERROR_ARGUMENT, "%s is %g: expected %s", name, static_cast<double>(value),
              range);
}

Status check_params(const qwen35_sampling_params &p) {
  if (p.struct_size != sizeof p) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "qwen35_sampling_params.struct_size is %u: expected %zu, as filled in by "
                "qwen35_sampling_defaults()",
                p.struct_size, sizeof p);
  }
  Q35_TRY(check_range("temperature", p.temperature, 0.0f, FLT_MAX, "a finite number >= 0"));
  if (p.top_k < 0) {
    return fail(QWEN35_ERROR_ARGUMENT, "top_k is %d: expected a number >= 0 (0: off)", p.top_k);
  }
  Q35_TRY(check_range("top_p", p.top_p, 0.0f, 1.0f, "0 to 1 (1: off)"));
  Q35_TRY(check_range("min_p", p.min_p, 0.0f, 1.0f, "0 to 1 (0: off)"));
  Q35_TRY(check_range("presence_penalty", p.presence_penalty, -2.0f, 2.0f, "-2 to 2 (0: off)"));
  Q35_TRY(check_range("frequency_penalty", p.frequency_penalty, -2.0f, 2.0f, "-2 to 2 (0: off)"));
  Q35_TRY(check_range("repetition_penalty", p.repetition_penalty, FLT_MIN, FLT_MAX,
                      "a finite number > 0 (1: off)"));
  if (p.n_logprobs < -1 || p.n_logprobs > kMaxLogprobs) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_logprobs is %d: expected 0 to %d, or -1 (off)",
                p.n_logprobs, kMaxLogprobs);
  }
  if (p.n_bias != 0 && (p.bias_tokens == nullptr || p.bias_values == nullptr)) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_bias is %zu but %s is NULL", p.n_bias,
                p.bias_tokens == nullptr ? "bias_tokens" : "bias_values");
  }
  return kOk;
}

Status check_token(const char *name, size_t index, int32_t token, int32_t n_vocab) {
  if (token >= 0 && token < n_vocab) return kOk;
  return fail(QWEN35_ERROR_ARGUMENT, "%s[%zu] is %d: expected a token id from 0 to %d", name, index,
              token, n_vocab - 1);
}

}  // namespace

Random::Random(uint64_t seed) {
  for (uint64_t &word : state_) {  // SplitMix64 (Steele, Lea and Flood, 2014)
    seed += 0x9e3779b97f4a7c15u;
    uint64_t z = seed;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    word = z ^ (z >> 31);
  }
}

uint64_t Random::next() {
  const uint64_t result = rotate_left(state_[1] * 5, 7) * 9;
  const uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = rotate_left(state_[3], 45);
  return result;
}

Status Sampler::init(int32_t n_vocab, const int32_t *banned, size_t n_banned,
                     const qwen35_sampling_params &params) {
  Q35_TRY(check_params(params));
  n_vocab_ = n_vocab;
  params_ = params;
  Q35_TRY(copy_lists(banned, n_banned, params));
  params_.bias_tokens = nullptr;
  params_.bias_values = nullptr;
  if (params_.top_k >= n_vocab) params_.top_k = 0;
  log_min_p_ = std::log(params.min_p);  // -inf when off
  random_ = Random(params.seed);
  has_penalties_ = params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f ||
                   params.repetition_penalty != 1.0f;
  if (has_penalties_) {
    const size_t n = static_cast<size_t>(n_vocab);
    Q35_TRY(Region::allocate(n * sizeof(uint32_t), false, &count_memory_));
    counts_ = reinterpret_cast<uint32_t *>(count_memory_.data());
    Q35_TRY(seen_.reserve(n));
  }
  return scan_.init(n_vocab);
}

Status Sampler::copy_lists(const int32_t *banned, size_t n_banned,
                           const qwen35_sampling_params &params) {
  Q35_TRY(banned_.append(banned, n_banned));
  if (params.n_bias > static_cast<size_t>(n_vocab_)) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_bias is %zu: expected at most the vocabulary's %d",
                params.n_bias, n_vocab_);
  }
  for (size_t i = 0; i < params.n_bias; i++) {
    const Bias bias = {params.bias_tokens[i], params.bias_values[i]};
    Q35_TRY(check_token("bias_tokens", i, bias.token, n_vocab_));
    if (!(bias.value <= FLT_MAX)) {
      return fail(QWEN35_ERROR_ARGUMENT,
                  "bias_values[%zu] of token %d is %g: expected a number or "
                  "-inf to ban the token",
                  i, bias.token, static_cast<double>(bias.value));
    }
    Q35_TRY(bias_.push_back(bias));
  }
  return kOk;
}

Status Sampler::accept(const int32_t *tokens, size_t n, bool from_prompt) {
  for (size_t i = 0; i < n; i++) Q35_TRY(check_token("tokens", i, tokens[i], n_vocab_));
  for (size_t i = 0; i < n; i++) remember(tokens[i], from_prompt);
  n_draws_ = 0;
  return kOk;
}

Status Sampler::allow(const uint32_t *words, size_t n_words) {
  const size_t expected = (static_cast<size_t>(n_vocab_) + 31) / 32;
  if (words == nullptr) {
    allow_all();
    return kOk;
  }
  if (n_words != expected) {
    return fail(QWEN35_ERROR_ARGUMENT, "n_words is %zu: expected %zu, a bit for each of %d tokens",
                n_words, expected, n_vocab_);
  }
  Q35_TRY(allowed_.resize(n_words));
  std::memcpy(allowed_.data(), words, n_words * sizeof(uint32_t));
  return kOk;
}

// Returns whether the token was not seen before.
bool Sampler::remember(int32_t token, bool from_prompt) {
  if (!has_penalties_) return false;
  uint32_t &entry = counts_[token];
  const bool first = (entry & kSeen) == 0;
  if (first) {
    seen_.data()[seen_.size()] = token;  // init() reserved a place for every id
    seen_.truncate(seen_.size() + 1);
  }
  entry |= kSeen;
  if (!from_prompt && (entry & kCount) != kCount) entry++;
  return first;
}

Status Sampler::take_back(uint32_t n) {
  if (n > n_draws_) {
    return fail(QWEN35_ERROR_ARGUMENT, "the sampler can take back %u tokens, not %u", n_draws_, n);
  }
  for (; n > 0; n--) {
    const Draw &draw = draws_[--n_draws_];
    random_ = draw.random;
    if (!has_penalties_) continue;
    uint32_t &entry = counts_[draw.token];
    entry--;
    if (!draw.first) continue;
    entry = 0;
    seen_.pop_back();
  }
  return kOk;
}

// Penalties and biases that lower a row let the next best take its place, so as many more rows are
// needed; where they may raise one, all are.
TopRows Sampler::looks_at(uint32_t draws) const {
  const bool greedy = params_.temperature == 0.0f;
  const bool raises =
      params_.presence_penalty < 0.0f || params_.frequency_penalty < 0.0f ||
      params_.repetition_penalty < 1.0f ||
      std::any_of(bias_.begin(), bias_.end(), [](const Bias &bias) { return bias.value > 0.0f; });
  if (params_.n_logprobs >= 0 || !allowed_.empty() || raises || (!greedy && params_.top_k == 0)) {
    return {};
  }
  size_t n = greedy ? 1 : static_cast<size_t>(params_.top_k);
  n += bias_.size();
  if (has_penalties_) n += seen_.size() + draws;
  // Most banned rows are the last ones.
  size_t n_last = 0;
  while (n_last < banned_.size() &&
         banned_[banned_.size() - 1 - n_last] == n_vocab_ - 1 - static_cast<int32_t>(n_last)) {
    n_last++;
  }
  n += banned_.size() - n_last;
  return {static_cast<uint32_t>(n),
          static_cast<uint32_t>(n_vocab_) - static_cast<uint32_t>(n_last)};
}

Status Sampler::sample(const float *logits, qwen35_sample *out) {
  scan_.begin(logits);
  const float raw_max = scan_.max();
  if (raw_max == -INFINITY) {
    return fail(QWEN35_ERROR_MODEL, "cannot sample: all %d logits are NaN or -inf", n_vocab_);
  }
  const Softmax raw(raw_max, 1.0f);
  const bool wants_logprobs = params_.n_logprobs >= 0;
  const double log_mass = wants_logprobs ? std::log(scan_.mass(raw, kKeepAll)) : 0.0;
  for (const int32_t id : banned_) scan_.set(id, -INFINITY);
  scan_.refresh();
  qwen35_sample sample = {};
  if (params_.n_logprobs > 0) report_top(raw, log_mass, &sample);
  if (!allowed_.empty()) scan_.keep(allowed_.data());
  adjust();
  if (scan_.max() == -INFINITY) {
    return fail(QWEN35_ERROR_ARGUMENT,
                "cannot sample: of %d tokens none is left after %zu unused, %zu biased and %s",
                n_vocab_, banned_.size(), bias_.size(),
                allowed_.empty() ? "no forbidden ones" : "those that are not allowed");
  }
  const Random random = random_;
  sample.token = draw();
  sample.logprob = NAN;
  if (wants_logprobs) {
    const float logit = std::min(logits[sample.token], FLT_MAX);
    sample.logprob = static_cast<float>(static_cast<double>(logit) - raw.max - log_mass);
  }
  if (n_draws_ == kUndo) {
    std::copy(draws_ + 1, draws_ + kUndo, draws_);
    n_draws_--;
  }
  const bool first = remember(sample.token, false);
  draws_[n_draws_++] = {random, sample.token, first};
  *out = sample;
  return kOk;
}

void Sampler::report_top(const Softmax &raw, double log_mass, qwen35_sample *out) {
  for (const Candidate &row : scan_.top(static_cast<size_t>(params_.n_logprobs))) {
    const double logit = std::min(row.logit, FLT_MAX);
    out->top[out->n_top++] = {row.id, static_cast<float>(logit - raw.max - log_mass)};
  }
}

// Logit bias and penalties. Touches the blocks of the ids concerned and no others.
void Sampler::adjust() {
  for (const Bias &bias : bias_) scan_.set(bias.token, scan_.logit(bias.token) + bias.value);
  for (const int32_t id : seen_) scan_.set(id, penalised(scan_.logit(id), counts_[id] & kCount));
  if (!bias_.empty() || !seen_.empty()) scan_.refresh();
}

// count: how often the token was generated; it may have been in the prompt only.
float Sampler::penalised(float logit, uint32_t count) const {
  const float repetition = params_.repetition_penalty;
  logit = logit > 0.0f ? logit / repetition : logit * repetition;
  if (count == 0) return logit;
  return logit - static_cast<float>(count) * params_.frequency_penalty - params_.presence_penalty;
}

// The row at which top_k, top_p and min_p together cut the distribution.
Candidate Sampler::cut(const Softmax &softmax) {
  Candidate last = kKeepAll;
  if (params_.top_k > 0) {
    const Array<Candidate> &best = scan_.top(static_cast<size_t>(params_.top_k));
    last = params_.top_p < 1.0f ? nucleus_of(best, softmax, params_.top_p) : best[best.size() - 1];
  } else if (params_.top_p < 1.0f) {
    last = scan_.nucleus(softmax, params_.top_p * scan_.mass(softmax, kKeepAll));
  }
  // p >= min_p * p_max, as a bound on the logit.
  const Candidate bound = {softmax.max + params_.temperature * log_min_p_, INT32_MAX};
  return params_.min_p > 0.0f && ahead(bound, last) ? bound : last;
}

int32_t Sampler::draw() {
  if (params_.temperature == 0.0f) return scan_.argmax();
  const Softmax softmax(scan_.max(), 1.0f / params_.temperature);
  const Candidate last = cut(softmax);
  const double mass = scan_.mass(softmax, last);
  return scan_.pick(softmax, last, random_.uniform() * mass);
}

}  // namespace q35
