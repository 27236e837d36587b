// Check of snapshots and copies of cache entries: what goes on from a copy, in the same session or
// in another, computes the same bits as what went on without.
//
//   check_snapshot MODEL
#include "engine/handles.h"

namespace {

constexpr size_t kPrompt = 150;
constexpr uint32_t kMiddle = 70;  // where entries are cut apart, within a block of the copy
constexpr size_t kSteps = 5;

using Bytes = std::vector<uint8_t>;

Bytes snapshot(const qwen35_session *session) {
  Bytes out(qwen35_session_snapshot_bytes(session));
  expect_ok(qwen35_session_snapshot(session, out.data(), out.size()), "snapshot");
  return out;
}

Bytes entries(const qwen35_session *session, uint32_t first, uint32_t n) {
  Bytes out(n * qwen35_session_token_bytes(session));
  expect_ok(qwen35_session_export(session, first, n, out.data(), out.size()), "export");
  return out;
}

void put(qwen35_session *session, uint32_t first, uint32_t n, const Bytes &from) {
  expect_ok(qwen35_session_import(session, first, n, from.data(), from.size()), "import");
}

void prefill(qwen35_session *session, const std::vector<int32_t> &tokens) {
  expect_ok(qwen35_session_eval(session, tokens.data(), tokens.size(), nullptr, nullptr, nullptr),
            "prefill");
}

// Greedy tokens from the kept logits on; their logits end in the snapshot that follows them.
std::vector<int32_t> decode(qwen35_model *model, qwen35_session *session) {
  qwen35_sampling_params params;
  params.struct_size = sizeof params;
  qwen35_sampling_defaults(&params);
  params.temperature = 0;
  qwen35_sampler *made = nullptr;
  expect_ok(qwen35_sampler_create(model, &params, &made), "sampler_create");
  const Sampler sampler(made);
  std::vector<int32_t> drawn;
  for (size_t i = 0; i < kSteps; i++) {
    qwen35_sample sample;
    expect_ok(qwen35_session_sample(session, sampler.get(), &sample), "sample");
    drawn.push_back(sample.token);
    expect_ok(qwen35_session_eval(session, &sample.token, 1, nullptr, nullptr, nullptr), "decode");
  }
  return drawn;
}

void check_copies(qwen35_model *model, int32_t kv_type) {
  const std::vector<int32_t> tokens = make_tokens(kPrompt, 5), others = make_tokens(40, 9);
  const Session session = open_session(model, 256, 32, kv_type);
  prefill(session.get(), tokens);
  const Bytes before = snapshot(session.get()), cache = entries(session.get(), 0, kPrompt);
  const std::vector<int32_t> expected = decode(model, session.get());
  const Bytes after = snapshot(session.get());

  // The same session: the entries are still there, those of the answer too.
  expect_ok(qwen35_session_restore(session.get(), before.data(), before.size()), "restore");
  expect(qwen35_session_position(session.get()) == kPrompt, "position of the snapshot");
  expect(decode(model, session.get()) == expected, "tokens after a restore");
  expect(snapshot(session.get()) == after, "state after a restore");

  // A session that knows other things, the entries in two parts.
  const Session second = open_session(model, 256, 32, kv_type);
  prefill(second.get(), others);
  expect(
      qwen35_session_restore(second.get(), before.data(), before.size()) == QWEN35_ERROR_ARGUMENT,
      "a restore without entries");
  expect(qwen35_session_position(second.get()) == others.size(), "a refusal changes nothing");
  const size_t cut = kMiddle * qwen35_session_token_bytes(second.get());
  put(second.get(), 0, kMiddle, Bytes(cache.begin(), cache.begin() + cut));
  put(second.get(), kMiddle, kPrompt - kMiddle, Bytes(cache.begin() + cut, cache.end()));
  expect(entries(second.get(), 0, kPrompt) == cache, "entries copied out and in");
  expect_ok(qwen35_session_restore(second.get(), before.data(), before.size()), "restore");
  expect(decode(model, second.get()) == expected, "tokens of another session");
  expect(snapshot(second.get()) == after, "state of another session");
  expect(entries(second.get(), 0, kPrompt + kSteps) == entries(session.get(), 0, kPrompt + kSteps),
         "entries of another session");
}

// Snapshots on the way change nothing, and what goes on from them computes the same bits, as long
// as batches end at the same places.
void check_marks(qwen35_model *model, int32_t kv_type) {
  const std::vector<int32_t> tokens = make_tokens(kPrompt, 5);
  const uint32_t at[] = {32, 64, 96, 128};
  const Session plain = open_session(model, 256, 64, kv_type);
  prefill(plain.get(), tokens);
  const Bytes expected = snapshot(plain.get());

  const Session session = open_session(model, 256, 64, kv_type);
  std::vector<Bytes> made(4, Bytes(qwen35_session_state_bytes(session.get())));
  void *to[4];
  for (size_t i = 0; i < 4; i++) to[i] = made[i].data();
  qwen35_outputs outputs = {};
  outputs.struct_size = sizeof outputs;
  outputs.n_snapshots = 4;
  outputs.snapshot_at = at;
  outputs.snapshots = to;
  const auto eval = [&](uint32_t first, uint32_t last, const qwen35_outputs *wanted) {
    return qwen35_session_eval(session.get(), tokens.data() + first, last - first, wanted, nullptr,
                               nullptr);
  };
  expect_ok(eval(0, kPrompt, &outputs), "an eval with snapshots");
  expect(snapshot(session.get()) == expected, "snapshots change no result");
  for (size_t i = 0; i < 4; i++) {
    expect_ok(qwen35_session_restore(session.get(), made[i].data(), made[i].size()), "restore");
    expect(qwen35_session_position(session.get()) == at[i], "position of a snapshot");
    if (at[i] % 64 != 0) expect_ok(eval(at[i], at[i] + 32, nullptr), "to the end of the batch");
    expect_ok(eval(qwen35_session_position(session.get()), kPrompt, nullptr), "the rest");
    expect(snapshot(session.get()) == expected, "the rest computes the same bits");
  }
  const uint32_t wrong[][2] = {{0, 5}, {5, 5}, {5, 4}, {5, 151}};
  outputs.n_snapshots = 2;
  for (const auto &places : wrong) {
    outputs.snapshot_at = places;
    expect(eval(0, kPrompt - 10, &outputs) == QWEN35_ERROR_ARGUMENT, "wrong places");
  }
}

void check_refusals(qwen35_model *model) {
  const Session session = open_session(model, 64, 32);
  prefill(session.get(), make_tokens(20, 3));
  Bytes state = snapshot(session.get()), cache = entries(session.get(), 0, 20);
  const auto refused = [&](qwen35_status status, const char *what) {
    expect(status == QWEN35_ERROR_ARGUMENT, what);
    expect(snapshot(session.get()) == state, "nothing changed");
  };
  qwen35_session *s = session.get();
  Bytes out = state;
  refused(qwen35_session_snapshot(s, out.data(), out.size() - 1), "a short buffer");
  for (const size_t bytes : {size_t{0}, size_t{8}, state.size() - 4, state.size() + 4}) {
    out.resize(bytes + 8);
    refused(qwen35_session_restore(s, out.data(), bytes), "a snapshot of another size");
  }
  for (size_t i = 0; i < 24; i += 4) {  // every field of the header but the rotary position
    out = state;
    out[i] ^= 0x40;
    if (i != 8) refused(qwen35_session_restore(s, out.data(), out.size()), "a damaged header");
  }
  out = cache;
  refused(qwen35_session_export(s, 1, 20, out.data(), out.size()), "an export past the end");
  refused(qwen35_session_export(s, 0, 20, out.data(), out.size() - 1), "an export's size");
  refused(qwen35_session_import(s, 21, 20, out.data(), out.size()), "an import with a gap");
  refused(qwen35_session_import(s, 20, UINT32_MAX, out.data(), out.size()), "too many entries");
  refused(qwen35_session_import(s, 0, 20, out.data(), out.size() + 1), "an import's size");
  qwen35_session_reset(s);
  expect(qwen35_session_restore(s, state.data(), state.size()) == QWEN35_ERROR_ARGUMENT,
         "a reset forgets the entries");
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: check_snapshot MODEL\n");
    return 2;
  }
  const Model model = open_model(argv[1], 2);
  for (const int32_t kv_type : {QWEN35_KV_F32, QWEN35_KV_F16, QWEN35_KV_Q8_0, QWEN35_KV_IQ4_NL}) {
    check_copies(model.get(), kv_type);
    check_marks(model.get(), kv_type);
  }
  check_refusals(model.get());
  return 0;
}
