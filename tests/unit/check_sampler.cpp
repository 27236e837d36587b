// Checks the sampler against direct computation in double precision: what may be drawn, how often,
// penalties, log-probabilities, determinism, odd logits and the messages of refused parameters.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <vector>

#include "runtime/sampler.h"

namespace {

using Logits = std::vector<float>;
using q35::Candidate;
using q35::Sampler;

int g_failures = 0;

void expect(bool ok, const char *what, double found = 0.0, double expected = 0.0) {
  if (ok) return;
  g_failures++;
  std::printf("FAIL %s: found %.9g, expected %.9g\n", what, found, expected);
}

void expect_near(const char *what, double found, double expected, double tolerance) {
  expect(std::fabs(found - expected) <= tolerance, what, found, expected);
}

qwen35_sampling_params neutral() {
  qwen35_sampling_params p = {};
  p.struct_size = sizeof p;
  p.temperature = 1.0f;
  p.top_p = 1.0f;
  p.repetition_penalty = 1.0f;
  p.seed = 42;
  p.n_logprobs = -1;
  return p;
}

// Logits like a model's: normal with the given spread (sum of uniforms).
Logits random_logits(size_t n, uint64_t seed, float spread) {
  q35::Random random(seed);
  Logits logits(n);
  for (float &x : logits) {
    double sum = 0.0;
    for (int i = 0; i < 12; i++) sum += random.uniform();
    x = static_cast<float>((sum - 6.0) * spread);
  }
  return logits;
}

// Probabilities of every id, by full sorts in double precision.
std::vector<double> reference(const Logits &logits, const qwen35_sampling_params &p,
                              const std::vector<int32_t> &banned = {}) {
  std::vector<double> x(logits.begin(), logits.end());
  for (const int32_t id : banned) x[id] = -INFINITY;
  for (double &v : x) v = std::isnan(v) ? -INFINITY : v;
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return x[a] > x[b]; });
  if (p.top_k > 0 && size_t(p.top_k) < order.size()) order.resize(p.top_k);
  std::vector<double> weight(x.size(), 0.0);
  double total = 0.0;
  for (const int32_t id : order) {
    total += weight[id] = std::exp((x[id] - x[order[0]]) / p.temperature);
  }
  double sum = 0.0;
  for (const int32_t id : order) {
    const bool kept = sum < p.top_p * total || id == order[0];
    sum += weight[id];
    if (!kept || weight[id] < p.min_p) weight[id] = 0.0;
  }
  total = std::accumulate(weight.begin(), weight.end(), 0.0);
  for (double &w : weight) w /= total;
  return weight;
}

void init(Sampler *sampler, size_t n, const qwen35_sampling_params &p,
          const std::vector<int32_t> &banned = {}) {
  const q35::Status status =
      sampler->init(static_cast<int32_t>(n), banned.data(), banned.size(), p);
  expect(status == q35::kOk, q35::last_error());
}

qwen35_sample draw(Sampler *sampler, const Logits &logits) {
  qwen35_sample sample = {};
  expect(sampler->sample(logits.data(), &sample) == q35::kOk, "sample");
  return sample;
}

// Draws 20,000 times and compares the counts with the reference by Pearson's chi-square. Rows are
// pooled in id order until 20 draws are expected. The limit is the normal approximation of Wilson
// and Hilferty at 4 standard deviations; seeds are fixed, so the outcome is too.
void check_distribution(const char *name, const Logits &logits, const qwen35_sampling_params &p,
                        const std::vector<int32_t> &banned = {}) {
  constexpr int kDraws = 20000;
  const std::vector<double> expected = reference(logits, p, banned);
  std::vector<int> counts(logits.size(), 0);
  Sampler sampler;
  init(&sampler, logits.size(), p, banned);
  for (int i = 0; i < kDraws; i++) counts[draw(&sampler, logits).token]++;
  double chi_square = 0.0;
  int bins = 0;
  double pooled = 0.0;
  double pooled_count = 0.0;
  for (size_t id = 0; id < logits.size(); id++) {
    if (expected[id] == 0.0) expect(counts[id] == 0, name, counts[id], 0);
    pooled += expected[id] * kDraws;
    pooled_count += counts[id];
    if (pooled < 20.0) continue;
    chi_square += (pooled_count - pooled) * (pooled_count - pooled) / pooled;
    bins++;
    pooled = pooled_count = 0.0;
  }
  const double freedom = std::max(1, bins - 1);
  const double spread = 2.0 / (9.0 * freedom);
  const double limit = freedom * std::pow(1.0 - spread + 4.0 * std::sqrt(spread), 3.0);
  expect(bins > 1, name, bins, 2);
  expect(chi_square < limit, name, chi_square, limit);
}

