// Names what a file is when it is not GGUF: the common mistakes are a wrong download and a wrong
// format.
#include <cstring>

#include "gguf/header.h"

namespace q35::gguf {

namespace {

struct Signature {
  const char *bytes;
  size_t length;
  const char *what;
};

constexpr Signature kSignatures[] = {
    {"PK\x03\x04", 4, "a zip archive (perhaps a PyTorch checkpoint); convert the model to GGUF"},
    {"\x80\x02", 2, "a Python pickle; convert the model to GGUF"},
    {"\x80\x03", 2, "a Python pickle; convert the model to GGUF"},
    {"\x80\x04", 2, "a Python pickle; convert the model to GGUF"},
    {"\x80\x05", 2, "a Python pickle; convert the model to GGUF"},
    {"version https://git-lfs", 23, "a git-lfs pointer; download the real file (git lfs pull)"},
    {"<", 1, "a web page; the download did not give the model"},
    {"{", 1, "JSON text; expected a GGUF model file"},
    {"\x1f\x8b", 2, "a gzip archive; unpack it first"},
    {"\x28\xb5\x2f\xfd", 4, "a zstd archive; unpack it first"},
    {"ggml", 4, "an old GGML file; convert the model to GGUF"},
    {"lmgg", 4, "an old GGML file; convert the model to GGUF"},
    {"tjgg", 4, "an old GGJT file; convert the model to GGUF"},
    {"fmgg", 4, "an old GGMF file; convert the model to GGUF"},
    {"FUGG", 4, "a byte-swapped GGUF file; convert the model again as little-endian"},
};

bool all_zero(const uint8_t *data, uint64_t size) {
  for (uint64_t i = 0; i < size; i++) {
    if (data[i] != 0) return false;
  }
  return true;
}

}  // namespace

Status not_gguf(const char *name, const uint8_t *data, uint64_t size) {
  if (size == 0) return fail(QWEN35_ERROR_MODEL, "%s: the file is empty", name);
  for (const Signature &signature : kSignatures) {
    if (size >= signature.length && std::memcmp(data, signature.bytes, signature.length) == 0) {
      return fail(QWEN35_ERROR_MODEL, "%s: this is %s", name, signature.what);
    }
  }
  // safetensors: u64 length of a JSON header, then the header.
  if (size >= 9 && data[8] == '{' && data[6] == 0 && data[7] == 0) {
    return fail(QWEN35_ERROR_MODEL, "%s: this is a safetensors file; convert the model to GGUF",
                name);
  }
  if (all_zero(data, size < 64 ? size : 64)) {
    return fail(QWEN35_ERROR_MODEL, "%s: the file starts with zeros; the download is incomplete",
                name);
  }
  uint8_t magic[4] = {};
  std::memcpy(magic, data, size < 4 ? size : 4);
  return fail(
      QWEN35_ERROR_MODEL,
      "%s: not a GGUF file: magic at offset 0: expected 47 47 55 46, found %02x %02x %02x %02x",
      name, magic[0], magic[1], magic[2], magic[3]);
}

}  // namespace q35::gguf
