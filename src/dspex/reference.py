"""The slow, obvious oracle of the compiled core: what it must compute, in plain Python and NumPy.

Written from the definitions in the headers of `src/_native`, not from their code, and meant to be read beside
them. Tests hold every kernel to it; nothing else imports it. Floats are 64-bit here and 32-bit there.
`reference_training` is the same for training.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .program import Program

__all__ = [
    "Model", "Token", "Unit", "answers", "checksum64", "contributions", "dense_values", "field_salt", "fold",
    "has_content", "hash_pair", "hash_span", "logits", "ngram_weight", "ngrams", "pack", "row_stride",
    "tokens", "units", "unpack_rows",
]  # fmt: skip

Floats = NDArray[np.float64]

# ------------------------------------------------------------------------------------------------- text

MAX_TOKEN_CHARS = 64
MAX_SYMBOL_RUN = 3
# Combining classes of the marks that spell a word: vowel signs, nukta, kana voicing, virama, tone marks.
SPELLING_CLASSES = {0, 7, 8, 9, 84, 91, 103, 107, 118, 122, 129, 130, 132}
# Joiners and fillers without category Cf, Mongolian and other variation selectors, skin tones.
DROPPED = (
    {0x034F, 0x0640, 0x115F, 0x1160, 0x3164, 0xFFA0}
    | set(range(0x180B, 0x1810))
    | set(range(0xFE00, 0xFE10))
    | set(range(0xE0100, 0xE01F0))
    | set(range(0x1F3FB, 0x1F400))
)
# Hiragana, and CJK ideographs of all planes: written without blanks, each a token of its own.
IDEOGRAPHS = ((0x3041, 0x3096), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
APOSTROPHES = str.maketrans("\u2019\u02bc", "''")


class Token(NamedTuple):
    text: str
    kind: str  # "word", "ideograph" or "symbol"


def fold(text: str) -> str:
    """The text without case, compatibility forms, accents and format controls, one code point at a time."""
    return "".join(map(_fold_char, text))


def _fold_char(char: str) -> str:
    char = char.translate(APOSTROPHES)
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", char).casefold())
    return "".join(c for c in folded if not _is_dropped(c))


def _is_dropped(char: str) -> bool:
    decorates = unicodedata.combining(char) not in SPELLING_CLASSES
    return decorates or ord(char) in DROPPED or unicodedata.category(char) == "Cf"


def _char_class(char: str) -> str:
    """W word, I ideograph, M mark, S symbol, ' apostrophe, or a blank for what separates."""
    category = unicodedata.category(char)
    if category.startswith("Z") or category == "Cc":
        return " "
    if any(low <= ord(char) <= high for low, high in IDEOGRAPHS):
        return "I"
    if category.startswith("M"):
        return "M"
    if category[0] in "LN" or category == "Pc":
        return "W"
    return "'" if char == "'" else "S"


_TOKEN = re.compile(r"(?P<word>[WM](?:[WM]|'(?=W))*)|(?P<ideograph>IM*)|(?P<symbol>[S'])")


def tokens(text: str) -> list[Token]:
    """The words, ideographs and runs of symbols of a text, in order; long ones are cut."""
    folded = fold(text)
    classes = "".join(map(_char_class, folded))
    found: list[Token] = []
    at = 0
    while match := _TOKEN.search(classes, at):
        begin, at = match.span()
        kind = str(match.lastgroup)
        if kind == "symbol":
            while at < len(folded) and (folded[at] == folded[begin] or classes[at] == "M"):
                at += 1
            pieces = _symbol_pieces(folded[begin:at], folded[begin])
        else:
            pieces = [folded[i : min(i + MAX_TOKEN_CHARS, at)] for i in range(begin, at, MAX_TOKEN_CHARS)]
        found += [Token(piece, kind) for piece in pieces]
    return found


