// C API: tensor types, and conversion between floats and blocks.
#include <cmath>

#include "api/api.h"
#include "base/checked.h"
#include "quant/quant.h"

using q35::clear_error;
using q35::fail;
using q35::kOk;
using q35::refuse_null;
using q35::Status;
using q35::TypeTraits;

namespace {

using Wide = unsigned long long;

// The traits of a type that the caller named, or null and a message.
const TypeTraits *find_type(int32_t type, const char *function, Status *status) {
  const TypeTraits *traits = type < 0 ? nullptr : q35::type_traits(static_cast<uint32_t>(type));
  if (traits == nullptr) {
    *status = fail(QWEN35_ERROR_UNSUPPORTED, "%s: tensor type %d is not known", function,
                   static_cast<int>(type));
  }
  return traits;
}

// Both sides of the conversion must have a size that fits memory, and rows whole blocks.
Status check_shape(const TypeTraits &traits, uint64_t rows, uint64_t cols, const char *function) {
  if (rows == 0 || cols == 0) {
    return fail(QWEN35_ERROR_ARGUMENT, "%s: the shape %llu x %llu is empty", function,
                static_cast<Wide>(rows), static_cast<Wide>(cols));
  }
  if (cols % traits.block_size != 0) {
    return fail(QWEN35_ERROR_ARGUMENT, "%s: %llu columns are no multiple of %s's block of %u",
                function, static_cast<Wide>(cols), traits.name, traits.block_size);
  }
  uint64_t bytes = 0;
  if (!q35::checked_mul(rows, cols, &bytes) || !q35::checked_mul(bytes, sizeof(float), &bytes) ||
      bytes > PTRDIFF_MAX) {
    return fail(QWEN35_ERROR_ARGUMENT, "%s: the shape %llu x %llu is too large", function,
                static_cast<Wide>(rows), static_cast<Wide>(cols));
  }
  return kOk;
}

Status check_importance(const float *importance, uint64_t cols) {
  for (uint64_t i = 0; importance != nullptr && i < cols; i++) {
    if (!(importance[i] >= 0) || !std::isfinite(importance[i])) {
      return fail(QWEN35_ERROR_ARGUMENT,
                  "qwen35_quantize: importance[%llu] is %g; expected finite and >= 0",
                  static_cast<Wide>(i), static_cast<double>(importance[i]));
    }
  }
  return kOk;
}

// Blocks share their scale, so that one value which is not finite would spoil its neighbours.
Status check_finite(const float *src, uint64_t rows, uint64_t cols) {
  for (uint64_t i = 0; i < rows * cols; i++) {
    if (!std::isfinite(src[i])) {
      return fail(QWEN35_ERROR_ARGUMENT,
                  "qwen35_quantize: src[%llu, %llu] is %g; block formats hold finite values",
                  static_cast<Wide>(i / cols), static_cast<Wide>(i % cols),
                  static_cast<double>(src[i]));
    }
  }
  return kOk;
}

}  // namespace

qwen35_status qwen35_type_info(int32_t type, qwen35_type_traits *out) {
  clear_error();
  if (out == nullptr) return refuse_null("qwen35_type_info", "out");
  Status status = kOk;
  const TypeTraits *traits = find_type(type, "qwen35_type_info", &status);
  if (traits == nullptr) return status;
  out->name = traits->name;
  out->block_size = traits->block_size;
  out->block_bytes = traits->block_bytes;
  out->can_encode = traits->encode != nullptr;
  return kOk;
}

qwen35_status qwen35_quantize(int32_t type, const float *src, uint64_t rows, uint64_t cols,
                              const float *importance, void *dst) {
  clear_error();
  if (src == nullptr) return refuse_null("qwen35_quantize", "src");
  if (dst == nullptr) return refuse_null("qwen35_quantize", "dst");
  Status status = kOk;
  const TypeTraits *traits = find_type(type, "qwen35_quantize", &status);
  if (traits == nullptr) return status;
  if (traits->encode == nullptr) {
    return fail(QWEN35_ERROR_UNSUPPORTED, "qwen35_quantize: %s can only be read", traits->name);
  }
  Q35_TRY(check_shape(*traits, rows, cols, "qwen35_quantize"));
  Q35_TRY(check_importance(importance, cols));
  if (traits->group != 0) Q35_TRY(check_finite(src, rows, cols));
  const uint64_t row_bytes = q35::type_bytes(*traits, cols);
  for (uint64_t r = 0; r < rows; r++) {
    traits->encode(src + r * cols, importance, static_cast<uint8_t *>(dst) + r * row_bytes, cols);
  }
  return kOk;
}

qwen35_status qwen35_dequantize(int32_t type, const void *src, uint64_t rows, uint64_t cols,
                                float *dst) {
  clear_error();
  if (src == nullptr) return refuse_null("qwen35_dequantize", "src");
  if (dst == nullptr) return refuse_null("qwen35_dequantize", "dst");
  Status status = kOk;
  const TypeTraits *traits = find_type(type, "qwen35_dequantize", &status);
  if (traits == nullptr) return status;
  Q35_TRY(check_shape(*traits, rows, cols, "qwen35_dequantize"));
  traits->decode(static_cast<const uint8_t *>(src), dst, rows * cols);
  return kOk;
}
