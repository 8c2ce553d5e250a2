// Text to units: each token, and each pair of neighbouring tokens, with its hash.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "ascii.hpp"
#include "ngrams.hpp"
#include "tokens.hpp"

namespace dspex {

struct TextUnit {
  enum class Kind : std::uint8_t { word, bigram, skip };

  std::uint64_t hash;
  Kind kind;
  TokenKind token_kind;  // of a word
  std::size_t field;
  const char* text;      // of a word, folded; read_slack bytes after it are readable
  std::size_t bytes, chars;

  bool is_word() const noexcept { return kind == Kind::word; }
  bool has_ngrams() const noexcept { return kind == Kind::word && token_kind == TokenKind::word; }
};

struct TextOptions {
  NgramRange ngrams;
  float word_weight = 1.0f;
  float bigram_weight = 1.0f;
  float skip_weight = 0.0f;   // 0: no skip-grams (pairs with one token between them)
  float char_weight = 0.5f;   // of a word's character n-grams
  float char_power = 0.0f;    // n-grams of a word of g n-grams weigh char_weight * g^-char_power each

  float unit_weight(TextUnit::Kind kind) const noexcept {
    return kind == TextUnit::Kind::word ? word_weight : kind == TextUnit::Kind::bigram ? bigram_weight : skip_weight;
  }
  float ngram_weight(std::size_t count) const noexcept {
    if (char_power == 0.0f || count == 0) return char_weight;
    return char_weight * std::pow(static_cast<float>(count), -char_power);
  }
};

// The hashes of the last tokens, from which pairs are made. Token hashes carry their field's salt.
class PairMaker {
 public:
  explicit PairMaker(const TextOptions& options) noexcept
      : bigram_(options.bigram_weight > 0), skip_(options.skip_weight > 0) {}

  template <class Out>
  void next(std::uint64_t hash, Out&& out) {
    if (bigram_ && seen_ > 0) out(hash_pair(previous_, hash, Salt::bigram), TextUnit::Kind::bigram);
    if (skip_ && seen_ > 1) out(hash_pair(before_, hash, Salt::skip), TextUnit::Kind::skip);
    before_ = previous_, previous_ = hash, ++seen_;
  }

 private:
  std::uint64_t previous_ = 0, before_ = 0;
  std::size_t seen_ = 0;
  bool bigram_, skip_;
};

// A sink of tokens that makes units of them: sink(const TextUnit&), words before the pairs that end in them.
template <class Sink>
class UnitMaker {
 public:
  UnitMaker(std::size_t field, const TextOptions& options, Sink& sink) noexcept
      : pairs_(options), salt_(field_salt(Salt::word, field)), field_(field), sink_(sink) {}

  void operator()(const char* token, std::size_t bytes, std::size_t chars, TokenKind kind) {
    const std::uint64_t hash = hash_span(token, bytes, salt_);
    sink_(TextUnit{hash, TextUnit::Kind::word, kind, field_, token, bytes, chars});
    pairs_.next(hash, [&](std::uint64_t pair, TextUnit::Kind pair_kind) {
      sink_(TextUnit{pair, pair_kind, kind, field_, token, bytes, chars});
    });
  }

 private:
  PairMaker pairs_;
  std::uint64_t salt_;
  std::size_t field_;
  Sink& sink_;
};

// Calls sink(const TextUnit&) for every unit of the text.
template <class Unit, class Sink>
inline void for_each_unit(const Unit* text, std::size_t size, std::size_t field, const TextOptions& options,
                          Sink&& sink) {
  UnitMaker maker(field, options, sink);
  if constexpr (sizeof(Unit) == 1)
    if (for_each_ascii_token(text, size, maker)) return;
  Tokenizer<decltype(maker)> tokenizer(maker);
  tokenizer.feed(text, size);
}

// The same for code points as Python keeps them: unit_bytes is 1 (Latin-1), 2 or 4.
template <class Sink>
inline void for_each_unit(const void* text, std::size_t size, unsigned unit_bytes, std::size_t field,
                          const TextOptions& options, Sink&& sink) {
  switch (unit_bytes) {
    case 1: return for_each_unit(static_cast<const std::uint8_t*>(text), size, field, options, sink);
    case 2: return for_each_unit(static_cast<const std::uint16_t*>(text), size, field, options, sink);
    default: return for_each_unit(static_cast<const std::uint32_t*>(text), size, field, options, sink);
  }
}

}  // namespace dspex
