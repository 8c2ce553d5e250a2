// The character n-grams of one padded word: " lost " gives " l", "lo", ..., "lost ", all of min_n to max_n.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hash.hpp"
#include "tokens.hpp"

namespace dspex {

struct NgramRange {
  std::uint32_t min_n = 2;
  std::uint32_t max_n = 5;
};

// How many n-grams a word of `chars` characters has.
inline std::size_t ngram_count(std::size_t chars, NgramRange range) noexcept {
  std::size_t count = 0;
  for (std::size_t n = range.min_n; n <= range.max_n && n <= chars + 2; ++n) count += chars + 3 - n;
  return count;
}

// Calls out(begin, bytes, hash) for each n-gram of a token. n counts characters, not bytes; time is linear in
// the token's length.
template <class Out>
inline void for_each_ngram(const char* text, std::size_t bytes, std::size_t chars, NgramRange range,
                           std::uint64_t salt, Out&& out) {
  char padded_text[1 + 4 * max_token_chars + 1 + read_slack];
  padded_text[0] = ' ';
  std::memcpy(padded_text + 1, text, bytes);
  std::memset(padded_text + 1 + bytes, ' ', 1 + read_slack);
  const char* const begin = padded_text;
  const std::size_t padded = chars + 2;
  if (chars == bytes) {  // one byte a character: positions are offsets
    for (std::size_t n = range.min_n; n <= range.max_n && n <= padded; ++n)
      for (std::size_t i = 0; i + n <= padded; ++i) out(begin + i, n, hash_span(begin + i, n, salt));
    return;
  }
  std::uint16_t start[max_token_chars + 3];
  std::size_t count = 0;
  for (std::size_t i = 0; i < bytes + 2; ++i)
    if ((begin[i] & 0xC0) != 0x80) start[count++] = static_cast<std::uint16_t>(i);
  start[count] = static_cast<std::uint16_t>(bytes + 2);
  for (std::size_t n = range.min_n; n <= range.max_n && n <= padded; ++n)
    for (std::size_t i = 0; i + n <= padded; ++i) {
      const std::size_t size = start[i + n] - start[i];
      out(begin + start[i], size, hash_span(begin + start[i], size, salt));
    }
}

}  // namespace dspex
