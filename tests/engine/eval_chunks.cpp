// Evaluates made-up tokens in chunks of the given sizes and writes the logits of every token as
// floats; prints what the CPU offers. For comparing the tiers of two machines.
//
//   eval_chunks MODEL OUT SIZE...
#include "engine/handles.h"

namespace {

constexpr int32_t kThreads = 2;

uint32_t vocabulary(const qwen35_model *model) {
  qwen35_model_info info;
  expect_ok(qwen35_model_get_info(model, &info), "model_get_info");
  return info.n_vocab;
}

}  // namespace

int main(int argc, char **argv) {
  expect(argc > 3, "usage: eval_chunks MODEL OUT SIZE...");
  char text[256];
  expect_ok(qwen35_system_info(text, sizeof text), "system_info");
  std::puts(text);
  const Model model = open_model(argv[1], kThreads);
  const uint32_t n_vocab = vocabulary(model.get());
  const Session session = open_session(model.get(), 512, 64);
  std::FILE *out = std::fopen(argv[2], "wb");
  expect(out != nullptr, "open OUT");
  for (int i = 3; i < argc; i++) {
    const size_t n = static_cast<size_t>(std::atoi(argv[i]));
    const std::vector<int32_t> tokens = make_tokens(n, static_cast<uint32_t>(i));
    const std::vector<uint8_t> want(n, 1);
    std::vector<float> logits(n * n_vocab);
    qwen35_outputs outputs = {};
    outputs.struct_size = sizeof outputs;
    outputs.want = want.data();
    outputs.logits = logits.data();
    expect_ok(qwen35_session_eval(session.get(), tokens.data(), n, &outputs, nullptr, nullptr),
              "session_eval");
    expect(std::fwrite(logits.data(), sizeof(float), logits.size(), out) == logits.size(), "write");
  }
  expect(std::fclose(out) == 0, "close");
  return 0;
}
