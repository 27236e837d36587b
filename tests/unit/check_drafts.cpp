// Check of the parts of drafting that need no model: lookups against a search of the whole text,
// and the policy in simulated worlds whose best choice is known.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "runtime/draft_policy.h"
#include "runtime/lookup_index.h"
#include "runtime/sampler.h"

namespace {

using q35::DraftPolicy;
using q35::kMaxDrafts;
using q35::LookupIndex;
using q35::Random;

void expect(bool ok, const char *what, double found = 0, double wanted = 0) {
  if (ok) return;
  std::fprintf(stderr, "failed: %s: %g against %g\n", what, found, wanted);
  std::exit(1);
}

uint32_t below(Random *random, uint32_t n) {
  return static_cast<uint32_t>(random->next() % n);
}

// The longest earlier match of the end, up to kLongest, at the newest place.
LookupIndex::Match search(const std::vector<int32_t> &text) {
  LookupIndex::Match best;
  for (size_t end = 1; end < text.size(); end++) {  // the match ends before `end`
    uint32_t length = 0;
    while (length < end && length < LookupIndex::kLongest &&
           text[end - 1 - length] == text[text.size() - 1 - length]) {
      length++;
    }
    if (length >= 2 && length >= best.length) best = {length, static_cast<uint32_t>(end)};
  }
  return best;
}

void check_lookup(uint32_t vocabulary) {
  Random random(vocabulary);
  LookupIndex index;
  std::vector<int32_t> text;
  constexpr int kSteps = 4000;
  int same = 0;
  for (int step = 0; step < kSteps; step++) {
    const uint32_t action = below(&random, 40);
    if (action == 0 && text.size() > 20) {
      text.resize(text.size() - below(&random, 20));
      index.truncate(text.size());
    } else if (action == 1) {  // a text that shares its beginning
      text.resize(text.size() - below(&random, std::min<uint32_t>(60, text.size() + 1)));
      for (int i = 0; i < 5; i++) text.push_back(static_cast<int32_t>(below(&random, vocabulary)));
      expect(index.assign(text.data(), text.size()) == q35::kOk, "assign");
    } else if (action < 12 && text.size() > 30) {  // a passage again
      const size_t from = below(&random, static_cast<uint32_t>(text.size() - 12));
      for (size_t i = from; i < from + 10; i++) {
        text.push_back(text[i]);
        expect(index.push(text[i]) == q35::kOk, "push");
      }
    } else {
      text.push_back(static_cast<int32_t>(below(&random, vocabulary)));
      expect(index.push(text.back()) == q35::kOk, "push");
    }
    expect(index.size() == text.size(), "size");
    const LookupIndex::Match found = index.find(), wanted = search(text);
    const bool equal =
        found.length == wanted.length && (found.next == wanted.next || wanted.length == 0);
    same += equal ? 1 : 0;
    expect(found.length <= wanted.length, "no match is longer", found.length, wanted.length);
    for (uint32_t i = 0; i < found.length; i++) {
      expect(text[found.next - 1 - i] == text[text.size() - 1 - i], "what is found agrees");
    }
  }
  // Pairs that stand at more places than are followed may have an older, longer match.
  expect(same > 0.9 * kSteps, "the longest match is found", same, kSteps);
  expect(text.size() > 1000, "the text grew");
}

void check_repetition() {
  const int32_t text[] = {7, 1, 2, 1, 2, 1, 2};
  LookupIndex index;
  expect(index.assign(text, 7) == q35::kOk, "assign");
  const LookupIndex::Match match = index.find();
  expect(match.length == 4 && match.next == 5, "overlapping match", match.length, 4);
  int32_t drafts[6];
  for (uint32_t i = 0; i < 6; i++) drafts[i] = index.token(match, i, drafts);
  for (uint32_t i = 0; i < 6; i++) expect(drafts[i] == text[1 + i % 2], "it goes on for ever");
}

// A world where a pass of n rows takes 1 + row * (n - 1), a step of the layer `step`, a round with
// drafts `beyond` besides, and drafts are right with `mtp`, or with `lookup` in the share `found`
// of the rounds. A pass behind drafts that were right takes `log` more for each.
struct World {
  double row, step, mtp, lookup, found;
  double beyond = 0;
  double log = 0;
  double jump = 0;  // what a pass of three rows and more costs beyond its rows
  double slow = 1;  // times as long takes all of it, which the totals do not count