void check_distributions() {
  const Logits logits = random_logits(1500, 7, 2.0f);
  qwen35_sampling_params p = neutral();
  check_distribution("temperature 1", logits, p);
  p.temperature = 0.6f;
  check_distribution("temperature 0.6", logits, p);
  p.temperature = 1.7f;
  check_distribution("temperature 1.7", logits, p);
  p = neutral();
  p.top_k = 20;
  check_distribution("top_k", logits, p);
  p.top_p = 0.8f;
  p.temperature = 0.7f;
  check_distribution("top_k, top_p, temperature", logits, p);
  p.min_p = 0.2f;
  p.top_p = 0.95f;
  check_distribution("top_k, top_p, min_p", logits, p);
  p.min_p = 1e-6f;
  check_distribution("a min_p below the other cuts", logits, p);
  p = neutral();
  p.top_k = 500;  // more than blocks
  check_distribution("large top_k", logits, p);
  p = neutral();
  p.top_p = 0.9f;
  check_distribution("top_p", logits, p);
  p.min_p = 0.02f;
  check_distribution("top_p, min_p", logits, p);
  p = neutral();
  p.min_p = 0.05f;
  check_distribution("min_p", logits, p);
  p = neutral();
  p.top_p = 0.5f;
  std::vector<int32_t> banned;
  for (int32_t id = 0; id < 1500; id += 3) banned.push_back(id);
  check_distribution("banned rows", logits, p, banned);
  p.top_p = 0.9f;
  check_distribution("narrow top_p", random_logits(9000, 8, 5.0f), p);
  check_distribution("wide top_p", random_logits(4000, 9, 0.5f), p);
}

// Ties on every side of a cut: rows of equal logits are kept by the smallest ids.
void check_cuts() {
  for (uint64_t seed = 0; seed < 300; seed++) {
    q35::Random random(seed);
    const size_t n = seed % 30 == 0 ? 70000 : 1 + random.next() % 2000;
    Logits logits = random_logits(n, seed, 3.0f);
    if (seed % 60 != 0) {
      for (float &x : logits) x = std::round(x * 2.0f) / 2.0f;
    }
    const float max = *std::max_element(logits.begin(), logits.end());
    q35::LogitScan scan;
    expect(scan.init(static_cast<int32_t>(n)) == q35::kOk, "init");
    scan.begin(logits.data());
    std::vector<Candidate> sorted;
    for (size_t i = 0; i < n; i++) sorted.push_back({logits[i], static_cast<int32_t>(i)});
    std::sort(sorted.begin(), sorted.end(), q35::ahead);
    expect(scan.argmax() == sorted[0].id, "argmax", scan.argmax(), sorted[0].id);
    const size_t k = 1 + random.next() % n;
    const q35::Array<Candidate> &best = scan.top(k);
    expect(best.size() == k, "top size", double(best.size()), double(k));
    for (size_t i = 0; i < k; i++) expect(best[i].id == sorted[i].id, "top", best[i].id);

    const q35::Softmax softmax(max, 1.0f);
    const double total = scan.mass(softmax, q35::kKeepAll);
    const double fraction = random.uniform();
    const double target = (seed % 2 == 0 ? fraction : fraction * fraction * fraction) * total;
    const Candidate cut = scan.nucleus(softmax, target);
    double sum = 0.0;
    size_t kept = 0;
    while (kept < n && sum < target) sum += std::exp(double(sorted[kept++].logit) - max);
    expect(cut.id == sorted[kept - 1].id, "nucleus", cut.id, sorted[kept - 1].id);
    expect_near("mass of a nucleus", scan.mass(softmax, cut) / sum, 1.0, 1e-6);
    expect(!q35::ahead(cut, {logits[scan.pick(softmax, cut, 0.0)], scan.pick(softmax, cut, 0.0)}),
           "first pick is kept");
    const int32_t last = scan.pick(softmax, cut, 2.0 * total);
    expect(!q35::ahead(cut, {logits[last], last}), "pick past the end is kept");
  }
}

