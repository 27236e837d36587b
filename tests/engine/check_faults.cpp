// Check that every failing allocation or file access is a status and nothing worse. The whole life
// of a model runs again and again; in run N the N-th such call fails, or every one from the N-th
// on, until a run meets no failure. The call of the C API that meets it must say so, leave its
// output alone and succeed when it is tried again; the results must then be those of a run without
// failure.
//
//   check_faults MODEL
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <new>
#include <string>

#include "engine/handles.h"

// ---- the calls that can fail: the linker sends them here (--wrap, see CMakeLists.txt) -----------

namespace {

enum class Fault { None, Memory, Io };

std::atomic<Fault> g_fault{Fault::None};
std::atomic<bool> g_repeat{false};  // later calls fail as well
std::atomic<long> g_countdown{0};   // calls of the kind until the failing one
std::atomic<bool> g_fired{false};

bool fails(Fault kind) {
  if (g_fault.load() != kind) return false;
  const long left = g_countdown.fetch_sub(1);
  if (left > 0 || (left < 0 && !g_repeat.load())) return false;
  g_fired.store(true);
  errno = kind == Fault::Memory ? ENOMEM : EIO;
  return true;
}

}  // namespace

extern "C" {
void *__real_malloc(size_t bytes);
void *__real_calloc(size_t n, size_t bytes);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument);
void *__real__ZnwmRKSt9nothrow_t(size_t bytes, const std::nothrow_t &tag);
void *__real__ZnamRKSt9nothrow_t(size_t bytes, const std::nothrow_t &tag);
int __real_open(const char *path, int flags, ...);
int __real_fstat(int fd, struct stat *info);
ssize_t __real_pread(int fd, void *to, size_t bytes, off_t offset);

void *__wrap_malloc(size_t bytes) {
  return fails(Fault::Memory) ? nullptr : __real_malloc(bytes);
}
void *__wrap_calloc(size_t n, size_t bytes) {
  return fails(Fault::Memory) ? nullptr : __real_calloc(n, bytes);
}
void *__wrap_realloc(void *old, size_t bytes) {
  return fails(Fault::Memory) ? nullptr : __real_realloc(old, bytes);
}
void *__wrap_aligned_alloc(size_t alignment, size_t bytes) {
  return fails(Fault::Memory) ? nullptr : __real_aligned_alloc(alignment, bytes);
}
char *__wrap_strdup(const char *text) {
  return fails(Fault::Memory) ? nullptr : __real_strdup(text);
}
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset) {
  return fails(Fault::Memory) ? MAP_FAILED : __real_mmap(at, bytes, protection, flags, fd, offset);
}
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
                          void *argument) {
  return fails(Fault::Memory) ? EAGAIN : __real_pthread_create(thread, attributes, run, argument);
}
// operator new(size_t, std::nothrow_t) and its array form
void *__wrap__ZnwmRKSt9nothrow_t(size_t bytes, const std::nothrow_t &tag) {
  return fails(Fault::Memory) ? nullptr : __real__ZnwmRKSt9nothrow_t(bytes, tag);
}
void *__wrap__ZnamRKSt9nothrow_t(size_t bytes, const std::nothrow_t &tag) {
  return fails(Fault::Memory) ? nullptr : __real__ZnamRKSt9nothrow_t(bytes, tag);
}
int __wrap_open(const char *path, int flags, ...) {
  return fails(Fault::Io) ? -1 : __real_open(path, flags);
}
int __wrap_fstat(int fd, struct stat *info) {
  return fails(Fault::Io) ? -1 : __real_fstat(fd, info);
}
ssize_t __wrap_pread(int fd, void *to, size_t bytes, off_t offset) {
  return fails(Fault::Io) ? -1 : __real_pread(fd, to, bytes, offset);
}
}

// ---- one life of a model
// -------------------------------------------------------------------------

namespace {

constexpr uint32_t kBatch = 32;
constexpr size_t kPrompt = 75;  // two full batches and a part of one
constexpr int kSteps = 4;

// Everything that a life gives.
struct Results {
  std::vector<int32_t> tokens;
  std::string text;
  std::vector<float> logits;
  std::vector<uint8_t> bytes;  // of a tensor

