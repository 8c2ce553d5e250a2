#include "gate.hpp"

#include "../clones.hpp"
#include "math.hpp"

namespace dspex {
namespace {

constexpr float least_doubt = 1e-6f;

// The two largest of n >= 2 values, and the first place of the largest.
DSPEX_CLONES void two_largest(const float* x, std::size_t n, std::size_t& at, float& first, float& second) {
  first = max_of(x, n);
  at = 0;
  while (x[at] < first) ++at;
  const float before = at > 0 ? max_of(x, at) : -INFINITY;
  const float after = at + 1 < n ? max_of(x + at + 1, n - at - 1) : -INFINITY;
  second = before > after ? before : after;
}

inline float ratio(float a, float b) noexcept { return b > 0 ? a / b : 0; }

}  // namespace

Standing standing(const AnswerHead& head, const float* logits) noexcept {
  Standing s;
  if (head.kind == AnswerKind::choice) {
    float second;
    two_largest(logits, head.columns, s.column, s.top, second);
    s.margin = s.top - second;
  } else if (head.kind == AnswerKind::binary) {
    s.sign = sigmoid(logits[0]) >= head.threshold ? 1.0f : -1.0f;
    s.margin = std::fabs(logits[0]), s.top = s.margin / 2;
  } else if (head.kind == AnswerKind::number) {
    s.top = logits[0], s.margin = std::fabs(logits[0]);
  } else {
    const float limit = fast_log(head.threshold / (1 - head.threshold));
    s.top = max_of(logits, head.columns);
    while (logits[s.column] < s.top) ++s.column;
    s.margin = std::fabs(logits[0] - limit);
    for (std::size_t k = 1; k < head.columns; ++k) s.margin = std::min(s.margin, std::fabs(logits[k] - limit));
  }
  return s;
}

void gate_features_of(const Standing& at, float confidence, const Evidence& e, const Familiar& k, float* out) noexcept {
  const float sure = confidence > 1 ? 0.5f : confidence < least_doubt ? least_doubt : confidence;
  const float doubt = 1 - sure < least_doubt ? least_doubt : 1 - sure;
  const float surprise = -fast_log(sure);
  const float words = k.known_words + k.unknown_words, pairs = k.known_pairs + k.unknown_pairs;
  out[0] = 1;
  out[1] = -surprise - fast_log(doubt);              // log-odds of the confidence
  out[2] = surprise;
  out[3] = at.margin;
  out[4] = at.top;
  out[5] = e.positive;
  out[6] = e.positive - e.largest;
  out[7] = ratio(e.positive * e.positive, e.squares);  // how many rows of equal weight would say as much
  out[8] = ratio(e.largest, e.positive);
  out[9] = ratio(e.positives, e.rows);
  out[10] = fast_log(1 + e.positives);
  out[11] = ratio(k.unknown_words, words);
  out[12] = k.unknown_words < 3 ? k.unknown_words : 3;
  out[13] = ratio(k.unknown_pairs, pairs);
  out[14] = fast_log(1 + k.known_pairs);
  out[15] = fast_log(words < 1 ? 1 : words);
  out[16] = fast_log(1 + k.norm2);
  out[17] = ratio(k.known_norm2, k.norm2);
}

float gate_score(const float* gate, const float* features) noexcept {
  const float* low = gate + gate_features;
  const float* high = low + gate_features;
  float sum = 0;
  for (std::size_t i = 0; i < gate_features; ++i) {
    float x = features[i];
    x = x > low[i] ? x : low[i];  // not a number, from weights far too large, is low
    x = x < high[i] ? x : high[i];
    sum += gate[i] * x;
  }
  return sigmoid(sum);
}

}  // namespace dspex
