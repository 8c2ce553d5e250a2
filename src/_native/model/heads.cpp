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

float answer_heads(const AnswerHead* heads, std::size_t count, float* values, std::int32_t* picks) noexcept {
  float confidence = 2;
  for (std::size_t h = 0; h < count; ++h) {
    const AnswerHead& head = heads[h];
    float* v = values + head.first;
    picks[h] = 0;
    float own = 2;
    switch (head.kind) {
      case AnswerKind::choice:
        own = answer_choice(v, head.columns, picks[h]);
        break;
      case AnswerKind::binary:
        v[0] = sigmoid(v[0]);
        picks[h] = v[0] >= head.threshold;
        own = picks[h] != 0 ? v[0] : 1 - v[0];
        break;
      case AnswerKind::multilabel:
        own = answer_multilabel(v, head.columns, head.threshold);
        break;
      case AnswerKind::number:
        break;
    }
    confidence = std::min(confidence, own);
  }
  return confidence;
}

}  // namespace dspex
