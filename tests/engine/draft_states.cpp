// Chains of the MTP layer after every piece of a text: writes the states that its drafts come from,
// [pieces, depth, n_embd] floats. The next tokens of the text take the place of the drafts.
//
//   draft_states MODEL TOKENS ROWS COLUMNS OUT DEPTH SIZE...
//
// TOKENS: a file of int32 ids, ROWS: floats [size, n_embd] of a picture COLUMNS wide. A piece of
// size n takes n tokens, one of size -n is the picture, of n cells, which takes n tokens too.
#include "engine/handles.h"
#include "runtime/session.h"

namespace {

template <class T>
std::vector<T> read_file(const char *path) {
  std::FILE *file = std::fopen(path, "rb");
  expect(file != nullptr, path);
  std::vector<T> out;
  T value;
  while (std::fread(&value, sizeof value, 1, file) == 1) out.push_back(value);
  std::fclose(file);
  return out;
}

}  // namespace

int main(int argc, char **argv) {
  expect(argc > 7, "usage: draft_states MODEL TOKENS ROWS COLUMNS OUT DEPTH SIZE...");
  const Model model = open_model(argv[1], 2);
  const std::vector<int32_t> tokens = read_file<int32_t>(argv[2]);
  const std::vector<float> rows = read_file<float>(argv[3]);
  const uint32_t columns = static_cast<uint32_t>(std::atoi(argv[4]));
  const uint32_t depth = static_cast<uint32_t>(std::atoi(argv[6]));
  qwen35_session_params params;
  qwen35_session_defaults(&params);
  params.n_ctx = 512;
  params.n_batch = 48;
  params.draft = QWEN35_DRAFT_MTP;
  qwen35_session *session = nullptr;
  expect_ok(qwen35_session_create(model.get(), &params, &session), "session_create");
  const Session owner(session);
  std::FILE *out = std::fopen(argv[5], "wb");
  expect(out != nullptr, "open OUT");
  size_t done = 0;
  for (int i = 7; i < argc; i++) {
    const int size = std::atoi(argv[i]);
    const uint32_t n = static_cast<uint32_t>(size < 0 ? -size : size);
    if (size < 0) {
      expect_ok(qwen35_session_eval_picture(session, rows.data(), n / columns, columns, nullptr,
                                            nullptr, nullptr),
                "session_eval_picture");
    } else {
      expect_ok(qwen35_session_eval(session, tokens.data() + done, n, nullptr, nullptr, nullptr),
                "session_eval");
    }
    done += n;
    q35::Batcher::Exclusive threads(&model->batcher);
    for (uint32_t d = 0; d < depth; d++) {
      const float *state = threads.mtp()->draft(model->text, threads.backend(), &session->state,
                                                tokens[done + d], d);
      const size_t n_embd = model->config.n_embd;
      expect(std::fwrite(state, sizeof(float), n_embd, out) == n_embd, "write");
    }
  }
  expect(std::fclose(out) == 0, "close");
  return 0;
}
