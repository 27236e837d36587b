// The table of compute kernels. scalar/ fills every slot; each ISA tier the CPU has overlays its
// own, weakest first (init in dispatch.cpp). A table is passed around, never global, so one process
// can hold two and compare them.
//
// Rules: a kernel allocates nothing, starts no thread, cannot fail, and works on a sub-range that
// the caller chose. Names follow q35_<op>_<types>_<isa>.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "quant/quant.h"
#include "quant/weave.h"

namespace q35 {

// Activations are quantised to int8 in groups of kActGroup values with a float scale each.
constexpr uint32_t kActGroup = 32;
// Columns of the right operand of gemm_f32, and the width of a state block of the delta rule.
constexpr uint32_t kTileCols = 32;
// Most tokens that gemv takes at once; more go through gemm.
constexpr uint32_t kGemvMaxCols = 8;

// Quantised activations of some tokens: token t has q + t*k, d + t*(k/32), s + t*(k/16).
struct ActQ8 {
  const int8_t *q;  // [tokens, k] in [-127, 127]
  const float *d;   // [tokens, k/32] scale: x = d * q
  const float *s;   // [tokens, k/16] d * (sum of the 16 q): for formats with an offset or a minimum
};

// y[c * y_stride + r] = sum_k W[r][k] * x[c][k] for r in [0, rows), c in [0, n_cols), n_cols <= 8.
struct GemvArgs {
  const uint8_t *w;  // rows of blocks as in the file, or
  bool woven;        // woven by this tier: then it is the first of a group of 16 rows
  uint64_t row_bytes;
  uint32_t rows;
  uint32_t k;
  uint32_t n_cols;
  ActQ8 act;       // for integer formats
  const float *x;  // [n_cols, k], for float formats
  float *y;
  uint64_t y_stride;
};
using GemvFn = void (*)(const GemvArgs &);

// What the two high bits h of a weight say of it, by the scale of its group: weight =
// step * (2h - 3) and something of this variance.
struct HighBits {
  float step, variance;
};

// A first look at products of woven rows, from the high bits of their weights alone where those lie
// apart: a part of the bytes says which rows cannot have large products.
struct ScreenArgs {
  const uint8_t *w;  // woven, the first of a group of 16 rows
  uint64_t row_bytes;
  uint32_t rows;  // whole groups
  uint32_t k;
  uint32_t n_cols;  // up to kGemvMaxCols
  HighBits bits;
  ActQ8 act;
  const int32_t *start;  // [n_cols, k/16] -3 times the sum of 16 activations, as integers
  const float *energy;   // [n_cols, k/16] the sum of the squares of 16 activations
  float *y;              // [n_cols, rows] at y_stride: expected products
  uint64_t y_stride;
  // If what is missing of the weights is independent, a product lies around its y with this
  // standard deviation: [n_cols, rows] at y_stride, or null.
  float *deviation;
  float sure;
  // [n_cols, rows/16] at group_stride, of each group the largest y, and y + sure * deviation. A row
  // that gives no number may have any product: -inf counts for its y, and inf for its bound.
  float *best, *bound;
  uint64_t group_stride;
};
using ScreenFn = void (*)(const ScreenArgs &);

// Shape of one panel: weights of panel_rows rows, unpacked to int8 with float scales.
struct PanelShape {
  uint32_t k;
  uint32_t group;  // 16 or 32 values per scale
  bool has_min;
};

// Rows of weights for a panel; woven as in GemvArgs.
struct PanelRows {
  const uint8_t *w;
  bool woven;
  uint64_t row_bytes;
  uint32_t rows;
};

// Products of bf16 in tiles of 16 x 32 by 32 x 16 values. Packed factors, rounded to bf16:
//   left   [m / 16][k / 32][16 rows][32]
//   right  [n / 16][k / 32][16 pairs along k][16 columns][2]
// Of two parts is a factor with 16 bits of mantissa: behind each tile is one of what rounding lost.
// Missing values of k are zeros; missing rows and columns are anything, their sums are not stored.
enum class Split : uint8_t { None, Left, Right };

struct Bf16Product {
  const uint16_t *left;
  uint64_t left_step;     // values from 16 rows to the next: more than k needs in a part of it
  const uint16_t *right;  // packed with this k
  uint32_t m, n, k;
  bool add;                   // to what out holds
  Split split = Split::None;  // which factor is of two parts
};

struct Bf16Kernels {
  // From x: [m, k] at `stride`, the second of two parts; from x: [k, m], with out_step values from
  // 16 rows to the next.
  void (*pack_left)(const float *x, uint64_t stride, uint32_t m, uint32_t k, uint16_t *out);
  void (*pack_left_split)(const float *x, uint64_t stride, uint32_t m, uint32_t k, uint16_t *out);
  void (*pack_left_transposed)(const float *x, uint64_t stride, uint32_t m, uint32_t k,
                               uint64_t out_step, uint16_t *out);
  // Of two parts, from x: [n, k] at `stride`.
  void (*pack_right_split)(const float *x, uint64_t stride, uint32_t n, uint32_t k, uint16_t *out);
  // softmax_cols, below, whose weights are packed: s: [k, 32] of scores, which stay. To 3e-6.
  void (*softmax_right)(const float *s, uint32_t k, float *m, float *l, float *shrink,
                        uint16_t *out);
  // From rows of a matrix of any type, values first_k to first_k + k of them: whole blocks.
  void (*pack_right_transposed)(const TypeTraits &type, const PanelRows &from, uint32_t first_k,
                                uint32_t k, uint16_t *out);
  // out[i * stride + j] = sum_k left[i][k] * right[k][j], i in [0, m), j in [0, n). Sums are
  // floats, in the order of k whatever m and n are.
  void (*gemm)(const Bf16Product &product, float *out, uint64_t stride);
};

// Of a packed factor of n rows (or columns) of k values; one of two parts has twice as many.
inline uint64_t bf16_values(uint32_t n, uint32_t k) {
  return ((uint64_t{n} + 15) & ~15ull) * ((k + 31) & ~31u);
}

struct Kernels {
  const char *isa;

