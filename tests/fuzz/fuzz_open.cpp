// Fuzz target: opens bytes as a model file. Links with libFuzzer, or with the main() below, which
// takes files as arguments, or inputs as frames (u64 length, bytes) on standard input with "-".
// Refused or opened, and then run for some tokens: nothing in a file may end the process.
// For each input main() prints a line: the status and the message of the refusal.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/array.h"
#include "base/status.h"
#include "gguf/gguf.h"
#include "model/config.h"
#include "model/weights.h"

namespace {

using q35::Status;

// Touches what a caller can get hold of, so that the sanitizers see every pointer that is handed
// out.
uint64_t sum_bytes(const uint8_t *data, uint64_t n) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < n; i++) sum += data[i];
  return sum;
}

Status walk_file(const q35::gguf::File &file, uint64_t *sum) {
  for (const q35::gguf::Value &value : file.values()) *sum += sum_bytes(value.data, value.bytes);
  for (const q35::gguf::TensorInfo &tensor : file.tensors()) {
    uint8_t bytes[64];
    const uint64_t n = tensor.bytes < sizeof bytes ? tensor.bytes : sizeof bytes;
    Q35_TRY(file.read(tensor, tensor.bytes - n, bytes, n));
    *sum += sum_bytes(bytes, n);
  }
  return q35::kOk;
}

// A matrix with the 64 bytes behind it that kernels may read.
uint64_t sum_matrix(const q35::Matrix &m) {
  return sum_bytes(m.data, m.rows * m.row_bytes + 64);
}

Status walk_model(const q35::gguf::File &file, bool use_mmap, uint64_t *sum) {
  q35::Config config;
  Q35_TRY(q35::read_config(file, &config));
  q35::Weights weights;
  const q35::WeaveFn as_in_the_file[32] = {};
  Q35_TRY(q35::load_weights(file, config, use_mmap, as_in_the_file, nullptr, &weights));
  *sum += sum_matrix(weights.token_embd) + sum_matrix(weights.output);
  for (uint32_t i = 0; i < config.n_layer; i++) {
    const q35::LayerWeights &layer = weights.layers[i];
    *sum += sum_matrix(layer.ffn_down) + static_cast<uint64_t>(layer.attn_norm[0] != 0);
    *sum += sum_matrix(config.recurrent[i] ? layer.delta.qkv : layer.attention.q);
  }
  for (const q35::MtpWeights &mtp : weights.mtp) *sum += sum_matrix(mtp.eh_proj);
  return q35::kOk;
}

Status walk(const char *path, uint64_t *sum) {
  q35::gguf::File file;
  Q35_TRY(file.open(path));
  Q35_TRY(walk_file(file, sum));
  Q35_TRY(walk_model(file, false, sum));
  return walk_model(file, true, sum);
}

constexpr uint32_t kPrompt = 40;  // longer than a batch of matrix products and a chunk of the state

// Text of the tokens that greedy sampling gives. Damaged weights may leave nothing to draw from.
Status generate(const qwen35_model *model, qwen35_session *session, qwen35_sampler *sampler,
                qwen35_stream *stream) {
  for (int i = 0; i < 3; i++) {
    qwen35_sample drawn;
    if (qwen35_session_sample(session, sampler, &drawn) != q35::kOk) return q35::kOk;
    const char *text = nullptr;
    size_t length = 0;
    int32_t stopped = 0;
    Q35_TRY(qwen35_stream_push(stream, drawn.token, &text, &length, &stopped));
    Q35_TRY(qwen35_token_bytes(model, drawn.token, &text, &length, nullptr));
    Q35_TRY(qwen35_session_eval(session, &drawn.token, 1, nullptr, nullptr, nullptr));
  }
  return q35::kOk;
}

Status sample_text(const qwen35_model *model, qwen35_session *session) {
  qwen35_sampling_params params;
  qwen35_sampling_defaults(&params);
  params.n_logprobs = 3;
  qwen35_sampler *sampler = nullptr;
  Q35_TRY(qwen35_sampler_create(model, &params, &sampler));
  qwen35_stream *stream = nullptr;
  Status status = qwen35_stream_create(model, nullptr, nullptr, 0, 1, &stream);
  if (status == q35::kOk) status = generate(model, session, sampler, stream);
  qwen35_stream_close(stream);
  qwen35_sampler_close(sampler);
  return status;
}

// What a program does with a model that opens: text to tokens, tokens to logits, and back.
Status use_model(const qwen35_model *model, qwen35_session *session) {
  const char *text = "a<|im_end|>\xff";
  int32_t tokens[kPrompt];
  size_t n = 0;
  Q35_TRY(qwen35_tokenize(model, text, std::strlen(text), QWEN35_TOKENIZE_SPECIAL, tokens, 16, &n));
  if (n == 0) return q35::kOk;
  if (n > 4) n = 4;
  for (size_t i = n; i < kPrompt; i++) tokens[i] = tokens[i % n];
  Q35_TRY(qwen35_session_eval(session, tokens, n, nullptr, nullptr, nullptr));
  Q35_TRY(qwen35_session_eval(session, tokens, kPrompt, nullptr, nullptr, nullptr));
  return sample_text(model, session);
}

