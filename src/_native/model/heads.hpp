// Logits to answers: probabilities, the picked class, and how sure the whole answer is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "math.hpp"

namespace dspex {

enum class AnswerKind : std::uint8_t { choice, binary, multilabel, number };

struct AnswerHead {
  AnswerKind kind;
  std::uint32_t first;      // its first column
  std::uint32_t columns;
  float threshold;          // binary, multilabel: probabilities from here on are a yes
};

inline std::uint32_t answer_choice(float* p, std::size_t n, float& confidence) noexcept {
  const float top = max_of(p, n);
  std::uint32_t pick = 0;
  while (p[pick] < top) ++pick;
  softmax(p, p, n);
  confidence = std::min(confidence, p[pick]);
  return pick;
}

// Turns logits into probabilities in place (numbers stay). picks: one a head, a choice's class or a binary's 0 or 1.
// Returns the smallest confidence of the enumerable heads, 2 if there is none. A multilabel answer is right
// when every label is: its confidence is the product over its labels, taken as independent.
inline float answer_heads(const AnswerHead* heads, std::size_t count, float* values, std::int32_t* picks) noexcept {
  float confidence = 2;
  for (std::size_t h = 0; h < count; ++h) {
    const AnswerHead& head = heads[h];
    float* v = values + head.first;
    picks[h] = 0;
    switch (head.kind) {
      case AnswerKind::choice:
        picks[h] = static_cast<std::int32_t>(answer_choice(v, head.columns, confidence));
        break;
      case AnswerKind::binary:
        v[0] = sigmoid(v[0]);
        picks[h] = v[0] >= head.threshold;
        confidence = std::min(confidence, picks[h] != 0 ? v[0] : 1 - v[0]);
        break;
      case AnswerKind::multilabel: {
        float all = 1;
        for (std::size_t k = 0; k < head.columns; ++k) {
          v[k] = sigmoid(v[k]);
          all *= v[k] >= head.threshold ? v[k] : 1 - v[k];
        }
        confidence = std::min(confidence, all);
        break;
      }
      case AnswerKind::number:
        break;
    }
  }
  return confidence;
}

}  // namespace dspex
