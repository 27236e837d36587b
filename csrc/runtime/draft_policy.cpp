#include "runtime/draft_policy.h"

#include <algorithm>

namespace q35 {

namespace {

constexpr float kMemory = 0.97f;   // some 33 observations count
constexpr float kFading = 0.9f;    // of what is imagined before there are any,
constexpr float kDoubt = 0.1f;     // down to this
constexpr float kForget = 0.997f;  // of the observations, in every round
constexpr double kMtpGuess = 0.6;  // chance of a draft
constexpr double kLookupGuess[] = {0.2, 0.3, 0.5, 0.6, 0.7, 0.85};
constexpr double kRowGuess = 0.1;    // of a pass: what one row more costs
constexpr double kStepGuess = 0.15;  // the same for a step of the MTP layer
constexpr uint32_t kSure = 3;        // measurements after which a guess is forgotten
constexpr double kHope = 1.0 / 500;  // of the way back to the guess, in every plain round

constexpr double kMargin = 1.04;  // by which drafts have to be better than none
// Of an account, in tokens.
constexpr double kMostCredit = 4;
constexpr double kLeastCredit = -0.5;
constexpr double kTrusted = 1.0;      // a text begins with, of a source that gained lately
constexpr double kRecent = 0.1;       // weight of a round in what was gained lately
constexpr double kRisk = 0.4;         // of the credit that a round may lose
constexpr double kAllowance = 0.008;  // for every plain round: the share of the time for tries,
constexpr double kTry = 0.25;         // saved up for one that costs this or more
constexpr double kMissed = 0.5;       // of what a lookup would have gained in a round without it
// Everything is compared with plain decoding, whose time grows with the context.
constexpr uint64_t kPlainSoon = 16, kPlainLate = 200;  // rounds between two plain ones
constexpr double kOutlier = 1.25;                      // of a mean: more counts as much
constexpr double kProbeWeight = 0.25;                  // of a round in a mean; others: kMeanWeight
constexpr double kPromptly = 0.25;                     // of one that took much less than the mean

}  // namespace

void Frequency::note(bool hit) {
  hits = hits * kMemory + (hit ? 1.0f : 0.0f);
  total = total * kMemory + 1.0f;
  ignorance = std::max(kDoubt, ignorance * kFading);
}

void Frequency::fade() {
  hits *= kForget;
  total *= kForget;
}

void Duration::note(double measured, double whole) {
  if (count++ < kSure) {
    seconds = count == 1 ? measured : std::min(seconds, measured);
    return;
  }
  seconds += measured < seconds
                 ? 0.2 * (measured - seconds)
                 : std::min(0.05 * (measured - seconds), 0.02 * std::max(whole, seconds));
}

void Mean::note(double measured, double weight) {
  if (count++ < kSure) {
    value = count == 1 ? measured : std::min(value, measured);
    return;
  }
  // Much less than before is no accident, as more can be.
  if (kOutlier * measured < value) weight = std::max(weight, kPromptly);
  value += weight * (std::min(measured, kOutlier * value) - value);
}

void DraftPolicy::Account::add(double tokens) {
  credit = std::max(kLeastCredit, std::min(kMostCredit, credit + tokens));
}

bool DraftPolicy::Account::allows(uint32_t n, double price) const {
  const double loss = ((1 + price) * factor()) - 1;
  return loss <= (n == 1 ? credit : kRisk * credit);
}

void DraftPolicy::begin_text() {
  for (Account *account : {&mtp_, &lookup_}) {
    const bool trusted = account->gain > 0;
    const double most = trusted ? kTrusted : std::max(kStartCredit, price());
    account->credit =
        std::min(std::max(account->credit, trusted ? kTrusted / 2 : kLeastCredit), most);
  }
}

void DraftPolicy::note_pass(uint32_t rows, double seconds) {
  if (rows > 1) {
    // More rows in less time say nothing of rows: one row takes less than was thought.
    if (seconds < pass_.seconds) return pass_.note(seconds);
    Duration *more = &more_[rows - 2];
    more->note(seconds - pass_.seconds, pass_.seconds);
    if (more->count < kSure) return;
    for (Duration *fewer = more_; fewer < more; fewer++) {  // they do not take longer
      fewer->seconds = std::min(fewer->seconds, more->seconds);
    }
    return;
  }
  if (pays_for_drafts_) return;
  last_plain_ = round_;
  pass_.note(seconds);
  for (uint32_t n = 1; n <= kMaxDrafts; n++) {
    double *more = &more_[n - 1].seconds;
    *more += kHope * (rows_seconds(n - 1) + kRowGuess * pass_.seconds - *more);
  }
}

double DraftPolicy::rows_seconds(uint32_t n) const {
  const double first = more_[0].count < kSure ? kRowGuess * pass_.seconds : more_[0].seconds;
  double seconds = 0;
  for (uint32_t i = 0; i < n; i++) {
    seconds = more_[i].count < kSure ? seconds + first : more_[i].seconds;
  }
  return seconds;
}

double DraftPolicy::step_seconds() const {
  return step_.count != 0 ? step_.seconds : kStepGuess * pass_.seconds;
}

void DraftPolicy::note_round(const Round &round, double seconds) {
  // Would be read without drafts too.
  const double certain =
      rows_seconds(round.certain - 1 + round.drafts) - rows_seconds(round.drafts);
  const bool pays = pays_for_drafts_;
  pays_for_drafts_ = round.drafts != 0 && round.tokens > 1;
  if (round.source == Source::None) {
    if (!pays) plain_.note(std::max(0.0, seconds - certain));
    for (Account *account : {&mtp_, &lookup_}) {
      if (account->credit < price()) account->add(kAllowance);
    }
    return;
  }
  Account *account = round.source == Source::Mtp ? &mtp_ : &lookup_;
  // Less than its parts it takes only where those are overestimated.
  const double least = parts(round.drafts, round.steps);
  seconds = std::max(least, std::min(seconds - certain, kOutlier * account->factor() * least));
  // Probes are few, and the only way back when the factor was overestimated.
  account->beyond.note(seconds / least, round.probe ? kProbeWeight : kMeanWeight);
  const double gain = round.tokens - seconds / plain_seconds();
  account->add(gain);
  account->gain += kRecent * (gain - account->gain);
}

double DraftPolicy::price() const {
  return std::max(kTry, mtp_.factor() * parts(1, 1) / plain_seconds() - 1);
}

void DraftPolicy::note_missed(bool right) {
  if (pass_.count == 0) return;
  const double row = rows_seconds(1) / plain_seconds();
  lookup_.add(kMissed * (right ? 1 - row : -row));
}

void DraftPolicy::note_mtp(uint32_t depth, float p, bool right) {
  const uint32_t level = std::min(kLevels - 1, static_cast<uint32_t>(p * kLevels));
  depth_[depth].note(right);
  level_[depth][level].note(right);
}

double DraftPolicy::mtp_chance(uint32_t depth) const {
  const double prior = depth == 0 ? kMtpGuess : depth_[depth - 1].estimate(kMtpGuess);
  return depth_[depth].estimate(prior);
}

double DraftPolicy::mtp_chance(uint32_t depth, float p) const {
  const uint32_t level = std::min(kLevels - 1, static_cast<uint32_t>(p * kLevels));
  return level_[depth][level].estimate(0.5 * (mtp_chance(depth) + static_cast<double>(p)));
}

uint32_t DraftPolicy::length_class(uint32_t length) {
  const uint32_t limits[kLengths - 1] = {3, 4, 6, 10, 18};
  uint32_t i = 0;
  while (i < kLengths - 1 && length >= limits[i]) i++;
  return i;
}

void DraftPolicy::note_lookup(uint32_t length, bool right) {
  length_[length_class(length)].note(right);
}

double DraftPolicy::lookup_chance(uint32_t length) const {
  const uint32_t i = length_class(length);
  return length_[i].estimate(kLookupGuess[i]);
}

DraftPolicy::Plan DraftPolicy::plan(uint32_t room, bool mtp, const Lookup &lookup) {
  round_++;
  for (uint32_t depth = 0; depth < kMaxDrafts; depth++) {
    depth_[depth].fade();
    for (Frequency &level : level_[depth]) level.fade();
  }
  // The first passes are measured alone: were the only one interrupted, further rows would seem to
  // cost nothing.
  if (pass_.count < kSure) return {Source::None, 0, 0, false};
  Plan best = {Source::None, 0, 1.0 / plain_seconds(), false};
  if (round_ - last_plain_ > (pass_.count < 2 * kSure ? kPlainSoon : kPlainLate)) return best;
  if (more_[0].count < kSure) room = std::min(room, 1u);  // until it is known what rows cost
  double needed = kMargin * best.rate;
  const auto consider = [&](Source source, uint32_t n, double tokens, double seconds) {
    if (tokens / seconds <= needed) return;
    best = {source, n, tokens / seconds, false};
    needed = best.rate;
  };
  double chance = 1, tokens = 1;
  const double plain = plain_seconds(), step = step_seconds() / plain;
  for (uint32_t n = 1; n <= std::min(room, lookup.n); n++) {
    if (!lookup_.allows(n, rows_seconds(n) / plain)) break;
    chance *= lookup_chance(lookup.match + n - 1);
    tokens += chance;
    consider(Source::Lookup, n, tokens, lookup_.factor() * parts(n, 0));
  }
  chance = tokens = 1;
  uint32_t most = 0;
  for (uint32_t n = 1; n <= room && mtp; n++) {
    if (!mtp_.allows(n, rows_seconds(n) / plain + n * step)) break;
    most = n;
    chance *= mtp_chance(n - 1);
    tokens += chance;
    consider(Source::Mtp, n, tokens, mtp_.factor() * parts(n, n));
  }
  if (best.source == Source::Mtp) best.n = most;  // what the drafts are worth ends them
  // What was gained before is not for probes of what does not pay now.
  best.probe = best.source == Source::None && mtp && room > 0 && mtp_.credit >= price() &&
               static_cast<double>(round_ - last_mtp_) * kAllowance > price();
  if (best.probe) best.n = 1;
  if (best.source == Source::Mtp || best.probe) last_mtp_ = round_;
  return best;
}

bool DraftPolicy::worth_steps(uint32_t n, uint32_t most, double chance, double rate) const {
  double tokens = 0;
  for (uint32_t more = n + 1; more <= most; more++) {
    chance *= mtp_chance(more - 1);
    tokens += chance;
    const double rows = rows_seconds(more) - rows_seconds(n);
    if (tokens >= rate * mtp_.factor() * ((more - n) * step_seconds() + rows)) return true;
  }
  return false;
}

uint32_t DraftPolicy::worth_rows(const double *chances, uint32_t n, double rate) const {
  uint32_t best = 0;
  double tokens = 0, most = 0;
  for (uint32_t i = 0; i < n; i++) {
    tokens += chances[i];
    const double gain = tokens - rate * rows_seconds(i + 1);
    if (gain < most) continue;
    most = gain;
    best = i + 1;
  }
  return best;
}

DraftPolicy::Plan DraftPolicy::all(uint32_t room, bool mtp, const Lookup &lookup) {
  const uint32_t found = std::min(room, lookup.n);
  if (found != 0) return {Source::Lookup, found, 0, false};
  const Source source = mtp && room != 0 ? Source::Mtp : Source::None;
  return {source, room, 0, false};
}

}  // namespace q35
