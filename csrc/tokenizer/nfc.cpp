// Normalisation form C. Only the stretches that may change are taken apart and put together again.
#include <algorithm>

#include "tokenizer/unicode.h"

namespace q35 {

namespace {

struct Decomposition {
  uint32_t whole, first, second;  // second 0: a singleton
};
struct Composition {
  uint32_t first, second, whole;
};

}  // namespace

#include "tokenizer/unicode_data.inc"

namespace {

// Hangul syllables decompose by arithmetic: (lead, vowel, optional tail), Unicode section 3.12.
constexpr uint32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11a7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTailCount;

struct Char {
  uint32_t cp;
  uint8_t combining_class;
};

// Appends the full canonical decomposition.
Status decompose(uint32_t cp, Array<Char> *out) {
  if (cp - kSyllables < kSyllableCount) {
    const uint32_t s = cp - kSyllables, tail = s % kTailCount;
    Q35_TRY(out->push_back({kLeads + s / (kVowelCount * kTailCount), 0}));
    Q35_TRY(out->push_back({kVowels + s % (kVowelCount * kTailCount) / kTailCount, 0}));
    return tail == 0 ? kOk : out->push_back({kTails + tail, 0});
  }
  uint32_t seconds[8];  // second parts never decompose; the longest chain in the table has 3 steps
  int depth = 0;
  while (depth < 8) {
    const Decomposition *end = std::end(kDecompositions);
    const Decomposition *found =
        std::lower_bound(std::begin(kDecompositions), end, cp,
                         [](const Decomposition &d, uint32_t value) { return d.whole < value; });
    if (found == end || found->whole != cp) break;
    cp = found->first;
    if (found->second != 0) seconds[depth++] = found->second;
  }
  Q35_TRY(out->push_back({cp, char_info(cp).combining_class}));
  while (depth > 0) {
    const uint32_t second = seconds[--depth];
    Q35_TRY(out->push_back({second, char_info(second).combining_class}));
  }
  return kOk;
}

// The primary composite of a pair, or 0.
uint32_t compose(uint32_t first, uint32_t second) {
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  }
  if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTailCount == 0 &&
      second - kTails - 1 < kTailCount - 1) {
    return first + (second - kTails);
  }
  const Composition *end = std::end(kCompositions);
  const Composition *found = std::lower_bound(
      std::begin(kCompositions), end, second, [first](const Composition &c, uint32_t value) {
        return c.first != first ? c.first < first : c.second < value;
      });
  return found != end && found->first == first && found->second == second ? found->whole : 0;
}

// Sorts chars[0..n), no starters among them, by combining class, keeping the order of equals.
Status order_marks(Char *chars, size_t n, Array<Char> *scratch) {
  if (n <= 16) {
    for (size_t i = 1; i < n; i++) {
      const Char moved = chars[i];
      size_t j = i;
      for (; j > 0 && chars[j - 1].combining_class > moved.combining_class; j--) {
        chars[j] = chars[j - 1];
      }
      chars[j] = moved;
    }
    return kOk;
  }
  size_t next[257] = {};  // first place of each class
  for (size_t i = 0; i < n; i++) next[chars[i].combining_class + 1]++;
  for (int c = 0; c < 256; c++) next[c + 1] += next[c];
  scratch->clear();
  Q35_TRY(scratch->append(chars, n));
  for (const Char &c : *scratch) chars[next[c.combining_class]++] = c;
  return kOk;
}

Status order_all_marks(Array<Char> *chars, Array<Char> *scratch) {
  for (size_t i = 0; i < chars->size();) {
    size_t end = i;
    while (end < chars->size() && (*chars)[end].combining_class != 0) end++;
    if (end - i > 1) Q35_TRY(order_marks(chars->data() + i, end - i, scratch));
    i = end + 1;
  }
  return kOk;
}

// Composes in place. A character joins the last starter unless one of the same or a higher class,
// or another starter, stands between them.
void compose_all(Array<Char> *chars) {
  size_t kept = 0, starter = SIZE_MAX;
  for (size_t i = 0; i < chars->size(); i++) {
    const Char c = (*chars)[i];
    const bool adjacent = starter != SIZE_MAX && starter + 1 == kept;
    const bool blocked = starter == SIZE_MAX ||
                         (!adjacent && (*chars)[kept - 1].combining_class >= c.combining_class);
    const uint32_t whole = blocked ? 0 : compose((*chars)[starter].cp, c.cp);
    if (whole != 0) {
      (*chars)[starter].cp = whole;
      continue;
    }
    if (c.combining_class == 0) starter = kept;
    (*chars)[kept++] = c;
  }
  chars->truncate(kept);
}

// Finds the next stretch [*begin, *end) that may not be NFC, from text[at], where a stable starter
// (or the start of the text) stands. Returns false when the rest is NFC.
bool find_unstable(std::string_view text, size_t at, size_t *begin, size_t *end) {
  size_t safe = at;  // NFC of what precedes does not depend on what follows
  uint8_t last_class = 0;
  for (;;) {
    const size_t run = ascii_run(text, at);
    if (run != 0) {
      at += run;
      safe = at - 1;
      last_class = 0;
    }
    if (at >= text.size()) return false;
    const size_t here = at;
    const CharInfo info = char_info(decode_utf8(text, &at));
    if (info.nfc_stable && info.combining_class == 0) safe = here;
    if (!info.nfc_stable || (info.combining_class != 0 && info.combining_class < last_class)) break;
    last_class = info.combining_class;
  }
  *begin = safe;
  while (at < text.size()) {
    const size_t here = at;
    const CharInfo info = char_info(decode_utf8(text, &at));
    if (info.nfc_stable && info.combining_class == 0) {
      at = here;
      break;
    }
  }
  *end = at;
  return true;
}

Status append_utf8(const Array<Char> &chars, Array<char> *out) {
  for (const Char &c : chars) {
    char bytes[4];
    Q35_TRY(out->append(bytes, encode_utf8(c.cp, bytes)));
  }
  return kOk;
}

}  // namespace

Status normalize_nfc(std::string_view text, Array<char> *buffer, std::string_view *out) {
  Array<Char> chars, scratch;
  size_t copied = 0, begin = 0, end = 0;
  buffer->clear();
  while (find_unstable(text, copied, &begin, &end)) {
    Q35_TRY(buffer->append(text.data() + copied, begin - copied));
    chars.clear();
    for (size_t at = begin; at < end;) Q35_TRY(decompose(decode_utf8(text, &at), &chars));
    Q35_TRY(order_all_marks(&chars, &scratch));
    compose_all(&chars);
    Q35_TRY(append_utf8(chars, buffer));
    copied = end;
  }
  if (copied == 0) {
    *out = text;
    return kOk;
  }
  Q35_TRY(buffer->append(text.data() + copied, text.size() - copied));
  *out = std::string_view(buffer->data(), buffer->size());
  return kOk;
}

}  // namespace q35