  // Up to how many tokens may share a call of gemv without changing a bit of each other's products:
  // code for more tokens may sum in another order. same_many: gemm_q8 gives those bits as well
  // (integer formats).
  uint32_t same_cols;
  bool same_many;

  // ---- activations
  // x: [k] -> q: [k], d: [k/32], s: [k/16]; rounds to nearest even.
  void (*quantize_q8)(const float *x, uint32_t k, int8_t *q, float *d, float *s);

  // ---- few tokens: streams the blocks once. By DType number; null: go through a panel.
  GemvFn gemv[32];
  // By DType number: how matrices are woven for gemv and pack_panel, which take plain rows as well.
  // Null: this tier wants them as in the file.
  WeaveFn weave[32];

  // By DType number; null: the high bits do not lie apart, or the tier has no use for them.
  ScreenFn screen[32];

  // ---- many tokens: integer panels (private layout of the tier)
  uint32_t panel_rows;   // rows in a panel
  uint32_t tile_tokens;  // tokens in an activation tile
  size_t (*panel_bytes)(const PanelShape &shape);
  size_t (*tile_bytes)(uint32_t k);
  // Unpacks up to panel_rows rows into `panel`; what stands for missing rows is never stored.
  // scratch: at least pack_scratch_bytes(k).
  void (*pack_panel)(const TypeTraits &type, const PanelRows &from, uint32_t k, void *panel,
                     void *scratch);
  size_t (*pack_scratch_bytes)(uint32_t k);
  // Lays out n <= tile_tokens tokens (missing ones become zero).
  void (*pack_tile)(const ActQ8 &act, uint32_t n, uint32_t k, void *tile);
  // out[t * out_stride + r] for t in [0, n), r in [0, rows).
  void (*gemm_q8)(const PanelShape &shape, const void *panel, const void *tile, uint32_t rows,
                  uint32_t n, float *out, uint64_t out_stride);

  // ---- many tokens, rounded to bf16: all null where the CPU has no instructions for it
  Bf16Kernels bf16;