// A picture through the tower of a file that has one, and into the model.
Status use_vision(qwen35_model *model, qwen35_session *session, const char *path) {
  if (qwen35_model_string(model, "clip.projector_type") == nullptr) return q35::kOk;
  qwen35_vision *vision = nullptr;
  Q35_TRY(qwen35_vision_open(model, path, &vision));
  qwen35_vision_info vision_info;
  Status status = qwen35_vision_get_info(vision, &vision_info);
  q35::Array<float> rows;
  q35::Array<uint8_t> pixels;
  if (status == q35::kOk) status = rows.resize(2ull * vision_info.n_out);
  if (status == q35::kOk) status = pixels.resize(32 * 64 * 3);
  for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<uint8_t>(i * 37);
  if (status == q35::kOk) {
    status =
        qwen35_vision_encode(vision, pixels.data(), nullptr, 32, 64, rows.data(), nullptr, nullptr);
  }
  if (status == q35::kOk) {
    qwen35_session_reset(session);
    status = qwen35_session_eval_picture(session, rows.data(), 1, 2, nullptr, nullptr, nullptr);
  }
  qwen35_vision_close(vision);
  return status;
}

Status run_model(const char *path, bool use_mmap, int32_t kv_type) {
  qwen35_model_params params;
  qwen35_model_defaults(&params);
  params.n_threads = 1;
  params.use_mmap = use_mmap;
  qwen35_model *model = nullptr;
  Q35_TRY(qwen35_model_open(path, &params, &model));
  qwen35_session_params session_params;
  qwen35_session_defaults(&session_params);
  session_params.n_ctx = 48;
  session_params.kv_type = kv_type;
  qwen35_session *session = nullptr;
  Status status = qwen35_session_create(model, &session_params, &session);
  if (status == q35::kOk) status = use_model(model, session);
  if (status == q35::kOk) status = use_vision(model, session, path);
  qwen35_session_close(session);
  qwen35_model_close(model);
  return status;
}

Status run(const uint8_t *data, size_t size, uint64_t *sum) {
  const int fd = memfd_create("model", MFD_CLOEXEC);
  if (fd < 0) return q35::fail(QWEN35_ERROR_IO, "memfd_create failed");
  char path[32];
  std::snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  Status status = q35::kOk;
  if (size != 0 && write(fd, data, size) != static_cast<ssize_t>(size)) {
    status = q35::fail(QWEN35_ERROR_IO, "the input could not be written");
  }
  if (status == q35::kOk) status = walk(path, sum);
  // Maps and kinds of cache follow from the content.
  if (status == q35::kOk)
    status = run_model(path, *sum / 4 % 2 != 0, static_cast<int32_t>(*sum % 4));
  close(fd);
  return status;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  uint64_t sum = 0;
  (void)run(data, size, &sum);
  return 0;
}

#ifndef Q35_LIBFUZZER

namespace {

void report(const uint8_t *data, size_t size) {
  uint64_t sum = 0;
  q35::clear_error();
  const Status status = run(data, size, &sum);
  std::printf("%d %s\n", static_cast<int>(status), status == q35::kOk ? "" : q35::last_error());
  std::fflush(stdout);
}

bool run_frames() {
  uint64_t size = 0;
  while (std::fread(&size, sizeof size, 1, stdin) == 1) {
    // Exactly as large as the input, so that the address sanitizer sees reads beyond it.
    uint8_t *data = static_cast<uint8_t *>(std::malloc(size == 0 ? 1 : size));
    const bool whole = data != nullptr && std::fread(data, 1, size, stdin) == size;
    if (whole) report(data, size);
    std::free(data);
    if (!whole) return false;
  }
  return true;
}

bool run_file(const char *path) {
  FILE *file = std::fopen(path, "rb");
  if (file == nullptr) return false;
  std::fseek(file, 0, SEEK_END);
  const long size = std::ftell(file);
  std::rewind(file);
  uint8_t *data = size < 0 ? nullptr : static_cast<uint8_t *>(std::malloc(size == 0 ? 1 : size));
  const bool whole =
      data != nullptr && std::fread(data, 1, size, file) == static_cast<size_t>(size);
  std::fclose(file);
  if (whole) report(data, static_cast<size_t>(size));
  std::free(data);
  return whole;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc == 2 && std::strcmp(argv[1], "-") == 0) return run_frames() ? 0 : 2;
  for (int i = 1; i < argc; i++) {
    if (!run_file(argv[i])) return 2;
  }
  return 0;
}

#endif  // Q35_LIBFUZZER