def _symbol_pieces(run: str, symbol: str) -> list[str]:
    """A run of one symbol and its marks; the symbol counts no more than three times."""
    pieces = [""]
    for char in run:
        if char == symbol and len(pieces[-1]) >= MAX_SYMBOL_RUN:
            continue
        if len(pieces[-1]) == MAX_TOKEN_CHARS:
            pieces.append("")
        pieces[-1] += char
    return pieces


def ngrams(word: str, min_n: int, max_n: int) -> list[str]:
    """The character n-grams of a word between blanks, the shortest first."""
    padded = f" {word} "
    return [padded[i : i + n] for n in range(min_n, max_n + 1) for i in range(len(padded) - n + 1)]


# ----------------------------------------------------------------------------------------------- hashes

_MASK = 2**64 - 1
_K1, _K2 = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
SALTS = {
    "word": 0xA0761D6478BD642F,
    "ngram": 0xE7037ED1A0B428DB,
    "bigram": 0x8EBC6AF09C88C6E3,
    "skipgram": 0x589965CC75374CC3,
}


def field_salt(kind: str, field: int) -> int:
    return (SALTS[kind] + field * 0xD1342543DE82EF95) & _MASK


def hash_span(data: bytes, salt: int) -> int:
    """The hash of at least one byte."""
    if len(data) <= 8:
        return _mix(_word(data) ^ salt, (_K1 + 2 * len(data)) ^ salt >> 7)
    h = salt ^ (len(data) * _K2 & _MASK)
    while len(data) > 16:
        h = _mix(_word(data[:8]) ^ h, _word(data[8:16]) ^ _K1)
        data = data[16:]
    return _mix(_word(data[:8]) ^ h, _word(data[8:]) ^ _K2 ^ salt >> 9)


def hash_pair(first: int, second: int, kind: str) -> int:
    rotated = (second << 29 | second >> 35) & _MASK
    return _mix(first ^ SALTS[kind], rotated ^ _K1)


def _word(data: bytes) -> int:
    return int.from_bytes(data, "little")


def _mix(a: int, b: int) -> int:
    product = a * b
    return (product ^ product >> 64) & _MASK