  // ---- float matrix product: c[i][j] = alpha * c[i][j] + sum_k a[i * a_row + k * a_k] * b[k][j]
  // for i in [0, m), j in [0, 32). alpha == 0 does not read c. b: [k_count] rows of 32 at b_stride.
  void (*gemm_f32)(const float *a, uint64_t a_row, uint64_t a_k, uint32_t m, const float *b,
                   uint64_t b_stride, uint32_t k_count, float alpha, float *c, uint64_t c_stride);
  // x[i] -= sum_{j<i} a[i * a_stride + j] * x[j] for i in [0, n): unit lower triangular solve of 32
  // columns. x: [n, 32] at x_stride.
  void (*solve_lower)(const float *a, uint64_t a_stride, uint32_t n, float *x, uint64_t x_stride);

  // ---- rows of floats; every length is a multiple of 16 unless stated
  void (*rms_norm)(const float *x, const float *w, uint32_t n, float eps, float *y);
  // y = (x - mean(x)) * rsqrt(variance(x) + eps) * w + b
  void (*layer_norm)(const float *x, const float *w, const float *b, uint32_t n, float eps,
                     float *y);
  // x = gelu(x + bias): by the tanh approximation, and the exact one, which is so small a part that
  // every tier has the scalar function.
  void (*gelu_tanh)(float *x, const float *bias, uint32_t n);
  void (*gelu_erf)(float *x, const float *bias, uint32_t n);
  // y = w * x * rsqrt(mean(x^2) + eps) * silu(z)
  void (*gated_norm)(const float *x, const float *z, const float *w, uint32_t n, float eps,
                     float *y);
  // x *= scale * rsqrt(sum(x^2) + eps)
  void (*l2_norm)(float *x, uint32_t n, float eps, float scale);
  void (*add)(float *x, const float *y, uint32_t n);                           // x += y
  void (*silu_mul)(const float *gate, const float *up, uint32_t n, float *y);  // silu(gate) * up
  void (*sigmoid_mul)(float *x, const float *gate, uint32_t n);                // x *= sigmoid(gate)
  void (*scale)(float *x, float factor, uint32_t n);                           // x *= factor
  // Half-split rotation of x[0..n_rot): pairs (j, j + n_rot/2). cos, sin: [n_rot/2].
  // Any even n_rot.
  void (*rope)(float *x, const float *cos, const float *sin, uint32_t n_rot);
  // y[c] = silu(w[0][c] x0[c] + w[1][c] x1[c] + w[2][c] x2[c] + w[3][c] x3[c]); x3 the newest.
  // w: [4] rows of n at w_stride.
  void (*conv4_silu)(const float *x0, const float *x1, const float *x2, const float *x3,
                     const float *w, uint64_t w_stride, uint32_t n, float *y);
  // One token of the delta rule on 32 columns of a head's state. state: [d, 32].
  //   state *= decay;  delta = beta * (v - state^T k);  state += k delta^T;  o = state^T q
  // v: [32], overwritten with delta.
  void (*delta_step)(float *state, uint32_t d, const float *q, const float *k, float *v,
                     float decay, float beta, float *o);
  // The same change of the state from a delta that is known; the results are equal bit for bit.
  void (*delta_apply)(float *state, uint32_t d, const float *k, const float *delta, float decay);
  // Online softmax of one row of scores. m, l: running maximum and sum. s becomes exp(s - new m);
  // returns the factor by which earlier accumulations must shrink.
  float (*softmax_step)(float *s, uint32_t n, float *m, float *l);
  // The same for 32 rows at once, stored as columns: s: [n, 32]; m, l, shrink: [32].
  void (*softmax_cols)(float *s, uint32_t n, float *m, float *l, float *shrink);
  // x[i][j] *= factor[j] for i in [0, n), j in [0, 32)
  void (*scale_cols)(float *x, const float *factor, uint32_t n);
  // dot products of nq query rows with n keys: s[i * s_stride + j] = q[i] . k[j]. d % 32 == 0.
  // k: rows of d halves or floats at k_stride elements. ahead: n cache rows that will be needed
  // next, fetched on the way, or null; of any memory, since nothing is read.
  void (*qk_f16)(const float *q, uint64_t q_stride, uint32_t nq, const uint16_t *k,
                 uint64_t k_stride, uint32_t n, uint32_t d, float *s, uint64_t s_stride,
                 const void *ahead);
  void (*qk_f32)(const float *q, uint64_t q_stride, uint32_t nq, const float *k, uint64_t k_stride,
                 uint32_t n, uint32_t d, float *s, uint64_t s_stride, const void *ahead);
  // o[i] += sum_j p[i * p_stride + j] * v[j]
  void (*pv_f16)(const float *p, uint64_t p_stride, uint32_t nq, const uint16_t *v,
                 uint64_t v_stride, uint32_t n, uint32_t d, float *o, uint64_t o_stride,
                 const void *ahead);
  void (*pv_f32)(const float *p, uint64_t p_stride, uint32_t nq, const float *v, uint64_t v_stride,
                 uint32_t n, uint32_t d, float *o, uint64_t o_stride, const void *ahead);
  // The same over a cache of int8 rows of d values, a scale each; d <= 512, n <= 512. q and p are
  // 16-bit rows, q at stride d, so that only the cache itself is rounded noticeably; the products
  // are summed exactly, as integers. p holds one more value, 0, when n is odd.
  void (*qk_q8)(const int16_t *q, const float *q_scale, uint32_t nq, const int8_t *k,
                const float *k_scale, uint32_t n, uint32_t d, float *s, uint64_t s_stride,
                const void *ahead);
  // o[i] += p_scale[i] * sum_j p[i * p_stride + j] * v[j]
  void (*pv_q8)(const int16_t *p, uint64_t p_stride, const float *p_scale, uint32_t nq,
                const int8_t *v, uint32_t n, uint32_t d, float *o, uint64_t o_stride,
                const void *ahead);
  // x: [n] -> q in [-127, 127]; returns the scale.
  float (*quantize_i8)(const float *x, uint32_t n, int8_t *q);
  // x * factor, or x when factor is null: [n], any n -> q in [-32767, 32767], and a 0 behind an odd
  // n; returns the scale.
  float (*quantize_i16)(const float *x, const float *factor, uint32_t n, int16_t *q);
  void (*i8_to_f32)(const int8_t *x, float scale, uint32_t n, float *y);
  // x: [n], n % 32 == 0 -> places in kNormal16, two in a byte: byte i of each 16 holds value i of
  // 32 in its low half and value 16 + i in its high half. Returns the scale. For a step or a row at
  // a time: the scalar code serves every tier.
  float (*quantize_i4)(const float *x, uint32_t n, uint8_t *packed);
  void (*unpack_i4)(const uint8_t *packed, uint32_t n, int8_t *q);
  // In place, its own inverse: the orthonormal Walsh-Hadamard transform of each block of x, whose
  // length is the largest power of two that divides n. It spreads outliers over the block.
  void (*hadamard)(float *x, uint32_t n);
  void (*f16_to_f32)(const uint16_t *x, uint32_t n, float *y);
  void (*f32_to_f16)(const float *x, uint32_t n, uint16_t *y);