// Four equal rows: half of the mass is exactly two of them.
void check_exact_target() {
  const Logits logits(4, 1.0f);
  q35::LogitScan scan;
  expect(scan.init(4) == q35::kOk, "init");
  scan.begin(logits.data());
  const q35::Softmax softmax(1.0f, 1.0f);
  expect(scan.nucleus(softmax, 2.0).id == 1, "wide nucleus reaches its target exactly");
  expect(q35::nucleus_of(scan.top(4), softmax, 0.5).id == 1, "nucleus reaches its target exactly");
}

void check_exponential() {
  const q35::Softmax softmax(0.0f, 1.0f);
  double worst = 0.0;
  for (float d = 0.0f; d > -87.0f; d = std::nextafter(d, -INFINITY) * 1.00001f - 1e-7f) {
    const double exact = std::exp(double(d));
    worst = std::max(worst, std::fabs(softmax.weight(d) - exact) / exact);
  }
  std::printf("exp: largest relative error %.3g\n", worst);
  expect(worst < 1.4e-7, "exp", worst, 1.4e-7);
  expect(softmax.weight(0.0f) == 1.0f, "exp(0)", softmax.weight(0.0f), 1);
  expect(softmax.weight(-87.5f) == 0.0f, "exp of a small number", softmax.weight(-87.5f));
  expect(softmax.weight(-INFINITY) == 0.0f && softmax.weight(NAN) == 0.0f, "exp(-inf), exp(NaN)");
}

// First outputs of SplitMix64 and xoshiro256**, computed from the published definition in Python.
void check_random() {
  q35::Random random(0);
  expect(random.next() == 0x99ec5f36cb75f2b4u, "xoshiro256** of seed 0, first");
  expect(random.next() == 0xbf6e1f784956452au, "xoshiro256** of seed 0, second");
}

void check_determinism() {
  const Logits logits = random_logits(5000, 3, 1.0f);
  Sampler a, b, c;
  qwen35_sampling_params p = neutral();
  init(&a, logits.size(), p);
  init(&b, logits.size(), p);
  p.seed = 43;
  init(&c, logits.size(), p);
  int same = 0;
  for (int i = 0; i < 200; i++) {
    const int32_t token = draw(&a, logits).token;
    expect(token == draw(&b, logits).token, "same seed, same token");
    same += token == draw(&c, logits).token;
  }
  expect(same < 20, "another seed, other tokens", same, 0);
  const int32_t ids[3] = {-1, 0, 0};  // a refused call leaves the sampler as it was
  expect(a.accept(ids, 3, false) == QWEN35_ERROR_ARGUMENT, "accept of a bad id");
  const Logits none(logits.size(), -INFINITY);
  qwen35_sample sample = {};
  expect(a.sample(none.data(), &sample) == QWEN35_ERROR_MODEL, "all -inf");
  expect(draw(&a, logits).token == draw(&b, logits).token, "state after a failure");
}

