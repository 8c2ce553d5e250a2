#include "gate.hpp"

#include "../clones.hpp"
#include "math.hpp"

namespace dspex {
namespace {

constexpr float least_doubt = 1e-6f;

// Five logarithms at once, of arguments above 0.
inline void logs(float* x) noexcept {
  for (std::size_t i = 0; i < 8; ++i) x[i] = fast_log(x[i]);
}

inline float ratio(float a, float b) noexcept { return b > 0 ? a / b : 0; }

}  // namespace

DSPEX_CLONES Evidence evidence_of(const float* weights, std::size_t n, float factor) noexcept {
  const Floats none = {};
  Floats positive = none, largest = none, squares = none, positives = none;
  for (std::size_t i = 0; i < n; i += 8) {
    Floats w;
    std::memcpy(&w, weights + i, sizeof w);
    w *= factor;
    const Floats up = w > none ? w : none;
    positive += up;
    largest = up > largest ? up : largest;
    squares += w * w;
    positives += w > none ? none + 1 : none;
  }
  float lanes[4][8];
  std::memcpy(lanes[0], &positive, 32), std::memcpy(lanes[1], &largest, 32);
  std::memcpy(lanes[2], &squares, 32), std::memcpy(lanes[3], &positives, 32);
  for (std::size_t width = 4; width > 0; width /= 2)
    for (std::size_t l = 0; l < width; ++l) {
      lanes[0][l] += lanes[0][l + width], lanes[2][l] += lanes[2][l + width], lanes[3][l] += lanes[3][l + width];
      lanes[1][l] = lanes[1][l + width] > lanes[1][l] ? lanes[1][l + width] : lanes[1][l];
    }
  return {lanes[0][0], lanes[1][0], lanes[2][0], lanes[3][0], static_cast<float>(n)};
}

DSPEX_CLONES float gate_log_odds(const float* gate, const Standing& at, float confidence, const Evidence& e,
                                 const Familiar& k, float* out) noexcept {
  const float sure = confidence > 1 ? 0.5f : confidence < least_doubt ? least_doubt : confidence;
  const float doubt = 1 - sure < least_doubt ? least_doubt : 1 - sure;
  const float words = k.known_words + k.unknown_words, pairs = k.known_pairs + k.unknown_pairs;
  float log[8] = {sure, doubt, 1 + e.positives, 1 + k.known_pairs, words < 1 ? 1 : words, 1, 1, 1};
  logs(log);
  out[0] = 1;
  out[1] = log[0] - log[1];                          // log-odds of the confidence
  out[2] = -log[0];
  out[3] = at.margin;
  out[4] = at.top;
  out[5] = e.positive;
  out[6] = e.positive - e.largest;
  out[7] = ratio(e.positive * e.positive, e.squares);  // how many rows of equal weight would say as much
  out[8] = ratio(e.largest, e.positive);
  out[9] = ratio(e.positives, e.rows);
  out[10] = log[2];
  out[11] = ratio(k.unknown_words, words);
  out[12] = k.unknown_words < 3 ? k.unknown_words : 3;
  out[13] = ratio(k.unknown_pairs, pairs);
  out[14] = log[3];
  out[15] = log[4];
  float term[gate_features];
  for (std::size_t i = 0; i < gate_features; i += 8) {
    Floats x, weight, low, high;
    std::memcpy(&x, out + i, sizeof x), std::memcpy(&weight, gate + i, sizeof x);
    std::memcpy(&low, gate + gate_features + i, sizeof x), std::memcpy(&high, gate + 2 * gate_features + i, sizeof x);
    x = x > low ? x : low;  // not a number, from weights far too large, is low
    x = x < high ? x : high;
    x *= weight;
    std::memcpy(term + i, &x, sizeof x);
  }
  return sum_of(term, gate_features);
}

}  // namespace dspex