  // Runs the int8 dot product of this tier on registers alone and returns the multiply-adds done:
  // the peak that the matrix kernels are measured against.
  uint64_t (*int8_peak_loop)(uint64_t iterations);
};

// The 16 values that represent a normal distribution with the least squared error (Lloyd-Max),
// which is what the values of a rotated row are like; the largest of them is 2.733 standard
// deviations.
constexpr int8_t kNormal16[16] = {-127, -96, -75, -58, -44, -31, -18, -6,
                                  6,    18,  31,  44,  58,  75,  96,  127};

// CPU tiers, weakest first.
enum class Isa { Scalar, Avx2, AvxVnni, Avx512, Amx, Neon, NeonDotprod, NeonI8mm };

const char *isa_name(Isa isa);
// True when this build has the tier and this CPU can run it.
bool isa_available(Isa isa);
// The table of a tier that is available.
Kernels kernels_for(Isa isa);

// Overlays; defined in the ISA folders, called by kernels_for only.
void q35_init_scalar(Kernels *kernels);
void q35_init_avx2(Kernels *kernels);
void q35_init_avx_vnni(Kernels *kernels);
void q35_init_avx512(Kernels *kernels);
void q35_init_amx(Kernels *kernels);  // upon avx512
void q35_init_neon(Kernels *kernels);
void q35_init_neon_dotprod(Kernels *kernels);
void q35_init_neon_i8mm(Kernels *kernels);

}  // namespace q35
