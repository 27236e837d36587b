// Encoders of the formats that can be written, one function per format; contract in quant.h.
// Values that are not finite count as 0; magnitudes beyond a format's range saturate.
#pragma once

#include <cstddef>
#include <cstdint>

namespace q35 {

// src: [n], weight: [n] or null, dst: the blocks of n values; n a multiple of the block size.
void encode_f32(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_f16(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_bf16(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q4_0(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q4_1(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q5_0(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q5_1(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q8_0(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q2_k(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q3_k(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q4_k(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q5_k(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_q6_k(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_iq4_nl(const float *src, const float *weight, uint8_t *dst, size_t n);
void encode_iq4_xs(const float *src, const float *weight, uint8_t *dst, size_t n);

}  // namespace q35
