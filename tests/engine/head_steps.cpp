// Decodes with a first look at the output head and compares the largest logits of every step, bit
// by bit, with those of the whole head. Prints what was looked at and read.
//
//   head_steps MODEL STEPS TOP_K TEMPERATURE DRAFTS
//
// TOP_K largest logits; temperature 0 needs only one. DRAFTS: 1 has lookups drafted and checked in
// every step, so that several rows are looked at at once.
#include <algorithm>
#include <cstring>

#include "engine/handles.h"
#include "runtime/session.h"

namespace {

constexpr uint32_t kContext = 512;

// The n largest of [n_vocab], the order of equals by id.
std::vector<q35::Candidate> largest(const float *logits, int32_t n_vocab, size_t n) {
  std::vector<q35::Candidate> rows(static_cast<size_t>(n_vocab));
  for (int32_t i = 0; i < n_vocab; i++) rows[static_cast<size_t>(i)] = {logits[i], i};
  std::partial_sort(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(n), rows.end(),
                    q35::ahead);
  rows.resize(n);
  return rows;
}

}  // namespace

int main(int argc, char **argv) {
  expect(argc == 6, "usage: head_steps MODEL STEPS TOP_K TEMPERATURE DRAFTS");
  const Model model = open_model(argv[1], 2);
  const uint64_t steps = static_cast<uint64_t>(std::atoll(argv[2]));
  qwen35_session_params params;
  qwen35_session_defaults(&params);
  params.n_ctx = kContext;
  if (std::atoi(argv[5]) != 0) params.draft = QWEN35_DRAFT_LOOKUP | QWEN35_DRAFT_ALWAYS;
  qwen35_session *session = nullptr;
  expect_ok(qwen35_session_create(model.get(), &params, &session), "session_create");
  const Session owner(session);
  qwen35_sampling_params sampling;
  qwen35_sampling_defaults(&sampling);
  sampling.top_k = std::atoi(argv[3]);
  sampling.temperature = static_cast<float>(std::atof(argv[4]));
  sampling.seed = 7;
  qwen35_sampler *sampler = nullptr;
  expect_ok(qwen35_sampler_create(model.get(), &sampling, &sampler), "sampler_create");
  const Sampler sampler_owner(sampler);
  // Rows that are never drawn may be wrong.
  const int32_t end = static_cast<int32_t>(
      std::min<uint32_t>(model->config.n_vocab, sampler->sampler.looks_at(1).end));
  const size_t n_top =
      sampling.temperature == 0.0f ? 1 : static_cast<size_t>(std::min(sampling.top_k, end));
  uint64_t different = 0, checked = 0, texts = 0;
  qwen35_sample out[8];
  while (checked < steps) {
    qwen35_session_reset(session);
    std::vector<int32_t> text = make_tokens(4, static_cast<uint32_t>(++texts));
    expect_ok(qwen35_session_draft_context(session, text.data(), text.size()), "draft_context");
    expect_ok(qwen35_session_eval(session, text.data(), text.size(), nullptr, nullptr, nullptr),
              "session_eval");
    size_t n = 0;
    expect_ok(qwen35_session_decode(session, nullptr, 0, sampler, nullptr, 0, nullptr, out, 1, &n),
              "session_decode");
    while (checked < steps && qwen35_session_position(session) + 9 < kContext) {
      const int32_t token = out[n - 1].token;
      expect_ok(qwen35_session_decode(session, &token, 1, sampler, nullptr, 0, nullptr, out, 8, &n),
                "session_decode");
      const float *kept =
          session->kept_logits.data() + uint64_t{session->kept_row} * model->config.n_vocab;
      const std::vector<q35::Candidate> looked = largest(kept, end, n_top);
      const std::vector<q35::Candidate> whole = largest(qwen35_session_logits(session), end, n_top);
      different += std::memcmp(looked.data(), whole.data(), n_top * sizeof whole[0]) != 0 ? 1 : 0;
      checked++;
    }
  }
  qwen35_head_stats stats = {};
  qwen35_model_head_statistics(model.get(), &stats);
  std::printf(
      "steps %llu different %llu looks %llu groups %llu read %llu vain %llu repairs %llu\n",
      static_cast<unsigned long long>(checked), static_cast<unsigned long long>(different),
      static_cast<unsigned long long>(stats.looks), static_cast<unsigned long long>(stats.groups),
      static_cast<unsigned long long>(stats.read), static_cast<unsigned long long>(stats.vain),
      static_cast<unsigned long long>(stats.repairs));
  return different == 0 ? 0 : 1;
}