def checksum64(data: bytes) -> int:
    """The checksum of the model file: `model/checksum.hpp`, word by word."""
    lanes = [
        0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1, 0x510E527FADE682D1,
        0x9B05688C2B3E6C1F, 0x1F83D9ABFB41BD6B, 0x5BE0CD19137E2179, 0xCBBB9D5DC1059ED8,
    ]  # fmt: skip
    padded = data + bytes(-len(data) % 64)
    for at in range(0, len(padded), 8):
        lane = lanes[at // 8 % 8] ^ _word(padded[at : at + 8])
        lane = lane + (lane << 21) & _MASK
        lanes[at // 8 % 8] = lane ^ lane >> 29
    total = _checksum_mix(len(data) ^ 0x6A09E667F3BCC908)
    for lane in lanes:
        total = _checksum_mix(total ^ lane)
    return total


def _checksum_mix(x: int) -> int:
    x = (x ^ x >> 32) * _K2 & _MASK
    x = (x ^ x >> 29) * _K2 & _MASK
    return x ^ x >> 32


# ------------------------------------------------------------------------------------------------ units


class Unit(NamedTuple):
    """A word, or a pair of words, of a text: what the index holds a row for."""

    kind: str  # "word", "bigram" or "skipgram"
    text: str
    hash: int
    spelled: tuple[int, ...]  # of a word: the hashes of its n-grams
    spelling: tuple[str, ...]


def units(text: str, field: int, options: Mapping[str, Any]) -> Iterator[Unit]:
    """Every unit of a text, words before the pairs that end in them."""
    earlier: list[tuple[str, int]] = []
    for token in tokens(text):
        own = hash_span(_utf8(token.text), field_salt("word", field))
        grams = ngrams(token.text, options["min_n"], options["max_n"]) if token.kind == "word" else []
        hashes = tuple(hash_span(_utf8(gram), field_salt("ngram", field)) for gram in grams)
        yield Unit("word", token.text, own, hashes, tuple(grams))
        if options["bigram_weight"] > 0 and earlier:
            first, before = earlier[-1]
            yield Unit("bigram", f"{first} {token.text}", hash_pair(before, own, "bigram"), (), ())
        if options["skip_weight"] > 0 and len(earlier) > 1:
            first, before = earlier[-2]
            yield Unit("skipgram", f"{first} * {token.text}", hash_pair(before, own, "skipgram"), (), ())
        earlier.append((token.text, own))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def ngram_weight(count: int, options: Mapping[str, Any]) -> float:
    """What each n-gram of a word of `count` n-grams weighs."""
    return float(options["char_weight"] * max(count, 1) ** -options["char_power"])


# ---------------------------------------------------------------------------------------- finished model

NO_ROW = 2**32 - 1
MAX_FLOAT_COLUMNS = 15


def row_stride(columns: int) -> int:
    """Bytes of a row: float norm and weights, to a power of two; or scale, norm and 16s of int8, to 32."""
    if columns > MAX_FLOAT_COLUMNS:
        return (8 + (columns + 15) // 16 * 16 + 31) // 32 * 32
    return int(max(8, 2 ** math.ceil(math.log2(4 * (1 + columns)))))


def pack(hashes: Sequence[int], norm2: Any, weights: Any) -> dict[str, NDArray[Any]]:
    """The index (uint32 [slots, 2]: tag and row) and the rows (uint8) of weights [rows, columns]."""
    norm2, weights = np.asarray(norm2, np.float32), np.asarray(weights, np.float32)
    count, columns = weights.shape
    slots = max(8, 2 ** math.ceil(math.log2(2 * count))) if count else 8
    index = np.array([[0, NO_ROW]] * slots, np.uint32)
    rows = np.zeros((count, row_stride(columns)), np.uint8)
    for i, each in enumerate(hashes):
        slot = each % slots
        while index[slot, 1] != NO_ROW:
            slot = (slot + 1) % slots
        index[slot] = each >> 32, i
    if columns <= MAX_FLOAT_COLUMNS:
        rows.view(np.float32)[:, 0] = norm2
        rows.view(np.float32)[:, 1 : 1 + columns] = weights
    else:
        top = np.abs(weights).max(1, initial=0)
        inverse = np.where(top > 0, np.float32(127) / np.where(top > 0, top, 1), 0).astype(np.float32)
        rows.view(np.float32)[:, 0] = top / np.float32(127)
        rows.view(np.float32)[:, 1] = norm2
        rows.view(np.int8)[:, 8 : 8 + columns] = np.rint(weights * inverse[:, None])
    return {"index": index, "rows": rows.ravel()}


def unpack_rows(rows: NDArray[np.uint8], columns: int) -> tuple[Floats, Floats]:
    """(norm2 [rows], weights [rows, columns]) of packed rows."""
    table = np.ascontiguousarray(rows).reshape(-1, row_stride(columns))
    floats = table.view(np.float32)
    if columns <= MAX_FLOAT_COLUMNS:
        return floats[:, 0].astype(np.float64), floats[:, 1 : 1 + columns].astype(np.float64)
    scale, norm2 = floats[:, :2].astype(np.float64).T
    return norm2, scale[:, None] * table.view(np.int8)[:, 8 : 8 + columns]


@dataclass(frozen=True)
class Model:
    """A finished model: its arrays, and what its inputs, columns and text options mean."""

    inputs: Sequence[tuple[str, str, int]]
    heads: Sequence[Mapping[str, Any]]
    arrays: Mapping[str, NDArray[Any]]
    text: Mapping[str, Any]

    @classmethod
    def of(cls, program: Program) -> Model:
        meta = program._meta
        return cls(meta["inputs"], meta["heads"], program._arrays, meta["text"])

    def find(self, hash: int) -> int | None:
        """The row of a unit or n-gram: the low bits say where to look, the high bits must be the tag."""
        index = self.arrays["index"]
        slot = hash % len(index)
        while True:
            tag, row = map(int, index[slot])
            if row == NO_ROW:
                return None
            if tag == hash >> 32:
                return row
            slot = (slot + 1) % len(index)


def contributions(model: Model, text: str, field: int) -> Iterator[tuple[str, str, float, Floats]]:
    """(kind, feature, norm2, weights) of every row that one text adds, in order.

    A known word or pair adds its row; an unknown word is spelled by the rows of its n-grams.
    """
    norm2, weights = unpack_rows(model.arrays["rows"], len(model.arrays["bias"]))
    for unit in units(text, field, model.text):
        row = model.find(unit.hash)
        if row is not None:
            yield unit.kind, unit.text, norm2[row], weights[row]
            continue
        factor = ngram_weight(len(unit.spelled), model.text)
        for gram, each in zip(unit.spelling, unit.spelled, strict=True):
            row = model.find(each)
            if row is not None:
                yield "ngram", gram, factor**2 * norm2[row], factor * weights[row]


def has_content(model: Model, inputs: Mapping[str, Any]) -> bool:
    """Whether the inputs hold a number, or a token in one of their texts."""
    return any(kind != "text" or tokens(inputs[name]) for name, kind, _ in model.inputs)


def dense_values(model: Model, inputs: Mapping[str, Any]) -> Floats:
    """The standardised numbers of one call: the inputs that are not text, side by side."""
    numbers = [np.ravel(inputs[name]) for name, kind, _ in model.inputs if kind != "text"]
    raw = np.concatenate([*numbers, np.empty(0)]).astype(np.float64)
    mean, factor = model.arrays["dense_scale"].astype(np.float64)
    return np.asarray(np.clip((raw - mean) * factor, -1e6, 1e6), np.float64)


def logits(model: Model, inputs: Mapping[str, Any]) -> Floats:
    """[columns] logits of one call: rows over their joint norm, numbers, bias. Of a number: standardised.

    Raises:
        ValueError: there is nothing to answer from: no number, and no token in the texts.
    """
    if not has_content(model, inputs):
        raise ValueError("nothing to answer from")
    total, norm2 = np.zeros(len(model.arrays["bias"])), 0.0
    texts = [name for name, kind, _ in model.inputs if kind == "text"]
    for field, name in enumerate(texts):
        for _, _, square, weights in contributions(model, inputs[name], field):
            total, norm2 = total + weights, norm2 + square
    score = total / math.sqrt(norm2) if norm2 > 0 else total * 0
    dense = dense_values(model, inputs) @ model.arrays["dense"].astype(np.float64)
    return np.asarray(score + dense + model.arrays["bias"], np.float64)


def answers(model: Model, logits: Floats) -> tuple[dict[str, Any], float | None]:
    """(output -> probabilities [classes], or the number; the confidence of the whole answer)."""
    found: dict[str, Any] = {}
    sure: list[float] = []
    at = 0
    for head in model.heads:
        own = logits[at : at + head["columns"]]
        at += head["columns"]
        if head["kind"] == "number":
            number = float(head["offset"] + head["scale"] * own[0])
            found[head["name"]] = min(max(number, head.get("low", number)), head.get("high", number))
            continue
        if head["kind"] == "choice":
            p = np.exp(own - own.max())
            p /= p.sum()
            sure.append(p.max())
        else:
            p = 1 / (1 + np.exp(-np.clip(own, -500, 500)))
            right = np.where(p >= head.get("threshold", 0.5), p, 1 - p)
            sure.append(float(right.prod()))
            p = np.array([1 - p[0], p[0]]) if head["kind"] == "binary" else p
        found[head["name"]] = p
    return found, min(sure, default=None)
