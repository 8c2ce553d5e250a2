// The tokenizer's short cut for ASCII: the same tokens from bit masks, without a branch a character.
//
// The text is folded and classified 64 bytes at a time in loops that vectorise; a token is then a run of bits,
// found by counting zeros. Tokens are views of the folded copy. What is longer than the copy, or not ASCII, is
// left to the Tokenizer.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "tokens.hpp"

namespace dspex {

inline constexpr std::size_t ascii_limit = 1024;

class AsciiText {
 public:
  // False when the text is too long or not ASCII.
  bool read(const std::uint8_t* text, std::size_t size) noexcept {
    if (size > ascii_limit) return false;
    size_ = size;
    const std::size_t blocks = size / 64 + 1;
    std::memcpy(folded_, text, size);
    std::memset(folded_ + size, ' ', blocks * 64 - size + read_slack);
    std::uint64_t all = 0;
    for (std::size_t b = 0; b < blocks; ++b) all |= classify(b);
    if (all != 0) return false;
    join_apostrophes(blocks);
    return true;
  }

  template <class Sink>
  void tokens(Sink& sink) const {
    const std::size_t blocks = size_ / 64 + 1;
    for (std::size_t b = 0; b < blocks; ++b) {
      // A word begins where the bit before it is clear; every symbol is looked at.
      const std::uint64_t before = b > 0 ? word_[b - 1] >> 63 : 0;
      std::uint64_t todo = (word_[b] & ~(word_[b] << 1 | before)) | symbol_[b];
      while (todo != 0) {
        const std::size_t at = b * 64 + static_cast<std::size_t>(std::countr_zero(todo));
        todo &= todo - 1;
        if ((symbol_[b] >> (at % 64) & 1) == 0) {
          emit_word(at, sink);
        } else if (at == 0 || !is_symbol(at - 1) || folded_[at - 1] != folded_[at]) {
          emit_symbol(at, sink);
        }
      }
    }
  }

 private:
  // Folds block b in place and fills its masks; nonzero if it is not ASCII.
  std::uint64_t classify(std::size_t b) noexcept {
    std::uint8_t* p = folded_ + b * 64;
    alignas(64) std::uint8_t word[64], symbol[64];
    std::uint8_t high = 0;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint8_t c = p[i];
      const auto lower = static_cast<std::uint8_t>(c + (static_cast<std::uint8_t>(c - 'A') < 26 ? 32 : 0));
      const bool is_word = (static_cast<std::uint8_t>(lower - 'a') < 26) | (static_cast<std::uint8_t>(c - '0') < 10) |
                           (c == '_');
      word[i] = is_word ? 1 : 0;
      symbol[i] = !is_word & (c > 32) & (c != 127) ? 1 : 0;
      high |= c;
      p[i] = lower;
    }
    word_[b] = pack(word);
    symbol_[b] = pack(symbol);
    return high & 0x80;
  }

  // 64 bytes of 0 or 1 as 64 bits.
  static std::uint64_t pack(const std::uint8_t* flags) noexcept {
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      std::uint64_t eight;
      std::memcpy(&eight, flags + 8 * i, 8);
      bits |= (eight * 0x0102040810204080ULL >> 56) << (8 * i);
    }
    return bits;
  }

  // An apostrophe between two word characters is part of the word.
  void join_apostrophes(std::size_t blocks) noexcept {
    for (std::size_t b = 0; b < blocks; ++b) {
      if (symbol_[b] == 0) continue;
      for (std::uint64_t todo = symbol_[b]; todo != 0; todo &= todo - 1) {
        const std::size_t at = b * 64 + static_cast<std::size_t>(std::countr_zero(todo));
        if (folded_[at] != '\'' || at == 0 || !was_word(at - 1) || !was_word(at + 1)) continue;
        symbol_[b] &= ~(std::uint64_t{1} << (at % 64));
        word_[b] |= std::uint64_t{1} << (at % 64);
      }
    }
  }

  // By the byte, not the mask: the masks change while apostrophes are joined.
  bool was_word(std::size_t at) const noexcept {
    return ascii_fold[folded_[at]] >> 8 == static_cast<unsigned>(CharClass::word);
  }
  bool is_symbol(std::size_t at) const noexcept { return (symbol_[at / 64] >> (at % 64) & 1) != 0; }

  std::size_t word_end(std::size_t at) const noexcept {
    std::size_t b = at / 64;
    std::uint64_t clear = ~word_[b] >> (at % 64) << (at % 64);
    while (clear == 0) clear = ~word_[++b];  // the text ends in blanks
    return b * 64 + static_cast<std::size_t>(std::countr_zero(clear));
  }

  template <class Sink>
  void emit_word(std::size_t at, Sink& sink) const {
    const std::size_t end = word_end(at);
    do {
      const std::size_t n = end - at < max_token_chars ? end - at : max_token_chars;
      sink(reinterpret_cast<const char*>(folded_ + at), n, n, TokenKind::word);
      at += n;
    } while (at < end);
  }

  template <class Sink>
  void emit_symbol(std::size_t at, Sink& sink) const {
    std::size_t n = 1;
    while (n < max_symbol_run && folded_[at + n] == folded_[at] && is_symbol(at + n)) ++n;
    sink(reinterpret_cast<const char*>(folded_ + at), n, n, TokenKind::symbol);
  }

  std::size_t size_ = 0;
  std::uint8_t folded_[ascii_limit + 64 + read_slack];
  std::uint64_t word_[ascii_limit / 64 + 1];
  std::uint64_t symbol_[ascii_limit / 64 + 1];
};

// Calls the sink for every token, or returns false before the first one.
template <class Sink>
inline bool for_each_ascii_token(const std::uint8_t* text, std::size_t size, Sink& sink) {
  AsciiText ascii;
  if (!ascii.read(text, size)) return false;
  ascii.tokens(sink);
  return true;
}

}  // namespace dspex
