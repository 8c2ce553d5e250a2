// Unicode folding, one code point at a time: case, compatibility forms and accents go, letters stay.
#pragma once

#include <array>
#include <cstdint>

#include "fold_table.hpp"

namespace dspex {

enum class CharClass : std::uint8_t { separator, word, ideograph, symbol, mark };

struct FoldedChar {
  std::uint32_t code;
  CharClass cls;
};

// Calls out(FoldedChar) for each code point that `code` folds to, none for what is dropped.
template <class Out>
inline void fold(std::uint32_t code, Out&& out) {
  if (code - 0xAC00u < 11172u) {  // Hangul syllables decompose by arithmetic (Unicode 3.12)
    const std::uint32_t s = code - 0xAC00u, tail = s % 28;
    out(FoldedChar{0x1100 + s / 588, CharClass::word});
    out(FoldedChar{0x1161 + (s % 588) / 28, CharClass::word});
    if (tail != 0) out(FoldedChar{0x11A7 + tail, CharClass::word});
    return;
  }
  const std::uint32_t e =
      fold_table::stage2[fold_table::stage1[code / fold_table::block] * fold_table::block + code % fold_table::block];
  const std::uint32_t size = e >> 24 & 31, payload = e & 0x7FFFFF;
  if (size == 1) {
    out(FoldedChar{(e >> 23 & 1) != 0 ? payload : code, static_cast<CharClass>(e >> 29)});
    return;
  }
  for (std::uint32_t i = 0; i < size; ++i) {
    const std::uint32_t item = fold_table::pool[payload + i];
    out(FoldedChar{item & 0x1FFFFF, static_cast<CharClass>(item >> 29)});
  }
}

// The same for ASCII, as one table: class << 8 | folded byte.
inline constexpr std::array<std::uint16_t, 128> ascii_fold = [] {
  std::array<std::uint16_t, 128> table{};
  for (unsigned c = 0; c < 128; ++c) {
    const bool upper = c - 'A' < 26u, word = upper || c - 'a' < 26u || c - '0' < 10u || c == '_';
    const bool blank = c <= 32 || c == 127;
    const auto cls = word ? CharClass::word : blank ? CharClass::separator : CharClass::symbol;
    table[c] = static_cast<std::uint16_t>(static_cast<unsigned>(cls) << 8 | (upper ? c + 32 : c));
  }
  return table;
}();

// Appends `code` as UTF-8 (lone surrogates too, as three bytes) and returns the new end.
inline char* put_utf8(char* p, std::uint32_t code) noexcept {
  if (code < 0x80) {
    *p++ = static_cast<char>(code);
  } else if (code < 0x800) {
    *p++ = static_cast<char>(0xC0 | code >> 6);
    *p++ = static_cast<char>(0x80 | (code & 63));
  } else if (code < 0x10000) {
    *p++ = static_cast<char>(0xE0 | code >> 12);
    *p++ = static_cast<char>(0x80 | (code >> 6 & 63));
    *p++ = static_cast<char>(0x80 | (code & 63));
  } else {
    *p++ = static_cast<char>(0xF0 | code >> 18);
    *p++ = static_cast<char>(0x80 | (code >> 12 & 63));
    *p++ = static_cast<char>(0x80 | (code >> 6 & 63));
    *p++ = static_cast<char>(0x80 | (code & 63));
  }
  return p;
}

}  // namespace dspex