// The logit of each id seen through the draw: with two rows alike, the better one is greedy's.
void check_penalties() {
  Logits logits(300, -50.0f);
  logits[1] = 4.0f;
  logits[2] = 3.5f;
  logits[290] = -1.0f;
  qwen35_sampling_params p = neutral();
  p.temperature = 0.0f;
  p.presence_penalty = 0.75f;
  p.frequency_penalty = 0.5f;
  Sampler openai;  // the prompt costs nothing; 4 then becomes 4 - 0.75 - 0.5 < 3.5
  init(&openai, logits.size(), p);
  const int32_t prompt[] = {1, 1, 1};
  expect(openai.accept(prompt, 3, true) == q35::kOk, "accept");
  float found[3] = {0, 4, 3.5};
  for (int i = 0; i < 12; i++) {
    const int32_t best = found[1] >= found[2] ? 1 : 2;
    const int32_t token = draw(&openai, logits).token;
    expect(token == best, "presence and frequency", token, best);
    found[best] -= (found[best] == logits[best] ? 0.75f : 0.0f) + 0.5f;
  }

  p = neutral();
  p.temperature = 0.0f;
  p.repetition_penalty = 2.0f;
  Sampler repetition;  // the prompt's 4 becomes 2: 3.5 wins, then 2 over 1.75
  init(&repetition, logits.size(), p);
  expect(repetition.accept(prompt, 1, true) == q35::kOk, "accept");
  expect(draw(&repetition, logits).token == 2, "repetition of the prompt");
  expect(draw(&repetition, logits).token == 1, "repetition of generated tokens");
  Logits negative(300, -50.0f);
  negative[5] = -1.0f;
  negative[6] = -1.5f;
  Sampler below_zero;  // -1 * 2 < -1.5
  init(&below_zero, negative.size(), p);
  expect(draw(&below_zero, negative).token == 5, "before the penalty");
  expect(draw(&below_zero, negative).token == 6, "a negative logit is multiplied");

  // Probabilities with everything at once.
  p = neutral();
  p.presence_penalty = 1.5f;
  p.frequency_penalty = 0.25f;
  p.repetition_penalty = 1.3f;
  const int32_t bias_tokens[] = {290, 2, 290};
  const float bias_values[] = {2.0f, -0.5f, 1.0f};
  p.bias_tokens = bias_tokens;
  p.bias_values = bias_values;
  p.n_bias = 3;
  std::vector<int> counts(300, 0);
  for (uint64_t seed = 0; seed < 20000; seed++) {
    p.seed = seed;
    Sampler all;
    init(&all, logits.size(), p);
    const int32_t generated[] = {1, 2, 2};
    expect(all.accept(generated, 3, false) == q35::kOk, "accept");
    counts[draw(&all, logits).token]++;
  }
  const double a = std::exp(4.0 / 1.3f - 1.5 - 0.25);
  const double b = std::exp(3.0 / 1.3f - 1.5 - 0.5);
  const double c = std::exp(2.0);
  expect_near("bias and penalties: 1", counts[1] / 20000.0, a / (a + b + c), 0.015);
  expect_near("bias and penalties: 2", counts[2] / 20000.0, b / (a + b + c), 0.015);
  expect_near("bias and penalties: 290", counts[290] / 20000.0, c / (a + b + c), 0.015);
}

void check_logprobs() {
  for (const size_t n : {1, 255, 256, 257, 4000, 248320}) {
    const Logits logits = random_logits(n, n, 3.0f);
    qwen35_sampling_params p = neutral();
    p.temperature = 0.5f;
    p.top_k = 3;
    p.n_logprobs = 20;
    const int32_t bias_token = 0;
    const float bias_value = 5.0f;
    p.bias_tokens = &bias_token;
    p.bias_values = &bias_value;
    p.n_bias = 1;
    std::vector<int32_t> banned;
    if (n > 1) banned.push_back(static_cast<int32_t>(n - 1));
    Sampler sampler;
    init(&sampler, n, p, banned);
    const qwen35_sample sample = draw(&sampler, logits);
    double sum = 0.0;
    for (const float x : logits) sum += std::exp(double(x));
    std::vector<Candidate> sorted;
    for (size_t i = 0; i < n - banned.size(); i++) {
      sorted.push_back({logits[i], static_cast<int32_t>(i)});
    }
    std::sort(sorted.begin(), sorted.end(), q35::ahead);
    expect(sample.n_top == static_cast<int32_t>(std::min<size_t>(20, sorted.size())), "n_top");
    for (int32_t i = 0; i < sample.n_top; i++) {
      expect(sample.top[i].token == sorted[i].id, "top", sample.top[i].token, sorted[i].id);
      expect_near("top logprob", sample.top[i].logprob, sorted[i].logit - std::log(sum), 2e-6);
    }
    expect_near("logprob", sample.logprob, logits[sample.token] - std::log(sum), 2e-6);
  }
}

