// The checksum of the model file: finds accidental damage, does not withstand an adversary.
//
// Definition (all arithmetic modulo 2^64, words little-endian):
//   lane[l] = kLaneSeed[l]                                     for l = 0..7
//   The bytes, zero-padded to a multiple of 64, are read as 64-bit words w[0], w[1], ...
//   Word w[i] goes to lane l = i mod 8, in order of i:
//     lane[l] ^= w[i];  lane[l] += lane[l] << 21;  lane[l] ^= lane[l] >> 29
//   sum = mix(length in bytes ^ kFoldSeed)
//   for l = 0..7:  sum = mix(sum ^ lane[l])
//   mix(x): x ^= x >> 32;  x *= kMixFactor;  x ^= x >> 29;  x *= kMixFactor;  x ^= x >> 32
//
// Why: for a fixed word every step maps the lane one-to-one, and for a fixed lane the word one-to-one (the
// shift-add is a product with the odd number 2^21 + 1). So damage within one word ALWAYS changes the sum;
// accidental damage to several words goes unseen with a chance of about 2^-64. Shift, add and xor of 64-bit
// lanes exist in every SIMD set, the x86-64 baseline included; a 64-bit product does not.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace dspex {

namespace checksum_detail {

static_assert(std::endian::native == std::endian::little, "words are read in place");

inline constexpr std::size_t kLanes = 8;
inline constexpr std::size_t kBlock = kLanes * sizeof(std::uint64_t);
inline constexpr std::uint64_t kFoldSeed = 0x6A09E667F3BCC908u;
inline constexpr std::uint64_t kMixFactor = 0xD6E8FEB86659FD93u;
// Fraction bits of the square roots of 3, 5, ..., 23: lanes differ, so words cannot trade lanes unseen.
inline constexpr std::uint64_t kLaneSeed[kLanes] = {
    0xBB67AE8584CAA73Bu, 0x3C6EF372FE94F82Bu, 0xA54FF53A5F1D36F1u, 0x510E527FADE682D1u,
    0x9B05688C2B3E6C1Fu, 0x1F83D9ABFB41BD6Bu, 0x5BE0CD19137E2179u, 0xCBBB9D5DC1059ED8u};

inline std::uint64_t mix(std::uint64_t x) noexcept {
    x ^= x >> 32;
    x *= kMixFactor;
    x ^= x >> 29;
    x *= kMixFactor;
    return x ^ (x >> 32);
}

// Two lanes in one register. GCC 12 leaves a plain loop over eight words scalar, at half the speed.
using Pair = std::uint64_t __attribute__((vector_size(16)));

inline void take_pair(Pair& lanes, const unsigned char* bytes) noexcept {
    Pair words;
    std::memcpy(&words, bytes, sizeof words);  // the bytes may have any alignment
    lanes ^= words;
    lanes += lanes << 21;
    lanes ^= lanes >> 29;
}

inline void take_blocks(std::uint64_t* lane, const unsigned char* bytes, std::size_t blocks) noexcept {
    Pair a, b, c, d;  // four names, not an array: -O2 would keep an array in memory
    std::memcpy(&a, lane, sizeof a);
    std::memcpy(&b, lane + 2, sizeof b);
    std::memcpy(&c, lane + 4, sizeof c);
    std::memcpy(&d, lane + 6, sizeof d);
    for (; blocks != 0; --blocks, bytes += kBlock) {
        take_pair(a, bytes);
        take_pair(b, bytes + 16);
        take_pair(c, bytes + 32);
        take_pair(d, bytes + 48);
    }
    std::memcpy(lane, &a, sizeof a);
    std::memcpy(lane + 2, &b, sizeof b);
    std::memcpy(lane + 4, &c, sizeof c);
    std::memcpy(lane + 6, &d, sizeof d);
}

}  // namespace checksum_detail

// The checksum of `size` bytes at `data` (may be null when size is 0). Reads them once, allocates nothing.
inline std::uint64_t checksum64(const void* data, std::size_t size) noexcept {
    using namespace checksum_detail;
    std::uint64_t lane[kLanes];
    std::memcpy(lane, kLaneSeed, sizeof lane);

    const auto* bytes = static_cast<const unsigned char*>(data);
    const std::size_t whole = size / kBlock;
    take_blocks(lane, bytes, whole);
    if (const std::size_t rest = size % kBlock; rest != 0) {
        unsigned char tail[kBlock] = {};
        std::memcpy(tail, bytes + whole * kBlock, rest);
        take_blocks(lane, tail, 1);
    }

    std::uint64_t sum = mix(static_cast<std::uint64_t>(size) ^ kFoldSeed);
    for (const std::uint64_t l : lane) sum = mix(sum ^ l);
    return sum;
}

}  // namespace dspex
