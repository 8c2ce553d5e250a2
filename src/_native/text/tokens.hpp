// Words, ideographs and symbols of a text, folded, in order, in one pass and bounded memory.
//
// A token is a run of word characters (apostrophes between letters included), one ideograph or
// hiragana with its marks, or a run of one symbol, kept to three. Runs longer than max_token_chars
// are cut, so that no token, and no buffer, grows with the text.
#pragma once

#include <cstddef>
#include <cstdint>

#include "fold.hpp"
#include "hash.hpp"

namespace dspex {

inline constexpr std::size_t max_token_chars = 64;
inline constexpr std::size_t max_symbol_run = 3;
inline constexpr std::size_t read_slack = 16;  // what hash_span may read past a token

enum class TokenKind : std::uint8_t { word, ideograph, symbol };

// One token being built.
class TokenBuffer {
 public:
  bool empty() const noexcept { return chars_ == 0; }
  std::size_t chars() const noexcept { return chars_; }
  const char* text() const noexcept { return bytes_; }
  std::size_t size() const noexcept { return static_cast<std::size_t>(end_ - bytes_); }
  void clear() noexcept { end_ = bytes_, chars_ = 0; }
  void put(std::uint32_t code) noexcept { end_ = put_utf8(end_, code), ++chars_; }

 private:
  char bytes_[4 * max_token_chars + read_slack] = {};
  char* end_ = bytes_;
  std::size_t chars_ = 0;
};

// Tokens of any text, a code point at a time.
// Sink: void(const char* text, std::size_t bytes, std::size_t chars, TokenKind); read_slack bytes after the
// token are readable.
template <class Sink>
class Tokenizer {
 public:
  explicit Tokenizer(Sink& sink) noexcept : sink_(sink) {}

  template <class Unit>
  void feed(const Unit* text, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i) {
      const auto code = static_cast<std::uint32_t>(text[i]);
      if (code < 128) {
        const unsigned e = ascii_fold[code];
        take({e & 255, static_cast<CharClass>(e >> 8)});
      } else {
        fold(code, [this](FoldedChar c) { take(c); });
      }
    }
    flush();
  }

 private:
  void take(FoldedChar c) {
    if (pending_apostrophe_) resolve_apostrophe(c.cls);
    switch (c.cls) {
      case CharClass::word:
        if (kind_ != TokenKind::word) flush();
        return append(c.code, TokenKind::word);
      case CharClass::separator:
        return flush();
      case CharClass::mark:
        return append(c.code, token_.empty() ? TokenKind::word : kind_);
      case CharClass::ideograph:
        flush();
        return append(c.code, TokenKind::ideograph);
      case CharClass::symbol:
        return take_symbol(c.code);
    }
  }

  void take_symbol(std::uint32_t code) {
    if (code == '\'' && kind_ == TokenKind::word && !token_.empty()) {
      pending_apostrophe_ = true;
      return;
    }
    const bool repeats = kind_ == TokenKind::symbol && !token_.empty() && code == symbol_;
    if (!repeats) flush();
    if (repeats && token_.chars() >= max_symbol_run) return;
    symbol_ = code;
    append(code, TokenKind::symbol);
  }

  // An apostrophe belongs to a word only when a letter follows it.
  void resolve_apostrophe(CharClass next) {
    pending_apostrophe_ = false;
    if (next == CharClass::word) return append('\'', TokenKind::word);
    flush();
    symbol_ = '\'';
    append('\'', TokenKind::symbol);
  }

  void append(std::uint32_t code, TokenKind kind) {
    if (token_.chars() == max_token_chars) flush();
    kind_ = kind;
    token_.put(code);
  }

  void flush() {
    if (pending_apostrophe_) resolve_apostrophe(CharClass::separator);
    if (token_.empty()) return;
    sink_(token_.text(), token_.size(), token_.chars(), kind_);
    token_.clear();
  }

  Sink& sink_;
  TokenBuffer token_;
  TokenKind kind_ = TokenKind::word;
  std::uint32_t symbol_ = 0;
  bool pending_apostrophe_ = false;
};

}  // namespace dspex