void check_odd_logits() {
  Logits logits(1000, NAN);
  logits[700] = 1.0f;
  logits[701] = 1.0f;
  qwen35_sampling_params p = neutral();
  p.n_logprobs = 5;
  for (const float temperature : {0.0f, 1e-45f, 1.0f, 3e38f}) {
    p.temperature = temperature;
    for (const float top_p : {0.0f, 0.9f, 1.0f}) {
      p.top_p = top_p;
      Sampler sampler;
      init(&sampler, logits.size(), p);
      const qwen35_sample sample = draw(&sampler, logits);
      expect(sample.token == 700 || sample.token == 701, "NaN is -inf", sample.token);
      expect(sample.n_top == 2 && sample.top[0].token == 700, "the lowest id first");
      expect_near("logprob of two", sample.logprob, -std::log(2.0), 1e-6);
    }
  }
  logits[800] = INFINITY;
  p = neutral();
  p.n_logprobs = 0;
  Sampler infinite;
  init(&infinite, logits.size(), p);
  expect(draw(&infinite, logits).token == 800, "+inf wins");
  expect_near("logprob of +inf", draw(&infinite, logits).logprob, 0.0, 0.0);
  expect(draw(&infinite, logits).n_top == 0, "no alternatives");
  p.n_logprobs = -1;
  p.temperature = 0.0f;
  Sampler greedy;
  init(&greedy, 4, p, {0});
  const Logits ties = {9.0f, 2.0f, 5.0f, 5.0f};
  expect(draw(&greedy, ties).token == 2, "greedy: lowest id of equals, no banned row");
  expect(std::isnan(draw(&greedy, ties).logprob), "no logprob unless asked");
  const int32_t tokens[] = {1, 2, 3};
  const float ban[] = {-INFINITY, -INFINITY, -INFINITY};
  p.bias_tokens = tokens;
  p.bias_values = ban;
  p.n_bias = 3;
  Sampler empty;
  init(&empty, 4, p, {0});
  qwen35_sample sample = {};
  expect(empty.sample(ties.data(), &sample) == QWEN35_ERROR_ARGUMENT, "everything banned");
}

void check_refused(const qwen35_sampling_params &p, const char *field) {
  Sampler sampler;
  expect(sampler.init(100, nullptr, 0, p) == QWEN35_ERROR_ARGUMENT, field);
  expect(std::strstr(q35::last_error(), field) != nullptr, q35::last_error());
}

void check_parameters() {
  const auto refuse = [](float qwen35_sampling_params::*field, const char *name,
                         std::initializer_list<float> values) {
    for (const float value : values) {
      qwen35_sampling_params p = neutral();
      p.*field = value;
      check_refused(p, name);
    }
  };
  using Params = qwen35_sampling_params;
  refuse(&Params::temperature, "temperature", {-0.1f, NAN, INFINITY});
  refuse(&Params::top_p, "top_p", {-0.1f, 1.1f, NAN});
  refuse(&Params::min_p, "min_p", {-0.1f, 1.1f, NAN});
  refuse(&Params::presence_penalty, "presence_penalty", {-2.1f, 2.1f, NAN});
  refuse(&Params::frequency_penalty, "frequency_penalty", {-2.1f, 2.1f, NAN});
  refuse(&Params::repetition_penalty, "repetition_penalty", {0.0f, -1.0f, NAN, INFINITY});
  Params p = neutral();
  p.top_k = -1;
  check_refused(p, "top_k is -1");
  p = neutral();
  p.struct_size = 8;
  check_refused(p, "struct_size is 8");
  for (const int32_t n : {-2, 21}) {
    p = neutral();
    p.n_logprobs = n;
    check_refused(p, "n_logprobs");
  }
  int32_t token = 100;
  float value = 0.0f;
  p = neutral();
  p.n_bias = 1;
  check_refused(p, "bias_tokens is NULL");
  p.bias_tokens = &token;
  check_refused(p, "bias_values is NULL");
  p.bias_values = &value;
  check_refused(p, "bias_tokens[0] is 100");
  token = 99;
  for (const float bad : {NAN, INFINITY}) {
    value = bad;
    check_refused(p, "bias_values[0] of token 99");
  }
  p.n_bias = 101;
  check_refused(p, "n_bias is 101");
}

