#include "runtime/drafter.h"

#include <algorithm>
#include <chrono>

namespace q35 {

namespace {

// Ids of the draft head, see bench/draft_head.py.
constexpr uint32_t kHeadRows = 16384;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// How many of drafts [n] keep to the limits.
uint32_t within(const qwen35_limits *limits, const int32_t *drafts, uint32_t n) {
  if (limits == nullptr || n == 0) return n;
  return static_cast<uint32_t>(std::min(size_t{n}, limits->follow(limits->user, drafts, n)));
}

}  // namespace

Status Drafter::init(qwen35_model *model, uint32_t sources) {
  sources_ = sources;
  if (!uses_mtp()) return kOk;
  Q35_TRY(head_.init(model->text.weights.output, kHeadRows));
  return model->batcher.reserve_mtp();
}

uint64_t Drafter::scratch_bytes() const {
  return head_.bytes();
}

Status Drafter::set_text(const int32_t *tokens, size_t n) {
  policy_.begin_text();
  if (uses_mtp()) {
    for (size_t i = 0; i < n; i++) head_.use(tokens[i]);
  }
  return (sources_ & QWEN35_DRAFT_LOOKUP) != 0 ? lookup_.assign(tokens, n) : kOk;
}

Status Drafter::add_text(const int32_t *tokens, size_t n) {
  for (size_t i = 0; i < n; i++) {
    if (uses_mtp()) head_.use(tokens[i]);
    if ((sources_ & QWEN35_DRAFT_LOOKUP) != 0) Q35_TRY(lookup_.push(tokens[i]));
  }
  return kOk;
}

const int32_t *Drafter::propose(qwen35_model *model, SequenceState *state, const int32_t *tokens,
                                uint32_t n, uint32_t room, const qwen35_limits *limits,
                                uint32_t *n_checked) {
  follow_match();
  const DraftPolicy::Lookup lookup = {match_.length, n_followed_};
  const bool mtp = uses_mtp() && n == 1;  // it drafts from the state before the last token
  const DraftPolicy::Plan plan =
      always() ? DraftPolicy::all(room, mtp, lookup) : policy_.plan(room, mtp, lookup);
  source_ = plan.source;
  probe_ = plan.probe;
  n_tokens_ = n_steps_ = *n_checked = 0;
  if (source_ == DraftPolicy::Source::Lookup) {
    *n_checked = propose_lookup(limits, plan.n);
  } else if (source_ == DraftPolicy::Source::Mtp || plan.probe) {
    source_ = DraftPolicy::Source::Mtp;
    *n_checked = propose_mtp(model, state, tokens[0], limits, plan);
  }
  n_checked_ = *n_checked;
  stats.drafted += n_checked_;
  return tokens_;
}

// What the lookup expects.
void Drafter::follow_match() {
  match_ = lookup_.find();
  n_followed_ = 0;
  while (match_.length != 0 && n_followed_ < kMaxDrafts) {
    const int32_t next = lookup_.token(match_, n_followed_, followed_);
    if (next < 0) break;  // a picture
    followed_[n_followed_++] = next;
  }
}

// The first n tokens that the lookup expects, as far as they keep to the limits, which only drafts
// are worth asking. Returns how many those are.
uint32_t Drafter::propose_lookup(const qwen35_limits *limits, uint32_t n) {
  const uint32_t allowed = within(limits, followed_, n);
  if (allowed < n) n_followed_ = allowed;
  if (allowed == 0) source_ = DraftPolicy::Source::None;
  std::copy(followed_, followed_ + allowed, tokens_);
  n_tokens_ = allowed;
  return allowed;
}

// Drafts as long as it pays, and returns how many of the drafts are worth checking.
uint32_t Drafter::propose_mtp(qwen35_model *model, SequenceState *state, int32_t token,
                              const qwen35_limits *limits, const DraftPolicy::Plan &plan) {
  Batcher::Exclusive threads(&model->batcher);
  Backend *backend = threads.backend();
  double chance = 1, chances[kMaxDrafts];
  uint32_t allowed = 0;
  while (n_tokens_ < plan.n) {
    const uint32_t depth = n_tokens_;
    if (depth != 0 && !policy_.worth_steps(depth, plan.n, chance, plan.rate)) break;
    const double start = now();
    const float *hidden = threads.mtp()->draft(model->text, backend, state, token, depth);
    token = head_.best(model->kernels, backend, hidden, &p_[depth]);
    if (imposes()) p_[depth] = depth < n_imposed_ ? imposed_[depth] : 0.0f;
    const double seconds = now() - start;
    policy_.note_step(seconds);
    n_steps_++;
    stats.steps++;
    stats.step_seconds += seconds;
    tokens_[n_tokens_++] = token;
    chance *= policy_.mtp_chance(depth, p_[depth]);
    chances[depth] = chance;
    if (within(limits, tokens_, n_tokens_) < n_tokens_) break;
    allowed++;
  }
  return policy_.worth_rows(chances, allowed, plan.rate);
}

void Drafter::learn(const int32_t *drawn, uint32_t n) {
  if (!imposes()) {
    if (source_ != DraftPolicy::Source::Lookup && n != 0 && n_followed_ != 0) {
      policy_.note_missed(drawn[0] == followed_[0]);
    }
    for (uint32_t i = 0; i < n && i < n_followed_; i++) {
      const bool right = drawn[i] == followed_[i];
      policy_.note_lookup(match_.length + i, right);
      if (!right) break;
    }
  }
  if (source_ != DraftPolicy::Source::Mtp) return;
  for (uint32_t i = 0; i < n && i < n_tokens_; i++) {
    const bool right = drawn[i] == tokens_[i];
    policy_.note_mtp(i, p_[i], right);
    if (!right) break;
  }
}

void Drafter::note_pass(uint32_t rows, double seconds) {
  policy_.note_pass(rows, seconds);
  stats.passes++;
  stats.pass_seconds += seconds;
  stats.rows[rows - 1]++;
  stats.row_seconds[rows - 1] += seconds;
}

void Drafter::note_round(uint32_t certain, uint32_t n, double seconds) {
  policy_.note_round({source_, probe_, certain, n_checked_, n_steps_, n}, seconds);
}

Status Drafter::impose(const float *chances, size_t n) {
  if (n > kMaxDrafts) {
    return fail(QWEN35_ERROR_ARGUMENT, "at most %u chances can be imposed, not %zu", kMaxDrafts, n);
  }
  for (size_t i = 0; i < n; i++) {
    if (!(chances[i] >= 0.0f && chances[i] <= 1.0f)) {
      return fail(QWEN35_ERROR_ARGUMENT, "chance %zu is %g: expected 0 to 1", i,
                  static_cast<double>(chances[i]));
    }
    imposed_[i] = chances[i];
  }
  n_imposed_ = static_cast<uint32_t>(n);
  random_ = Random(1);
  return kOk;
}

}  // namespace q35
