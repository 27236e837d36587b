"""Varied texts for comparing tokenizers: a seeded stream that reaches every branch of theirs."""

from __future__ import annotations

import random
import sys
import unicodedata
from collections.abc import Callable, Iterator

from qwen_tokens import SPECIAL_TOKENS

# fmt: off
ENGLISH = [
    "the", "of", "and", "to", "in", "is", "that", "it", "was", "for", "on", "are", "as", "with",
    "his", "they", "at", "be", "this", "from", "have", "or", "by", "one", "had", "not", "but",
    "what", "all", "were", "when", "we", "there", "can", "an", "your", "which", "their", "said",
    "if", "do", "will", "each", "about", "how", "up", "out", "them", "then", "she", "many", "some",
    "so", "these", "would", "other", "into", "has", "more", "her", "two", "like", "him", "see",
    "time", "could", "no", "make", "than", "first", "been", "its", "who", "now", "people", "my",
    "made", "over", "did", "down", "only", "way", "find",
]
# fmt: on
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'lL", "'Re", "'vE"]
CONTRACTIONS += [
    "'\u017f",
    "'l",
    "'r",
    "'v",
    "''s",
    "\u2019s",
    "'\u212a",
    "'\u017ft",
    "' s",
    "'11",
    "'",
]
SPACES = list(" \t\n\r\x0b\x0c\x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000")
SPACES += [" ", " ", " ", "\n", "\r\n", "\n\n", "  ", "\u200b", "\ufeff", "\x1c", "\x1f", "\u180e"]
MARKS = [chr(c) for c in range(0x300, 0x370)] + list("\u05b0\u0651\u093c\u094d\u0e38\u3099\u0345")
MARKS += list("\u0334\u20d0\ufe0f\u200d\U0001d165\U0001e944\u1ab0\u0d3b\U00010d24\u302a")
JAMO = [chr(c) for c in (*range(0x1100, 0x1115), *range(0x115F, 0x117A), *range(0x11A6, 0x11C6))]
EMOJI = [
    *"😀👍🎉❤🏳🌈👩👨👧👦🧑🚀☕🇩🇪🇯🇵🏽🏿",
    "👨\u200d👩\u200d👧\u200d👦",
    "🏳\ufe0f\u200d🌈",
    "👍🏽",
]
EMOJI += ["1\ufe0f\u20e3", "🏴\U000e0067\U000e007f"]
CODE = [
    "def f(x: int) -> str:\n\treturn f'{x!r}'\n",
    "for (size_t i = 0; i < n; ++i) { a[i] += b[i]->c; }",
    "SELECT * FROM t WHERE a >= 10 AND b != 'x';",
    '<div class="a-b">&nbsp;</div>\r\n',
    "#include <stdio.h>\n\nint main(void)\n{\n    return 0;\n}\n",
    "$x = @{1,2,3} | % { $_ * 2 } # ~!^&*()\n",
    "\\frac{\\partial L}{\\partial w_{ij}} \\approx 1.5e-3",
    "https://example.org/a/b?c=d&e=%20f#g",
    '{"key": [1, 2.5, null], "k\\u00e9": "v"}',
]
# Decomposing characters and their parts, so that NFC has work to do.
COMPOSITE = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.decomposition(chr(c))]
NUMBERS = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "N"]
BLOCKS = [b for b in range(0, 0x110000, 128) if not 0xD800 <= b < 0xE000]
ASSIGNED_BLOCKS = [
    b for b in BLOCKS if any(unicodedata.category(chr(b + i)) != "Cn" for i in range(128))
]


class TextSource:
    """An endless supply of texts as bytes; equal seeds give equal texts."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.parts: list[Callable[[], bytes]] = [
            self._words, self._words, self._contractions, self._spaces, self._block, self._block,
            self._any_code_point, self._marks, self._jamo, self._composites, self._emoji,
            self._digits, self._code, self._run, self._special, self._almost_special, self._ascii,
            self._bytes,
        ]  # fmt: skip

    def _pick(self, choices: list[str], most: int) -> str:
        return "".join(self.random.choices(choices, k=self.random.randint(1, most)))

    def _words(self) -> bytes:
        text = " ".join(self.random.choices(ENGLISH, k=self.random.randint(1, 12)))
        styles = [text, text, text.title(), text.upper(), text.capitalize()]
        return self.random.choice(styles).encode()

    def _contractions(self) -> bytes:
        word = self.random.choice([*ENGLISH, "", "é", "\u0301", "1", "!"])
        return (word + self._pick(CONTRACTIONS, 3)).encode()

    def _spaces(self) -> bytes:
        return self._pick(SPACES, 6).encode()

    def _block(self) -> bytes:
        start = self.random.choice(ASSIGNED_BLOCKS)
        return self._pick([chr(start + i) for i in range(128)], 12).encode()

    def _any_code_point(self) -> bytes:
        start = self.random.choice(BLOCKS)
        return chr(start + self.random.randrange(128)).encode()

    def _marks(self) -> bytes:
        base = self.random.choice(["a", "E", "q", "か", "क", "\u1ea1", "ῳ", "1", " ", "", "ệ"])
        return (base + self._pick(MARKS, self.random.choice([2, 5, 40]))).encode()

    def _jamo(self) -> bytes:
        return self._pick([*JAMO, "가", "각", "힣"], 8).encode()

    def _composites(self) -> bytes:
        text = self._pick(COMPOSITE, 4)
        nfd = self.random.random() < 0.5
        return unicodedata.normalize("NFD" if nfd else "NFC", text).encode()

    def _emoji(self) -> bytes:
        return self._pick(EMOJI, 4).encode()

    def _digits(self) -> bytes:
        return self._pick([*NUMBERS, *"0123456789" * 20, ".", ","], 8).encode()

    def _code(self) -> bytes:
        return self.random.choice(CODE).encode()

    def _run(self) -> bytes:
        pieces = [*"aAz =-_*.\n\t0é的가😀\u0301", "ab", " \n", "\r\n"]
        piece: str = self.random.choice(pieces)
        count: int = self.random.choice([2, 3, 7, 30, 64, 65, 66, 200])
        return piece.encode() * count

    def _special(self) -> bytes:
        token: str = self.random.choice(SPECIAL_TOKENS)
        return token.encode()

    def _almost_special(self) -> bytes:
        token = self.random.choice(SPECIAL_TOKENS)
        middle = self.random.choice(["", "<", "|", "x", "\u0301"])
        cut = self.random.randrange(len(token))
        return (token[:cut] + middle + token[cut:]).encode()

    def _ascii(self) -> bytes:
        return bytes(self.random.choices(range(128), k=self.random.randint(1, 20)))

    def _bytes(self) -> bytes:
        return bytes(self.random.choices(range(256), k=self.random.randint(1, 6)))

    def text(self) -> bytes:
        count = self.random.choice([1, 2, 3, 4, 6])
        parts: list[bytes] = [self.random.choice(self.parts)() for _ in range(count)]
        return b"".join(parts)

    def texts(self, n: int) -> Iterator[bytes]:
        return (self.text() for _ in range(n))


def english_text(size: int, seed: int = 1) -> str:
    """About `size` characters of plain prose: sentences of common words in paragraphs."""
    source = random.Random(seed)
    sentences: list[str] = []
    length = 0
    while length < size:
        words = source.choices(ENGLISH, k=source.randint(5, 18))
        sentences.append(" ".join(words).capitalize() + source.choice([".", ".", "?", "!"]))
        length += len(sentences[-1]) + 1
    return " ".join(sentences)