// A sampler that is allowed some tokens draws as one for which all others are banned. Masks keep
// whole blocks, drop whole ones, and cut through them; the last word is partly used.
void check_allowed() {
  constexpr size_t kRows = 3001;
  const Logits logits = random_logits(kRows, 21, 3.0f);
  qwen35_sampling_params p = neutral();
  p.presence_penalty = 1.0f;
  p.repetition_penalty = 1.2f;
  p.n_logprobs = 2;
  const auto kept = [](size_t id, int shape) {
    if (shape == 0) return id >= 700 && id < 703;
    if (shape == 1) return id / 256 % 2 == 0;
    if (shape == 2) return id % 7 != 3;
    return id == kRows - 1 || (id > 1000 && id < 1600);
  };
  for (int shape = 0; shape < 4; shape++) {
    std::vector<uint32_t> words((kRows + 31) / 32, 0);
    std::vector<int32_t> others;
    for (size_t id = 0; id < kRows; id++) {
      if (kept(id, shape)) {
        words[id / 32] |= 1u << (id % 32);
      } else {
        others.push_back(static_cast<int32_t>(id));
      }
    }
    for (const float temperature : {0.0f, 0.8f}) {
      p.temperature = temperature;
      p.top_k = shape == 2 ? 40 : 0;
      p.top_p = shape == 1 ? 0.9f : 1.0f;
      Sampler limited, banning, free;
      init(&limited, kRows, p);
      init(&banning, kRows, p, others);
      init(&free, kRows, p);
      expect(limited.allow(words.data(), words.size()) == q35::kOk, "allow");
      for (int i = 0; i < 200; i++) {
        const qwen35_sample a = draw(&limited, logits), b = draw(&banning, logits);
        expect(a.token == b.token, "allowed token", a.token, b.token);
        expect(a.logprob == b.logprob, "allowed logprob", a.logprob, b.logprob);
        expect(a.top[0].token == draw(&free, logits).top[0].token, "top is the model's own");
      }
    }
  }
}

void check_allowed_refusals() {
  const Logits logits = random_logits(100, 3, 1.0f);
  Sampler sampler;
  init(&sampler, 100, neutral());
  uint32_t words[4] = {0, 0, 0, ~0u << 4};  // no token: the bits behind the last one mean nothing
  expect(sampler.allow(words, 3) == QWEN35_ERROR_ARGUMENT, "3 words");
  expect(std::strstr(q35::last_error(), "expected 4") != nullptr, q35::last_error());
  expect(sampler.allow(words, 4) == q35::kOk, "no token allowed yet");
  qwen35_sample sample = {};
  expect(sampler.sample(logits.data(), &sample) == QWEN35_ERROR_ARGUMENT, "none is left");
  words[2] = 1u << 6;
  expect(sampler.allow(words, 4) == q35::kOk && draw(&sampler, logits).token == 70, "only one");
  expect(sampler.allow(nullptr, 0) == q35::kOk, "every token again");
  bool other = false;
  for (int i = 0; i < 50; i++) other |= draw(&sampler, logits).token != 70;
  expect(other, "the limit is lifted");
}

}  // namespace

int main() {
  check_allowed();
  check_allowed_refusals();
  check_random();
  check_exponential();
  check_cuts();
  check_exact_target();
  check_distributions();
  check_determinism();
  check_penalties();
  check_logprobs();
  check_odd_logits();
  check_parameters();
  std::printf(g_failures == 0 ? "ok\n" : "%d failures\n", g_failures);
  return g_failures == 0 ? 0 : 1;
}
