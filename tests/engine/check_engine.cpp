// Check of evaluation across threads: results do not depend on the number of threads, on sessions
// that run at the same time, or on a prefill that was cancelled and continued; branches leave no
// trace. Meant to run under
// the thread sanitizer as well.
//
//   check_engine MODEL
#include <atomic>
#include <cmath>
#include <cstring>
#include <thread>

#include "engine/handles.h"

namespace {

constexpr uint32_t kBatch = 32;
constexpr size_t kPrompt = 200;  // six full batches and a part of one
constexpr size_t kSteps = 6;
constexpr uint32_t kContext = 256;

int32_t g_kv_type = QWEN35_KV_AUTO;

using Logits = std::vector<float>;

uint32_t vocabulary(const qwen35_model *model) {
  qwen35_model_info info;
  expect_ok(qwen35_model_get_info(model, &info), "model_get_info");
  return info.n_vocab;
}

qwen35_outputs all_logits(Logits *logits) {
  qwen35_outputs outputs = {};
  outputs.struct_size = sizeof outputs;
  outputs.logits = logits->data();
  return outputs;
}

// Logits of the last prompt token and of every decoded one: [1 + kSteps, n_vocab].
void decode(qwen35_session *session, const std::vector<int32_t> &tokens, uint32_t n_vocab,
            Logits *rows) {
  for (size_t i = 0; i < kSteps; i++) {
    Logits row(n_vocab);
    const qwen35_outputs outputs = all_logits(&row);
    expect_ok(qwen35_session_eval(session, &tokens[i], 1, &outputs, nullptr, nullptr), "decode");
    rows->insert(rows->end(), row.begin(), row.end());
  }
}

Logits run_all(qwen35_session *session, const std::vector<int32_t> &tokens, uint32_t n_vocab) {
  Logits rows(n_vocab);
  const qwen35_outputs outputs = all_logits(&rows);
  expect_ok(qwen35_session_eval(session, tokens.data(), tokens.size(), &outputs, nullptr, nullptr),
            "prefill");
  decode(session, tokens, n_vocab, &rows);
  return rows;
}

bool same(const Logits &a, const Logits &b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

Logits check_thread_counts(const char *path, const std::vector<int32_t> &tokens) {
  Logits expected;
  for (int32_t threads = 1; threads <= 3; threads++) {
    const Model model = open_model(path, threads);
    expect(qwen35_model_threads(model.get()) == threads, "the number of threads");
    const Session session = open_session(model.get(), kContext, kBatch, g_kv_type);
    const Logits rows = run_all(session.get(), tokens, vocabulary(model.get()));
    if (threads == 1) expected = rows;
    expect(same(rows, expected), "logits do not depend on the number of threads");
  }
  return expected;
}

void check_two_sessions(qwen35_model *model, const std::vector<int32_t> &tokens,
                        const Logits &expected) {
  const uint32_t n_vocab = vocabulary(model);
  Logits rows[2];
  std::thread threads[2];
  for (int i = 0; i < 2; i++) {
    threads[i] = std::thread([&, i] {
      const Session session = open_session(model, kContext, kBatch, g_kv_type);
      rows[i] = run_all(session.get(), tokens, n_vocab);
      qwen35_session_reset(session.get());
      expect(same(run_all(session.get(), tokens, n_vocab), rows[i]), "equal after a reset");
      expect(qwen35_session_eval(session.get(), tokens.data(), kPrompt, nullptr, nullptr,
                                 nullptr) == QWEN35_ERROR_CONTEXT,
             "errors of two threads");
    });
  }
  for (std::thread &thread : threads) thread.join();
  expect(same(rows[0], expected) && same(rows[1], expected), "two sessions at once");
}

// Sessions that decode at the same time share passes over the weights, and others that read a
// prompt meanwhile give way in short pieces. Neither may change a bit.
void check_many_sessions(qwen35_model *model, const std::vector<int32_t> &tokens,
                         const Logits &expected) {
  constexpr int kSessions = 10;  // more than fit into one pass
  constexpr uint32_t kWholePrompt = 256;
  const uint32_t n_vocab = vocabulary(model);
  std::vector<Logits> rows(kSessions);
  std::vector<std::thread> threads;
  for (int i = 0; i < kSessions; i++) {
    threads.emplace_back([&, i] {
      const Session session =
          open_session(model, kContext, i % 2 ? kWholePrompt : kBatch, g_kv_type);
      for (int round = 0; round < 3; round++) {
        qwen35_session_reset(session.get());
        rows[i] = run_all(session.get(), tokens, n_vocab);
      }
    });
  }
  for (std::thread &thread : threads) thread.join();
  const Session alone = open_session(model, kContext, kWholePrompt, g_kv_type);
  const Logits whole = run_all(alone.get(), tokens, n_vocab);
  for (int i = 0; i < kSessions; i++) {
    expect(same(rows[i], i % 2 ? whole : expected), "many sessions at once");
  }
}

struct Canceller {
  qwen35_session *session;
  std::atomic<size_t> done{0};  // tokens that the prefill reports
  std::atomic<bool> stop{false};
};

float largest_difference(const float *a, const float *b, size_t n) {
  float most = 0.0f;
  for (size_t i = 0; i < n; i++) most = std::fmax(most, std::fabs(a[i] - b[i]));
  return most;
}

// Continuations in one call are near what each gives alone, and leave no trace.
void check_branches(qwen35_model *model, const std::vector<int32_t> &tokens,
                    const Logits &expected) {
  const uint32_t n_vocab = vocabulary(model);
  const std::vector<uint32_t> lengths = {1, 8, 3, 8, 8, 2, 8, 1, 8};  // more than a batch
  const std::vector<int32_t> all = make_tokens(47, 11);
  const Session session = open_session(model, kContext, kBatch, g_kv_type);
  Logits rows(n_vocab), branched(all.size() * n_vocab), few(3 * n_vocab);
  const qwen35_outputs outputs = all_logits(&rows);
  expect_ok(
      qwen35_session_eval(session.get(), tokens.data(), tokens.size(), &outputs, nullptr, nullptr),
      "prefill");
  expect_ok(qwen35_session_branch(session.get(), all.data(), lengths.data(), lengths.size(),
                                  nullptr, branched.data()),
            "branch");
  std::vector<uint8_t> want(9);  // of the first two: the only token, and the last two of eight
  want[0] = want[7] = want[8] = 1;
  expect_ok(
      qwen35_session_branch(session.get(), all.data(), lengths.data(), 2, want.data(), few.data()),
      "branch");
  expect(qwen35_session_position(session.get()) == tokens.size(), "branches leave the position");
  decode(session.get(), tokens, n_vocab, &rows);
  expect(same(rows, expected), "branches leave no trace");

  size_t first = 0;
  for (const uint32_t length : lengths) {
    const Session alone = open_session(model, kContext, kBatch, g_kv_type);
    std::vector<int32_t> text = tokens;
    text.insert(text.end(), all.begin() + first, all.begin() + first + length);
    Logits its(text.size() * n_vocab);
    const std::vector<uint8_t> every(text.size(), 1);
    qwen35_outputs wanted = all_logits(&its);
    wanted.want = every.data();
    expect_ok(qwen35_session_eval(alone.get(), text.data(), text.size(), &wanted, nullptr, nullptr),
              "a branch alone");
    const float *behind = its.data() + tokens.size() * n_vocab;
    const float most =
        largest_difference(behind, Logits(length * n_vocab).data(), length * n_vocab);
    const float apart = largest_difference(behind, &branched[first * n_vocab], length * n_vocab);
    expect(apart <= 0.15f * most, "a branch is what it is alone");
    if (first == 1) {
      const float *last = behind + 6 * n_vocab;
      const float of_few = largest_difference(last, &few[n_vocab], 2 * n_vocab);
      expect(of_few <= 0.15f * most, "the wanted rows of a branch");
    }
    first += length;
  }
}

// Continuations in the pass of a prompt's end, or behind it where they have no room there, are what
// they are in a pass of their own, and change no bit of anything else.
void check_joined_branches(qwen35_model *model, const std::vector<int32_t> &tokens,
                           uint32_t n_batch, uint32_t n_branches) {
  const uint32_t n_vocab = vocabulary(model);
  const Session session = open_session(model, kContext, n_batch, g_kv_type);
  const Logits expected = run_all(session.get(), tokens, n_vocab);
  qwen35_session_reset(session.get());
  std::vector<uint32_t> lengths;
  for (uint32_t i = 0; i < n_branches; i++) lengths.push_back(1 + i % 3);
  size_t total = 0;
  for (const uint32_t length : lengths) total += length;
  const std::vector<int32_t> all = make_tokens(total, 13);
  std::vector<uint8_t> want(tokens.size() + total, 1);  // of the prompt, the last token
  std::fill(want.begin(), want.begin() + tokens.size() - 1, 0);
  want[tokens.size() + 1] = 0;

  Logits joined(total * n_vocab), apart(joined.size());
  qwen35_outputs outputs = all_logits(&joined);
  outputs.want = want.data();
  outputs.n_branches = n_branches;
  outputs.branch_lengths = lengths.data();
  outputs.branch_tokens = all.data();
  expect_ok(
      qwen35_session_eval(session.get(), tokens.data(), tokens.size(), &outputs, nullptr, nullptr),
      "prefill with branches");
  expect(qwen35_session_position(session.get()) == tokens.size(), "branches leave the position");
  const float *kept = qwen35_session_logits(session.get());
  expect(kept != nullptr &&
             same(Logits(joined.begin(), joined.begin() + n_vocab), Logits(kept, kept + n_vocab)),
         "the logits of the last token are kept");
  expect_ok(qwen35_session_branch(session.get(), all.data(), lengths.data(), n_branches,
                                  want.data() + tokens.size(), apart.data() + n_vocab),
            "branch");
  const size_t count = joined.size() - n_vocab;
  const float most = largest_difference(&apart[n_vocab], Logits(count).data(), count);
  expect(largest_difference(&joined[n_vocab], &apart[n_vocab], count) <= 0.15f * most,
         "branches are the same in both ways");
  Logits rows(joined.begin(), joined.begin() + n_vocab);
  decode(session.get(), tokens, n_vocab, &rows);
  expect(same(rows, expected), "joined branches leave no trace");
}

// What cannot be evaluated is refused, and changes nothing.
void check_branch_errors(qwen35_model *model, const std::vector<int32_t> &tokens) {
  const uint32_t n_vocab = vocabulary(model);
  const Session session = open_session(model, kContext, kBatch, g_kv_type);
  const size_t room = 4;
  const std::vector<int32_t> full = make_tokens(kContext - room, 7);
  expect_ok(qwen35_session_eval(session.get(), full.data(), full.size(), nullptr, nullptr, nullptr),
            "prefill");
  const float *kept = qwen35_session_logits(session.get());
  const Logits before(kept, kept + n_vocab);
  Logits rows(16 * n_vocab);
  const auto status = [&](std::vector<uint32_t> lengths, int32_t token) {
    std::vector<int32_t> all = tokens;
    all[1] = token;
    return qwen35_session_branch(session.get(), all.data(), lengths.data(), lengths.size(), nullptr,
                                 rows.data());
  };
  expect(status({2, 0}, 1) == QWEN35_ERROR_ARGUMENT, "an empty branch");
  expect(status({9}, 1) == QWEN35_ERROR_ARGUMENT, "a long branch");
  expect(status({2}, static_cast<int32_t>(n_vocab)) == QWEN35_ERROR_ARGUMENT, "an unknown token");
  expect(status({1, room + 1}, 1) == QWEN35_ERROR_CONTEXT, "a branch beyond the context");
  qwen35_outputs outputs = all_logits(&rows);
  const uint32_t lengths[] = {1, room};
  outputs.n_branches = 2;
  outputs.branch_lengths = lengths;
  const auto joined = [&] {
    return qwen35_session_eval(session.get(), tokens.data(), 1, &outputs, nullptr, nullptr);
  };
  expect(joined() == QWEN35_ERROR_ARGUMENT, "branches without tokens");
  outputs.branch_tokens = tokens.data();
  expect(joined() == QWEN35_ERROR_CONTEXT, "branches behind a token beyond the context");
  outputs.hidden = rows.data();
  expect(joined() == QWEN35_ERROR_ARGUMENT, "hidden states of branches");
  expect_ok(status({room, room}, 1), "branches up to the end of the context");
  expect(qwen35_session_position(session.get()) == full.size(), "the position is as before");
  kept = qwen35_session_logits(session.get());
  expect(kept != nullptr && same(before, Logits(kept, kept + n_vocab)), "the logits are kept");
}

int32_t report(void *user, size_t done, size_t) {
  static_cast<Canceller *>(user)->done.store(done);
  return 0;
}

// Prefills with a cancel from another thread some `spins` after batch `batch`, continues, and
// returns whether the cancel arrived in time.
bool cancel_and_continue(qwen35_session *session, const std::vector<int32_t> &tokens, size_t batch,
                         int spins, const Logits &expected) {
  qwen35_session_reset(session);
  Canceller shared;
  shared.session = session;
  std::thread thread([&] {
    while (shared.done.load() < batch * kBatch && !shared.stop.load()) std::this_thread::yield();
    for (volatile int i = 0; i < spins; i = i + 1) {
    }
    qwen35_session_cancel(shared.session);
  });
  Logits rows(expected.size() / (1 + kSteps));
  const uint32_t n_vocab = static_cast<uint32_t>(rows.size());
  qwen35_outputs outputs = all_logits(&rows);
  const qwen35_status status =
      qwen35_session_eval(session, tokens.data(), tokens.size(), &outputs, report, &shared);
  shared.stop.store(true);
  thread.join();
  qwen35_session_clear_cancel(session);
  const size_t position = qwen35_session_position(session);
  if (status == QWEN35_ERROR_CANCELLED) {
    expect(position % kBatch == 0 && position < tokens.size(), "a cancelled prefill's position");
    expect(position == shared.done.load(), "finished batches are kept");
    expect_ok(qwen35_session_eval(session, tokens.data() + position, tokens.size() - position,
                                  &outputs, nullptr, nullptr),
              "continue after a cancel");
  } else {
    expect_ok(status, "prefill with a late cancel");
  }
  expect(qwen35_session_position(session) == tokens.size(), "position after the prefill");
  decode(session, tokens, n_vocab, &rows);
  expect(same(rows, expected), "logits after a cancel");
  return status == QWEN35_ERROR_CANCELLED;
}

void check_cancel(qwen35_model *model, const std::vector<int32_t> &tokens, const Logits &expected) {
  const Session session = open_session(model, kContext, kBatch, g_kv_type);
  size_t n_cancelled = 0;
  for (size_t batch = 0; batch < 6; batch++) {
    for (int spins = 0; spins <= 300000; spins = spins * 4 + 100) {
      n_cancelled += cancel_and_continue(session.get(), tokens, batch, spins, expected);
    }
  }
  expect(n_cancelled != 0, "a cancel from another thread stops a prefill");
  std::printf("%zu prefills were cancelled\n", n_cancelled);
}

// A cancel without a running eval stops the next one before it starts, once.
void check_early_cancel(qwen35_model *model, const std::vector<int32_t> &tokens) {
  const Session session = open_session(model, kContext, kBatch, g_kv_type);
  qwen35_session_cancel(session.get());
  for (const qwen35_status expected : {QWEN35_ERROR_CANCELLED, QWEN35_OK}) {
    expect(
        qwen35_session_eval(session.get(), tokens.data(), 1, nullptr, nullptr, nullptr) == expected,
        "a cancel before an eval");
  }
  expect(qwen35_session_position(session.get()) == 1, "position after an early cancel");
}

int32_t stop_at_64(void *, size_t done, size_t) {
  return done >= 64;
}

// A progress function may stop the prefill, and may use other sessions of the model.
void check_progress(qwen35_model *model, const std::vector<int32_t> &tokens) {
  const Session session = open_session(model, kContext, kBatch, g_kv_type);
  expect(qwen35_session_eval(session.get(), tokens.data(), tokens.size(), nullptr, stop_at_64,
                             nullptr) == QWEN35_ERROR_CANCELLED,
         "a progress function cancels");
  expect(qwen35_session_position(session.get()) == 64, "position after a progress function");
  struct Other {
    qwen35_session *session;
    const int32_t *tokens;
  };
  const Session second = open_session(model, kContext, kBatch, g_kv_type);
  Other other = {second.get(), tokens.data()};
  const auto evaluate_other = [](void *user, size_t, size_t) -> int32_t {
    const Other &o = *static_cast<Other *>(user);
    return qwen35_session_eval(o.session, o.tokens, 1, nullptr, nullptr, nullptr);
  };
  expect_ok(qwen35_session_eval(session.get(), tokens.data(), 100, nullptr, evaluate_other, &other),
            "a progress function that evaluates another session");
  expect(qwen35_session_position(second.get()) == 4, "one token of the other session per batch");
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: check_engine MODEL\n");
    return 2;
  }
  const std::vector<int32_t> tokens = make_tokens(kPrompt, 7);
  const Model model = open_model(argv[1], 3);
  for (const int32_t kv_type : {QWEN35_KV_F32, QWEN35_KV_F16, QWEN35_KV_Q8_0, QWEN35_KV_IQ4_NL}) {
    g_kv_type = kv_type;
    const Logits expected = check_thread_counts(argv[1], tokens);
    check_two_sessions(model.get(), tokens, expected);
    check_many_sessions(model.get(), tokens, expected);
    check_branches(model.get(), tokens, expected);
    for (const uint32_t n : {2u, 30u, 60u}) {  // the last are too many for the pass
      check_joined_branches(model.get(), tokens, kBatch, n);
      check_joined_branches(model.get(), tokens, 256, n);
    }
    check_branch_errors(model.get(), tokens);
    check_cancel(model.get(), tokens, expected);
    check_early_cancel(model.get(), tokens);
    check_progress(model.get(), tokens);
  }
  return 0;
}
