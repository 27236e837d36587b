// Stop strings by Knuth-Morris-Pratt (the length matched so far is exactly what must be held back),
// and the UTF-8 decoder after it.
#include "runtime/text_stream.h"

#include <algorithm>

namespace q35 {

namespace {

// Room was reserved by the caller.
void append_reserved(const char *bytes, size_t n, Array<char> *out) {
  std::memcpy(out->data() + out->size(), bytes, n);
  out->truncate(out->size() + n);
}

void append_replacement(Array<char> *out) {
  append_reserved("\xEF\xBF\xBD", 3, out);  // U+FFFD
}

std::string_view view(const Array<char> &text) {
  return text.empty() ? std::string_view("") : std::string_view(text.data(), text.size());
}

}  // namespace

// The ranges of Unicode's table 3-7: the second byte excludes overlong forms (E0, F0), surrogates
// (ED) and code points above 10FFFF (F4).
void Utf8Filter::start(uint8_t byte, Array<char> *out) {
  if (byte < 0x80) {
    const char ascii = static_cast<char>(byte);
    return append_reserved(&ascii, 1, out);
  }
  if (byte < 0xC2 || byte > 0xF4) return append_replacement(out);
  held_[0] = byte;
  n_held_ = 1;
  n_total_ = byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  lowest_ = byte == 0xE0 ? 0xA0 : byte == 0xF0 ? 0x90 : 0x80;
  highest_ = byte == 0xED ? 0x9F : byte == 0xF4 ? 0x8F : 0xBF;
}

void Utf8Filter::push(uint8_t byte, Array<char> *out) {
  if (n_held_ == 0) return start(byte, out);
  if (byte < lowest_ || byte > highest_) {
    flush(out);
    return start(byte, out);
  }
  held_[n_held_++] = byte;
  lowest_ = 0x80;
  highest_ = 0xBF;
  if (n_held_ < n_total_) return;
  append_reserved(reinterpret_cast<const char *>(held_), n_total_, out);
  n_held_ = 0;
}

void Utf8Filter::flush(Array<char> *out) {
  if (n_held_ != 0) append_replacement(out);
  n_held_ = 0;
}

Status TextStream::init(const Tokenizer *tokenizer, const std::string_view *stops, size_t n_stops,
                        bool special) {
  tokenizer_ = tokenizer;
  special_ = special;
  if (n_stops > kMaxStops) {
    return fail(QWEN35_ERROR_ARGUMENT, "%zu stop strings: expected at most %zu", n_stops,
                kMaxStops);
  }
  for (size_t i = 0; i < n_stops; i++) {
    if (stops[i].empty() || stops[i].size() > kMaxStopBytes) {
      return fail(QWEN35_ERROR_ARGUMENT, "stop string %zu has %zu bytes: expected 1 to %zu", i,
                  stops[i].size(), kMaxStopBytes);
    }
    Q35_TRY(add_stop(stops[i]));
  }
  return kOk;
}

Status TextStream::add_stop(std::string_view bytes) {
  Stop stop = {};
  stop.offset = static_cast<uint32_t>(stop_bytes_.size());
  stop.length = static_cast<uint32_t>(bytes.size());
  Q35_TRY(stop_bytes_.append(bytes.data(), bytes.size()));
  Q35_TRY(borders_.resize(stop_bytes_.size()));
  for (size_t i = 1; i < bytes.size(); i++) {  // the string matched against itself
    advance(&stop, bytes[i]);
    borders_[stop.offset + i] = stop.matched;
  }
  stop.matched = 0;
  return stops_.push_back(stop);
}

void TextStream::advance(Stop *stop, char byte) const {
  const char *bytes = stop_bytes_.data() + stop->offset;
  const uint32_t *borders = borders_.data() + stop->offset;
  uint32_t n = stop->matched;
  while (n > 0 && bytes[n] != byte) n = borders[n - 1];
  stop->matched = bytes[n] == byte ? n + 1 : 0;
}

// Advances every stop string; the index of the one that `byte` completes, else -1.
int32_t TextStream::match(char byte) {
  int32_t best = -1;
  for (size_t i = 0; i < stops_.size(); i++) {
    Stop &stop = stops_[i];
    advance(&stop, byte);
    if (stop.matched < stop.length) continue;
    if (best < 0 || stop.length > stops_[best].length) best = static_cast<int32_t>(i);
  }
  return best;
}

// Decodes the first n held bytes and drops them.
void TextStream::release(size_t n) {
  for (size_t i = 0; i < n; i++) filter_.push(static_cast<uint8_t>(held_[i]), &out_);
  std::memmove(held_.data(), held_.data() + n, held_.size() - n);
  held_.truncate(held_.size() - n);
}

Status TextStream::push(int32_t token, std::string_view *text, int32_t *stopped) {
  if (token < 0 || token >= tokenizer_->size()) {
    return fail(QWEN35_ERROR_ARGUMENT, "token is %d: expected an id from 0 to %d", token,
                tokenizer_->size() - 1);
  }
  const TokenType type = tokenizer_->type(token);
  const bool prints = type != TokenType::Unused && (special_ || type != TokenType::Control);
  return push_bytes(prints ? tokenizer_->bytes(token) : std::string_view(), text, stopped);
}

Status TextStream::push_bytes(std::string_view bytes, std::string_view *text, int32_t *stopped) {
  if (finished_) return fail(QWEN35_ERROR_ARGUMENT, "the text stream was finished already");
  // All that can fail comes first. One byte more than needed keeps the pointers non-null.
  Q35_TRY(held_.reserve(held_.size() + bytes.size() + 1));
  Q35_TRY(out_.reserve(Utf8Filter::bound(held_.size() + bytes.size())));
  out_.clear();
  for (const char byte : stopped_ < 0 ? bytes : std::string_view()) {
    append_reserved(&byte, 1, &held_);
    stopped_ = match(byte);
    if (stopped_ >= 0) break;
  }
  if (stopped_ >= 0) {
    if (!held_.empty()) release(held_.size() - stops_[stopped_].length);
    held_.clear();
    filter_.flush(&out_);
  } else {
    size_t n_open = 0;
    for (const Stop &stop : stops_) n_open = std::max<size_t>(n_open, stop.matched);
    release(held_.size() - n_open);
  }
  *text = view(out_);
  *stopped = stopped_;
  return kOk;
}

Status TextStream::finish(std::string_view *text) {
  Q35_TRY(held_.reserve(held_.size() + 1));
  Q35_TRY(out_.reserve(Utf8Filter::bound(held_.size())));
  out_.clear();
  release(held_.size());
  filter_.flush(&out_);
  finished_ = true;
  *text = view(out_);
  return kOk;
}

}  // namespace q35