  bool operator==(const Results &other) const {
    return tokens == other.tokens && text == other.text && bytes == other.bytes &&
           logits.size() == other.logits.size() &&
           std::memcmp(logits.data(), other.logits.data(), logits.size() * sizeof(float)) == 0;
  }
};

// Makes a call that may meet the failure; then checks what it says, and makes it again without one.
template <class Call>
void attempt(const char *what, const Call &call) {
  const Fault fault = g_fault.load();
  const bool fired_before = g_fired.load();
  const qwen35_status status = call();
  if (status == QWEN35_OK) return;
  expect(g_fired.load() && !fired_before, what);
  expect(status == (fault == Fault::Memory ? QWEN35_ERROR_MEMORY : QWEN35_ERROR_IO), what);
  expect(qwen35_last_error()[0] != '\0', "a failure has a message");
  g_fault.store(Fault::None);
  expect_ok(call(), what);
}

// As attempt(), for a call that gives a handle: a failure must leave it alone.
template <class Handle, class Call>
std::unique_ptr<Handle, Closer> attempt_open(const char *what, const Call &call) {
  Handle *const untouched = reinterpret_cast<Handle *>(8);
  Handle *handle = untouched;
  attempt(what, [&] {
    const qwen35_status status = call(&handle);
    expect(status == QWEN35_OK || handle == untouched, "the output of a failed call");
    return status;
  });
  return std::unique_ptr<Handle, Closer>(handle);
}

Model attempt_model(const char *path, bool use_mmap) {
  qwen35_model_params params;
  qwen35_model_defaults(&params);
  params.n_threads = 3;
  params.use_mmap = use_mmap;
  return attempt_open<qwen35_model>(
      "model_open", [&](qwen35_model **out) { return qwen35_model_open(path, &params, out); });
}

Session attempt_session(qwen35_model *model) {
  qwen35_session_params params;
  qwen35_session_defaults(&params);
  params.n_ctx = 128;
  params.n_batch = kBatch;
  return attempt_open<qwen35_session>("session_create", [&](qwen35_session **out) {
    return qwen35_session_create(model, &params, out);
  });
}

Sampler attempt_sampler(const qwen35_model *model) {
  const int32_t bias_tokens[] = {3, 5};
  const float bias_values[] = {1.0f, -1.0f};
  qwen35_sampling_params params;
  qwen35_sampling_defaults(&params);
  params.presence_penalty = 0.5f;
  params.n_logprobs = 2;
  params.bias_tokens = bias_tokens;
  params.bias_values = bias_values;
  params.n_bias = 2;
  return attempt_open<qwen35_sampler>("sampler_create", [&](qwen35_sampler **out) {
    return qwen35_sampler_create(model, &params, out);
  });
}

Stream attempt_stream(const qwen35_model *model) {
  const char *stops[] = {"never in the text", "nor this"};
  const size_t lengths[] = {17, 8};
  return attempt_open<qwen35_stream>("stream_create", [&](qwen35_stream **out) {
    return qwen35_stream_create(model, stops, lengths, 2, 1, out);
  });
}

void tokenize(const qwen35_model *model, Results *results) {
  const char *text = "Hello world, he\xcc\x81llo<|im_end|>";  // a combining accent: normalised
  results->tokens.resize(64);
  size_t n = 0;
  attempt("tokenize", [&] {
    return qwen35_tokenize(model, text, std::strlen(text), QWEN35_TOKENIZE_SPECIAL,
                           results->tokens.data(), results->tokens.size(), &n);
  });
  results->tokens.resize(n);
}

// Evaluates from wherever the session stands, as a caller that goes on after a failure.
void prefill(qwen35_session *session, const std::vector<int32_t> &tokens) {
  attempt("prefill", [&] {
    const uint32_t done = qwen35_session_position(session);
    expect(done % kBatch == 0, "a failed prefill stands behind a finished batch");
    return qwen35_session_eval(session, tokens.data() + done, tokens.size() - done, nullptr,
                               nullptr, nullptr);
  });
}

void generate(const qwen35_model *model, qwen35_session *session, uint32_t n_vocab,
              Results *results) {
  const Sampler sampler = attempt_sampler(model);
  const Stream stream = attempt_stream(model);
  const char *text = nullptr;
  size_t length = 0;
  int32_t stopped = 0;
  attempt("accept", [&] {
    return qwen35_sampler_accept(sampler.get(), results->tokens.data(), results->tokens.size(), 1);
  });
  for (int i = 0; i < kSteps; i++) {
    qwen35_sample drawn;
    attempt("sample", [&] { return qwen35_session_sample(session, sampler.get(), &drawn); });
    results->tokens.push_back(drawn.token);
    attempt("push", [&] {
      return qwen35_stream_push(stream.get(), drawn.token, &text, &length, &stopped);
    });
    results->text.append(text, length);
    std::vector<float> row(n_vocab);
    qwen35_outputs outputs = {};
    outputs.struct_size = sizeof outputs;
    outputs.logits = row.data();
    attempt("decode", [&] {
      return qwen35_session_eval(session, &drawn.token, 1, &outputs, nullptr, nullptr);
    });
    results->logits.insert(results->logits.end(), row.begin(), row.end());
  }
  const uint32_t lengths[] = {1, 2};
  std::vector<float> rows(3ull * n_vocab);
  attempt("branch", [&] {
    return qwen35_session_branch(session, results->tokens.data(), lengths, 2, nullptr, rows.data());
  });
  results->logits.insert(results->logits.end(), rows.begin(), rows.end());
  // The same in the pass of tokens before them, which are a prompt's on every tier.
  const std::vector<int32_t> more(9, results->tokens[0]);
  rows.resize(4ull * n_vocab);
  qwen35_outputs joined = {};
  joined.struct_size = sizeof joined;
  joined.logits = rows.data();
  joined.n_branches = 2;
  joined.branch_lengths = lengths;
  joined.branch_tokens = results->tokens.data();
  attempt("eval with branches", [&] {
    return qwen35_session_eval(session, more.data(), more.size(), &joined, nullptr, nullptr);
  });
  results->logits.insert(results->logits.end(), rows.begin(), rows.end());
  attempt("finish", [&] { return qwen35_stream_finish(stream.get(), &text, &length); });
  results->text.append(text, length);
}

// A picture, when the file has a tower, and a token behind it.
void look(const char *path, qwen35_model *model, qwen35_session *session, uint32_t n_vocab,
          Results *results) {
  if (qwen35_model_string(model, "clip.projector_type") == nullptr) return;
  const Vision vision = attempt_open<qwen35_vision>(
      "vision_open", [&](qwen35_vision **out) { return qwen35_vision_open(model, path, out); });
  qwen35_vision_info info;
  expect_ok(qwen35_vision_get_info(vision.get(), &info), "vision_get_info");
  std::vector<uint8_t> pixels(96 * 352 * 3);
  for (size_t i = 0; i < pixels.size(); i++) pixels[i] = static_cast<uint8_t>(i * 31);
  std::vector<float> rows(33ull * info.n_out), row(n_vocab);
  attempt("encode", [&] {
    return qwen35_vision_encode(vision.get(), pixels.data(), nullptr, 96, 352, rows.data(), nullptr,
                                nullptr);
  });
  const uint32_t before = qwen35_session_position(session);
  attempt("eval_picture", [&] {
    expect(qwen35_session_position(session) == before, "half a picture is not evaluated");
    return qwen35_session_eval_picture(session, rows.data(), 3, 11, nullptr, nullptr, nullptr);
  });
  qwen35_outputs outputs = {};
  outputs.struct_size = sizeof outputs;
  outputs.logits = row.data();
  attempt("token behind a picture", [&] {
    return qwen35_session_eval(session, results->tokens.data(), 1, &outputs, nullptr, nullptr);
  });
  results->logits.insert(results->logits.end(), row.begin(), row.end());
}

void read_tensor(const char *path, Results *results) {
  const GgufFile file = attempt_open<qwen35_gguf>(
      "gguf_open", [&](qwen35_gguf **out) { return qwen35_gguf_open(path, out); });
  qwen35_gguf_tensor tensor;
  attempt("get_tensor", [&] { return qwen35_gguf_get_tensor(file.get(), 0, &tensor); });
  results->bytes.resize(tensor.bytes);
  attempt("read",
          [&] { return qwen35_gguf_read(file.get(), 0, 0, results->bytes.data(), tensor.bytes); });
}

Results live(const char *path, bool use_mmap) {
  Results results;
  read_tensor(path, &results);
  const Model model = attempt_model(path, use_mmap);
  const Session session = attempt_session(model.get());
  tokenize(model.get(), &results);
  prefill(session.get(), make_tokens(kPrompt, 3));
  qwen35_model_info info;
  expect_ok(qwen35_model_get_info(model.get(), &info), "model_get_info");
  generate(model.get(), session.get(), info.n_vocab, &results);
  look(path, model.get(), session.get(), info.n_vocab, &results);
  return results;
}

// Lets the 1st, 2nd, ... call of a kind fail; returns how many there are.
long check_faults(const char *path, bool use_mmap, Fault fault, bool repeat) {
  const Results expected = live(path, use_mmap);
  for (long n = 0;; n++) {
    g_countdown.store(n);
    g_repeat.store(repeat);
    g_fired.store(false);
    g_fault.store(fault);
    const Results results = live(path, use_mmap);
    g_fault.store(Fault::None);
    expect(results == expected, "the results after a failure");
    if (!g_fired.load()) return n;
  }
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: check_faults MODEL\n");
    return 2;
  }
  for (const bool use_mmap : {false, true}) {
    for (const bool repeat : {false, true}) {
      const long memory = check_faults(argv[1], use_mmap, Fault::Memory, repeat);
      const long io = check_faults(argv[1], use_mmap, Fault::Io, repeat);
      expect(memory > 50 && io > 5, "the calls of the library reach the failing ones");
      std::printf("use_mmap %d, repeat %d: %ld allocations, %ld file accesses\n", use_mmap, repeat,
                  memory, io);
    }
  }
  return 0;
}
