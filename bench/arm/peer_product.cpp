// llama.cpp's product of a matrix and some tokens, for bench/arm_cost.py:
//
//     peer_product TYPE ROWS COLS TOKENS REPEATS
//
// One thread, weights in the layout that llama.cpp chooses for the CPU.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <strings.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

namespace {

ggml_type type_of(const char *name) {
  for (int i = 0; i < GGML_TYPE_COUNT; i++) {
    const ggml_type type = static_cast<ggml_type>(i);
    const char *known = ggml_type_name(type);
    if (known != nullptr && strcasecmp(known, name) == 0) return type;
  }
  std::fprintf(stderr, "no type %s\n", name);
  std::exit(2);
}

std::vector<float> some_floats(size_t n) {
  std::vector<float> values(n);
  uint32_t state = 1;
  for (float &value : values) {
    state = state * 1664525u + 1013904223u;
    value = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
  }
  return values;
}

ggml_context *new_context() {
  ggml_init_params params = {};
  params.mem_size = 1 << 20;
  params.no_alloc = true;
  return ggml_init(params);
}

struct Product {
  ggml_tensor *w, *x, *y;
  ggml_cgraph *graph;
};

// The product with weights in buffers of a type; y is null when there is no such product.
Product make(ggml_backend_t backend, ggml_backend_buffer_type_t buffers, ggml_type type,
             int64_t rows, int64_t cols, int64_t tokens) {
  Product p = {};
  ggml_context *weights = new_context(), *rest = new_context();
  p.w = ggml_new_tensor_2d(weights, type, cols, rows);
  if (ggml_backend_alloc_ctx_tensors_from_buft(weights, buffers) == nullptr) return {};
  p.x = ggml_new_tensor_2d(rest, GGML_TYPE_F32, cols, tokens);
  p.y = ggml_mul_mat(rest, p.w, p.x);
  if (!ggml_backend_supports_op(backend, p.y)) return {};
  p.graph = ggml_new_graph(rest);
  ggml_build_forward_expand(p.graph, p.y);
  ggml_backend_alloc_ctx_tensors(rest, backend);
  return p;
}

}  // namespace

int main(int argc, char **argv) {
  if (argc != 6) return 2;
  const ggml_type type = type_of(argv[1]);
  const int64_t rows = std::atoll(argv[2]), cols = std::atoll(argv[3]);
  const int64_t tokens = std::atoll(argv[4]);
  ggml_backend_t backend = ggml_backend_cpu_init();
  ggml_backend_cpu_set_n_threads(backend, 1);
  ggml_backend_dev_t device = ggml_backend_get_device(backend);
  const auto extra =
      reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(
          ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
  Product p = {};
  const char *layout = "as in the file";
  if (ggml_backend_buffer_type_t *buffers = extra == nullptr ? nullptr : extra(device)) {
    for (; *buffers != nullptr && p.y == nullptr; buffers++) {
      p = make(backend, *buffers, type, rows, cols, tokens);
      if (p.y != nullptr) layout = ggml_backend_buft_name(*buffers);
    }
  }
  if (p.y == nullptr) {
    p = make(backend, ggml_backend_get_default_buffer_type(backend), type, rows, cols, tokens);
  }
  if (p.y == nullptr) return 1;
  const std::vector<float> values = some_floats(static_cast<size_t>(rows * cols));
  std::vector<char> blocks(ggml_nbytes(p.w));
  ggml_quantize_chunk(type, values.data(), blocks.data(), 0, rows, cols, nullptr);
  ggml_backend_tensor_set(p.w, blocks.data(), 0, blocks.size());
  const std::vector<float> x = some_floats(static_cast<size_t>(tokens * cols));
  ggml_backend_tensor_set(p.x, x.data(), 0, x.size() * sizeof(float));
  for (int i = 0; i < std::atoi(argv[5]); i++) ggml_backend_graph_compute(backend, p.graph);
  float y = 0;
  ggml_backend_tensor_get(p.y, &y, 0, sizeof y);
  std::printf("%s: %g\n", layout, static_cast<double>(y));
  return 0;
}