  double rows(uint32_t n) const { return n * row + (n > 1 ? jump : 0); }
};

struct Totals {
  double tokens = 0, time = 0;

  void add(const Totals &more) {
    tokens += more.tokens;
    time += more.time;
  }
  double speed() const { return tokens / time; }
};

// Many rounds in a world. The policy sees noise that the totals do not have.
Totals simulate(DraftPolicy *policy, Random *random, const World &w, int rounds) {
  Totals sum;
  uint32_t logged = 0;
  for (int round = 0; round < rounds; round++) {
    const bool found = random->uniform() < w.found;
    const DraftPolicy::Lookup lookup = {5, found ? kMaxDrafts : 0};
    const DraftPolicy::Plan plan = policy->plan(kMaxDrafts, true, lookup);
    uint32_t n = 0, steps = 0;
    if (plan.source == DraftPolicy::Source::Lookup) {
      n = plan.n;
    } else if (plan.source == DraftPolicy::Source::Mtp || plan.probe) {
      double chance = 1, chances[kMaxDrafts];
      while (steps < plan.n) {
        if (steps > 0 && !policy->worth_steps(steps, plan.n, chance, plan.rate)) break;
        policy->note_step(w.step * w.slow);
        chance *= policy->mtp_chance(steps, 0.7f);
        chances[steps++] = chance;
      }
      n = policy->worth_rows(chances, steps, plan.rate);
    }
    const double pass = 1 + w.rows(n) + w.log * logged;
    const double noise = w.slow * (0.95 + 0.1 * random->uniform());
    const double stall = random->uniform() < 0.1 ? 5 * w.slow : 0;  // the thread lost its core
    const double rest = steps * w.step + (n + steps != 0 ? w.beyond : 0);
    policy->note_pass(1 + n, pass * noise + stall);
    uint32_t gained = 1;
    const bool by_lookup = plan.source == DraftPolicy::Source::Lookup;
    bool right = true;
    for (uint32_t i = 0; i < std::max(n, steps) && right; i++) {
      right = random->uniform() < (by_lookup ? w.lookup : w.mtp);
      if (by_lookup) {
        policy->note_lookup(5 + i, right);
      } else {
        policy->note_mtp(i, 0.7f, right);
      }
      gained += right && i < n ? 1 : 0;
    }
    if (!by_lookup && found) {
      const bool would = random->uniform() < w.lookup;
      policy->note_lookup(5, would);
      policy->note_missed(would);
    }
    const DraftPolicy::Source source = plan.probe ? DraftPolicy::Source::Mtp : plan.source;
    policy->note_round({source, plan.probe, 1, n, steps, gained},
                       pass * noise + stall + rest * w.slow);
    logged = gained - 1;
    sum.tokens += gained;
    sum.time += pass + rest;
  }
  return sum;
}

// Tokens per time over many rounds, the first ones included.
double simulate(const World &w, int rounds) {
  Random random(3);
  DraftPolicy policy;
  return simulate(&policy, &random, w, rounds).speed();
}

// The best fixed depth of one source.
double best_fixed(double row, double step, double chance, double jump = 0) {
  const World w = {row, step, 0, 0, 0, 0, 0, jump};
  double best = 1;
  for (uint32_t n = 1; n <= kMaxDrafts; n++) {
    double tokens = 1, right = 1;
    for (uint32_t i = 0; i < n; i++) tokens += right *= chance;
    best = std::max(best, tokens / (1 + w.rows(n) + n * step));
  }
  return best;
}

void check_policy() {
  for (const double row : {0.02, 0.1, 0.3, 0.6}) {
    for (const double step : {0.03, 0.1, 0.4}) {
      for (const double chance : {0.0, 0.2, 0.5, 0.8, 0.95}) {
        const double found = simulate({row, step, chance, 0, 0}, 3000);
        const double best = best_fixed(row, step, chance);
        expect(found > 0.98, "not slower than plain decoding", found, 1);
        expect(found > 0.85 * best, "near the best fixed depth", found, best);
        const double copied = simulate({row, 9, 0, chance, 1}, 3000);
        expect(copied > 0.98, "lookups: not slower than plain decoding", copied, 1);
        expect(copied > 0.85 * best_fixed(row, 0, chance), "lookups: near the best", copied,
               best_fixed(row, 0, chance));
      }
    }
  }
  // Both, where the lookup is better when it finds something.
  const double both = simulate({0.1, 0.1, 0.6, 0.95, 0.5}, 3000);
  expect(both > 1.1 * best_fixed(0.1, 0.1, 0.6), "both are better than one", both, 1.1);
}

// Rows that do not all cost the same: a pass of two looks at the output head first, one of three
// reads all of it.
void check_jumps() {
  double of_best = 0, n = 0;
  for (const double jump : {0.1, 0.25, 0.5}) {
    for (const double row : {0.05, 0.1, 0.2}) {
      for (const double chance : {0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9}) {
        const double best = best_fixed(row, 0.06, chance, jump);
        const double mtp = simulate({row, 0.06, chance, 0, 0, 0, 0, jump}, 5000);
        expect(mtp > 0.98, "not slower than plain decoding with a jump", mtp, 1);
        expect(mtp > 0.85 * best, "near the best fixed depth", mtp, best);
        const double copied = simulate({row, 9, 0, chance, 1, 0, 0, jump}, 5000);
        const double best_copied = best_fixed(row, 0, chance, jump);
        expect(copied > 0.98, "lookups: the same", copied, 1);
        expect(copied > 0.85 * best_copied, "lookups: near the best", copied, best_copied);
        of_best += mtp / best + copied / best_copied;
        n += 2;
      }
    }
  }
  expect(of_best > 0.97 * n, "near the best fixed depth on the whole", of_best / n, 1);
}

// What no part of a round accounts for: only whole rounds show it.
void check_hidden_costs() {
  for (const double beyond : {0.2, 0.5, 1.5}) {
    const double mtp = simulate({0.05, 0.05, 0.55, 0, 0, beyond}, 3000);
    expect(mtp > 0.98, "not slower than plain decoding with a hidden cost", mtp, 1);
    const double copied = simulate({0.05, 9, 0, 0.55, 1, beyond}, 3000);
    expect(copied > 0.98, "lookups: the same", copied, 1);
  }
}

// What right drafts leave to the next pass is no cost of plain decoding, even if that pass is the
// only one without drafts for long.
void check_logs() {
  for (const double log : {0.1, 0.2, 0.4}) {
    for (const double row : {0.2, 0.35, 0.5}) {
      for (const double chance : {0.4, 0.5, 0.6, 0.7}) {
        const double mtp = simulate({row, 0.1, chance, 0, 0, 0, log}, 30000);
        expect(mtp > 0.99, "not slower than plain decoding with a log", mtp, 1);
        const double copied = simulate({row, 9, 0, chance, 1, 0, log}, 30000);
        expect(copied > 0.99, "lookups: the same", copied, 1);
      }
    }
  }
}

// Plain passes that all come right behind drafts say nothing of plain decoding.
void check_plain_behind_drafts() {
  DraftPolicy policy;
  const auto plain = [&](double seconds) {
    const DraftPolicy::Plan plan = policy.plan(0, false, {0, 0});
    policy.note_pass(1, seconds);
    policy.note_round({DraftPolicy::Source::None, false, 1, 0, 0, 1}, seconds);
    return 1 / plan.rate;
  };
  for (int i = 0; i < 10; i++) plain(1);
  for (int i = 0; i < 200; i++) {
    policy.plan(kMaxDrafts, true, {0, 0});
    policy.note_pass(2, 1.2);
    policy.note_round({DraftPolicy::Source::Mtp, false, 1, 1, 1, 2}, 1.3);
    plain(1.2);  // applies the log
  }
  const double found = plain(1);
  expect(found < 1.01, "what a plain round takes", found, 1);
}

// Texts follow each other, and drafts are right in every fourth: what was learned in one must not
// cost much in the next.
void check_short_texts() {
  const World good = {0.1, 0.2, 0.8, 0.9, 0.5}, bad = {0.1, 0.2, 0.1, 0.05, 0.8};
  Totals in_bad, in_good;
  for (uint64_t seed = 0; seed < 20; seed++) {
    Random random(seed);
    DraftPolicy policy;
    for (int text = 0; text < 400; text++) {
      const bool is_good = text % 4 == 0;
      Totals *sum = is_good ? &in_good : &in_bad;
      policy.begin_text();
      sum->add(simulate(&policy, &random, is_good ? good : bad, 40));
    }
  }
  expect(in_bad.speed() > 0.975, "short texts where drafts are wrong", in_bad.speed(), 1);
  expect(in_good.speed() > 1.9, "short texts where they are right", in_good.speed(), 1.9);
}

// Long texts in which drafts are right are behind, and everything takes a third of the time now:
// that is no gain of drafts. cheaper: rows were, in those texts
void check_faster_texts(double cheaper, double least) {
  for (const double row : {0.1, 0.3, 0.5, 0.7}) {
    const World good = {row / cheaper, 0.4, 0.5, 0.8, 0.6, 0, 0, 0, 3};
    const World bad = {row, 0.4, 0.5, 0.08, 0.6};
    Totals in_bad;
    for (uint64_t seed = 0; seed < 60; seed++) {
      Random random(seed);
      DraftPolicy policy;
      for (int text = 0; text < 100; text++) {
        const bool is_good = text % 50 < 20;
        policy.begin_text();
        const Totals found = simulate(&policy, &random, is_good ? good : bad, 22);
        if (!is_good) in_bad.add(found);
      }
    }
    expect(in_bad.speed() > least, "texts of another pace", in_bad.speed(), 1);
  }
}

// What three rows take bounds what two rows do, which might not be tried again.
void check_fewer_rows() {
  DraftPolicy policy;
  const double chances[] = {0.3};
  const auto passes = [&](uint32_t rows, double seconds) {
    for (int i = 0; i < 3; i++) policy.note_pass(rows, seconds);
  };
  passes(1, 1);
  passes(2, 1.5);
  expect(policy.worth_rows(chances, 1, 1) == 0, "a row costs more than it gives");
  passes(3, 1.1);
  expect(policy.worth_rows(chances, 1, 1) == 1, "one of two costs no more than both");
}

// The first text of a model: nothing is known.
void check_first_text() {
  Totals wrong, right;
  for (uint64_t seed = 0; seed < 50; seed++) {
    Random random(seed);
    DraftPolicy one, other;
    wrong.add(simulate(&one, &random, {0.1, 0.15, 0, 0, 0.5}, 50));
    right.add(simulate(&other, &random, {0.05, 0.13, 0.75, 0, 0}, 50));
  }
  const double best = best_fixed(0.05, 0.13, 0.75);
  expect(wrong.speed() > 0.97, "a first text where drafts are wrong", wrong.speed(), 1);
  expect(right.speed() > 0.85 * best, "a first text where they are right", right.speed(), best);
}

// Bad luck with the first drafts at some depth must not keep the policy from it for ever.
void check_bad_luck() {
  const World world = {0.21, 0.06, 0.84, 0, 0};
  const double best = best_fixed(0.21, 0.06, 0.84);
  for (uint64_t seed = 0; seed < 300; seed++) {
    Random random(seed);
    DraftPolicy policy;
    for (int text = 0; text < 8; text++) {
      policy.begin_text();
      simulate(&policy, &random, world, 50);
    }
    Totals late;
    for (int text = 0; text < 8; text++) {
      policy.begin_text();
      late.add(simulate(&policy, &random, world, 50));
    }
    expect(late.speed() > 0.88 * best, "after bad luck", late.speed(), best);
  }
}

}  // namespace

int main() {
  for (const uint32_t vocabulary : {100u, 5000u}) check_lookup(vocabulary);
  check_repetition();
  check_policy();
  check_jumps();
  check_hidden_costs();
  check_logs();
  check_plain_behind_drafts();
  check_short_texts();
  check_faster_texts(1, 0.995);
  check_faster_texts(5, 0.975);
  check_fewer_rows();
  check_first_text();
  check_bad_luck();
  return 0;
}
