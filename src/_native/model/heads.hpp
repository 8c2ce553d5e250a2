// Logits to answers: probabilities, the picked class, and how sure the whole answer is.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dspex {

enum class AnswerKind : std::uint8_t { choice, binary, multilabel, number };

struct AnswerHead {
  AnswerKind kind;
  std::uint32_t first;      // its first column
  std::uint32_t columns;
  float threshold;          // binary, multilabel: probabilities from here on are a yes
  double scale, offset;     // number: answer = offset + scale * column; in double, to keep large numbers' digits
  double low, high;         // number: where the answer stays, the range of the examples
};

// Where a head's answer stands among its logits, before they become probabilities.
struct Standing {
  std::size_t column = 0;  // of the head: the answer's (several labels: the largest logit's)
  float sign = 1;          // of its weights: -1 where a binary answer is the first class
  float top = 0;           // its logit
  float margin = 0;        // to the next
};

Standing standing(const AnswerHead& head, const float* logits) noexcept;

// Turns one head's logits into probabilities in place (numbers stay); pick: a choice's class or a binary's 0 or 1.
// Returns its confidence, 2 if it has none. at: its standing, which spares looking for it again, or null.
float answer_head(const AnswerHead& head, const Standing* at, float* values, std::int32_t& pick) noexcept;

// All heads: turns logits into probabilities in place (numbers stay). picks: one a head.
// Returns the smallest confidence of the enumerable heads, 2 if there is none. A multilabel answer is right
// when every label is: its confidence is the product over its labels, taken as independent.
float answer_heads(const AnswerHead* heads, std::size_t count, float* values, std::int32_t* picks) noexcept;

}  // namespace dspex
