#include "heads.hpp"

#include "../clones.hpp"
#include "math.hpp"

namespace dspex {
namespace {

DSPEX_CLONES float answer_choice(float* p, std::size_t n, std::int32_t& pick) {
  const float top = max_of(p, n);
  std::size_t k = 0;
  while (p[k] < top) ++k;
  pick = static_cast<std::int32_t>(k);
  softmax(p, p, n, top);
  return p[k];
}

DSPEX_CLONES float answer_choice_at(float* p, std::size_t n, const Standing& at) {
  softmax(p, p, n, at.top);
  return p[at.column];
}

// The two largest of n >= 2 values.
DSPEX_CLONES void two_largest(const float* x, std::size_t n, float& first, float& second) {
  const Floats none = Floats{} - INFINITY;
  Floats top[2] = {none, none}, next[2] = {none, none};
  const auto add = [&](std::size_t h, const Floats& v) {
    const Floats less = v < top[h] ? v : top[h];
    top[h] = v > top[h] ? v : top[h];
    next[h] = less > next[h] ? less : next[h];
  };
  std::size_t i = 0;
  Floats v;
  for (; i + 16 <= n; i += 16)
    for (std::size_t h = 0; h < 2; ++h) std::memcpy(&v, x + i + 8 * h, sizeof v), add(h, v);
  for (std::size_t h = 0; i < n; i += 8, h = 1) {
    v = none;
    std::memcpy(&v, x + i, std::min<std::size_t>(8, n - i) * sizeof(float));
    add(h, v);
  }
  float one[16], two[16];
  std::memcpy(one, top, sizeof one), std::memcpy(two, next, sizeof two);
  for (std::size_t width = 8; width > 0; width /= 2)
    for (std::size_t l = 0; l < width; ++l) {
      const float less = one[l + width] < one[l] ? one[l + width] : one[l];
      const float more = two[l + width] > two[l] ? two[l + width] : two[l];
      one[l] = one[l + width] > one[l] ? one[l + width] : one[l];
      two[l] = less > more ? less : more;
    }
  first = one[0], second = two[0];
}

DSPEX_CLONES float answer_multilabel(float* p, std::size_t n, float threshold) {
  for (std::size_t k = 0; k < n; ++k) p[k] = sigmoid(p[k]);
  float all = 1;
  for (std::size_t k = 0; k < n; ++k) all *= p[k] >= threshold ? p[k] : 1 - p[k];
  return all;
}

}  // namespace

Standing standing(const AnswerHead& head, const float* logits) noexcept {
  Standing s;
  if (head.kind == AnswerKind::choice) {
    float second;
    two_largest(logits, head.columns, s.top, second);
    while (logits[s.column] < s.top) ++s.column;
    s.margin = s.top - second;
  } else if (head.kind == AnswerKind::binary) {
    const bool yes = head.threshold == 0.5f ? logits[0] >= 0 : sigmoid(logits[0]) >= head.threshold;
    s.sign = yes ? 1.0f : -1.0f;
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

float answer_head(const AnswerHead& head, const Standing* at, float* v, std::int32_t& pick) noexcept {
  pick = 0;
  switch (head.kind) {
    case AnswerKind::choice:
      if (at == nullptr) return answer_choice(v, head.columns, pick);
      pick = static_cast<std::int32_t>(at->column);
      return answer_choice_at(v, head.columns, *at);
    case AnswerKind::multilabel: return answer_multilabel(v, head.columns, head.threshold);
    case AnswerKind::number: return 2;
    case AnswerKind::binary: break;
  }
  v[0] = sigmoid(v[0]);
  pick = v[0] >= head.threshold;
  return pick != 0 ? v[0] : 1 - v[0];
}

float answer_heads(const AnswerHead* heads, std::size_t count, float* values, std::int32_t* picks) noexcept {
  float confidence = 2;
  for (std::size_t h = 0; h < count; ++h)
    confidence = std::min(confidence, answer_head(heads[h], nullptr, values + heads[h].first, picks[h]));
  return confidence;
}

}  // namespace dspex
