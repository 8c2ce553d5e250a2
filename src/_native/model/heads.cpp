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

DSPEX_CLONES float answer_multilabel(float* p, std::size_t n, float threshold) {
  for (std::size_t k = 0; k < n; ++k) p[k] = sigmoid(p[k]);
  float all = 1;
  for (std::size_t k = 0; k < n; ++k) all *= p[k] >= threshold ? p[k] : 1 - p[k];
  return all;
}

}  // namespace

float answer_head(const AnswerHead& head, float* v, std::int32_t& pick) noexcept {
  pick = 0;
  switch (head.kind) {
    case AnswerKind::choice: return answer_choice(v, head.columns, pick);
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
    confidence = std::min(confidence, answer_head(heads[h], values + heads[h].first, picks[h]));
  return confidence;
}

}  // namespace dspex
