// Small vectorisable mathematics: exp, softmax, sigmoid, and a seeded permutation.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace dspex {

// e^x within 2 units in the last place; plain arithmetic, so that loops over it vectorise.
// Cody-Waite reduction and the degree-5 polynomial of Cephes' expf.
inline float fast_exp(float x) noexcept {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504088896341f + 12582912.0f;  // rounds to an integer in the low bits
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * r * r + r + 1.0f;
  const auto power = std::bit_cast<std::int32_t>(shifted) - std::bit_cast<std::int32_t>(12582912.0f);
  return y * std::bit_cast<float>((power + 127) << 23);
}

// ln x of a normal x > 0 within 2 units in the last place of 1 + |ln x|: Cephes' logf.
inline float fast_log(float x) noexcept {
  const auto bits = std::bit_cast<std::int32_t>(x);
  auto exponent = (bits >> 23) - 126;
  float m = std::bit_cast<float>((bits & 0x007FFFFF) | 0x3F000000);  // in [0.5, 1)
  const bool low = m < 0.707106781186547524f;
  exponent -= low ? 1 : 0;
  m = (low ? m + m : m) - 1.0f;
  const float z = m * m, e = static_cast<float>(exponent);
  float p = 7.0376836292e-2f;
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  float y = p * m * z;
  y += e * -2.12194440e-4f;
  y -= 0.5f * z;
  return (m + y) + e * 0.693359375f;
}

inline float sigmoid(float x) noexcept { return 1.0f / (1.0f + fast_exp(-x)); }

// Largest of n values, over 16 fixed lanes: the order, and so the bits, are the same on every machine.
inline float max_of(const float* x, std::size_t n) noexcept {
  float lane[16];
  for (float& l : lane) l = -INFINITY;
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (std::size_t l = 0; l < 16; ++l) lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
  for (std::size_t l = 0; i < n; ++i, ++l) lane[l] = x[i] > lane[l] ? x[i] : lane[l];
  for (std::size_t width = 8; width > 0; width /= 2)
    for (std::size_t l = 0; l < width; ++l) lane[l] = lane[l + width] > lane[l] ? lane[l + width] : lane[l];
  return lane[0];
}

inline float sum_of(const float* x, std::size_t n) noexcept {
  float lane[16] = {};
  std::size_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (std::size_t l = 0; l < 16; ++l) lane[l] += x[i + l];
  for (std::size_t l = 0; i < n; ++i, ++l) lane[l] += x[i];
  for (std::size_t width = 8; width > 0; width /= 2)
    for (std::size_t l = 0; l < width; ++l) lane[l] += lane[l + width];
  return lane[0];
}

// Softmax of n logits, the largest of which is top; out may be x.
inline void softmax(const float* x, float* out, std::size_t n, float top) noexcept {
  std::size_t k = 0;
  for (; k + 16 <= n; k += 16)
    for (std::size_t l = 0; l < 16; ++l) out[k + l] = fast_exp(x[k + l] - top);
  if (k < n) {  // the rest in one vector too, not one by one
    float rest[16] = {};
    std::memcpy(rest, x + k, (n - k) * sizeof(float));
    for (float& r : rest) r = fast_exp(r - top);
    std::memcpy(out + k, rest, (n - k) * sizeof(float));
  }
  const float scale = 1.0f / sum_of(out, n);
  for (k = 0; k < n; ++k) out[k] *= scale;
}

inline void softmax(const float* x, float* out, std::size_t n) noexcept { softmax(x, out, n, max_of(x, n)); }

// SplitMix64 (Steele, Lea and Flood, 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed) {}
  std::uint64_t next() noexcept {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) noexcept {
    return static_cast<std::size_t>(static_cast<unsigned __int128>(next()) * n >> 64);
  }

 private:
  std::uint64_t state_;
};

template <class T>
inline void shuffle(std::vector<T>& items, Random& random) {
  for (std::size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
}

}  // namespace dspex
