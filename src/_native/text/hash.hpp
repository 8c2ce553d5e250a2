// 64-bit hashes of byte spans: a folded multiply per 16 bytes, after wyhash (Wang Yi, 2019).
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

static_assert(std::endian::native == std::endian::little, "hashes and model files are little-endian");

namespace dspex {

// One salt per kind of feature, so that the word "ab" and the n-gram "ab" are different features.
enum class Salt : std::uint64_t {
  word = 0xa0761d6478bd642fULL,
  ngram = 0xe7037ed1a0b428dbULL,
  bigram = 0x8ebc6af09c88c6e3ULL,
  skip = 0x589965cc75374cc3ULL,
};

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}

inline std::uint64_t load64(const char* p) noexcept {
  std::uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}

// The first n (1..8) of the 8 bytes at p; all 8 must be readable.
inline std::uint64_t load_head(const char* p, std::size_t n) noexcept {
  return load64(p) & (~std::uint64_t{0} >> (8 * (8 - n)));
}

// Hash of `size` >= 1 bytes. Reads up to 7 bytes past the span: callers pad their buffers.
inline std::uint64_t hash_span(const char* p, std::size_t size, std::uint64_t salt) noexcept {
  constexpr std::uint64_t k1 = 0x9e3779b97f4a7c15ULL, k2 = 0xd6e8feb86659fd93ULL;
  if (size <= 8) return mix(load_head(p, size) ^ salt, (k1 + (size << 1)) ^ (salt >> 7));
  std::uint64_t h = salt ^ (size * k2);
  std::size_t left = size;
  for (; left > 16; left -= 16, p += 16) h = mix(load64(p) ^ h, load64(p + 8) ^ k1);
  const std::uint64_t low = left > 8 ? load64(p) : load_head(p, left);
  const std::uint64_t high = left > 8 ? load_head(p + 8, left - 8) : 0;
  return mix(low ^ h, high ^ k2 ^ (salt >> 9));
}

// Hash of an ordered pair of hashes.
inline std::uint64_t hash_pair(std::uint64_t first, std::uint64_t second, Salt salt) noexcept {
  return mix(first ^ static_cast<std::uint64_t>(salt), std::rotl(second, 29) ^ 0x9e3779b97f4a7c15ULL);
}

// The salt of a kind of feature in the field-th text field: fields are kept apart.
inline std::uint64_t field_salt(Salt salt, std::size_t field) noexcept {
  return static_cast<std::uint64_t>(salt) + field * 0xd1342543de82ef95ULL;
}

}  // namespace dspex
