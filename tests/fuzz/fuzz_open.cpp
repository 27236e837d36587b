// Fuzz target: opens bytes as a model file. Links with libFuzzer, or with the main() below, which
// takes files as arguments, or inputs as frames (u64 length, bytes) on standard input with "-".
// For each input main() prints a line: the status of each stage and the message of the refusal.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

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
  Q35_TRY(q35::load_weights(file, config, use_mmap, nullptr, &weights));
  *sum += sum_matrix(weights.token_embd) + sum_matrix(weights.output);
  for (uint32_t i = 0; i < config.n_layer; i++) {
    const q35::LayerWeights &layer = weights.layers[i];
    *sum += sum_matrix(layer.ffn_down) + static_cast<uint64_t>(layer.attn_norm[0] != 0);
    *sum += sum_matrix(config.recurrent[i] ? layer.delta.qkv : layer.attention.q);
  }
  for (const q35::MtpWeights &mtp : weights.mtp) *sum += sum_matrix(mtp.eh_proj);
  return q35::kOk;
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
  q35::gguf::File file;
  if (status == q35::kOk) status = file.open(path);
  if (status == q35::kOk) status = walk_file(file, sum);
  if (status == q35::kOk) status = walk_model(file, false, sum);
  if (status == q35::kOk) status = walk_model(file, true, sum);
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
