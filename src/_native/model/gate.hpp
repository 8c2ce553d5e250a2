// How likely an answer agrees with the teacher: what speaks for it and how new its words are, in one score.
//
// A logistic regression over a few numbers that a call has at hand when its logits are there. It is learned on
// rows that the model was not fitted on (learning/gate.py), so it knows how sure the model really is.
#pragma once

#include <cstddef>
#include <cstdint>

#include "heads.hpp"

namespace dspex {

// What a text's rows of weights say, for one column of the logits.
struct Evidence {
  float positive = 0;      // sum of what speaks for the column; each row's weight over the text's norm
  float largest = 0;       // the largest of them
  float squares = 0;       // sum of the squares of all that speaks for or against it
  float positives = 0;     // how many speak for it
  float rows = 0;          // how many there are
};

// How much of a text is known.
struct Familiar {
  float known_words = 0, unknown_words = 0;
  float known_pairs = 0, unknown_pairs = 0;
  float norm2 = 0;         // squared norm of all rows
  float known_norm2 = 0;   // of the rows of known words and pairs
};

inline constexpr std::size_t gate_features = 18;  // the first is the constant 1
inline constexpr std::size_t gate_floats = 3 * gate_features;  // weights, lowest, highest value of each feature
inline constexpr std::size_t gate_hits = 256;     // rows of a text that are looked at

// Where a head's answer stands among its logits, before they become probabilities.
struct Standing {
  std::size_t column = 0;  // of the head: the answer's (several labels: the largest logit's)
  float sign = 1;          // of its weights: -1 where a binary answer is the first class
  float top = 0;           // its logit
  float margin = 0;        // to the next
};

Standing standing(const AnswerHead& head, const float* logits) noexcept;

// confidence: of the head's answer; above 1 where there is none (numbers). out: [gate_features].
void gate_features_of(const Standing& at, float confidence, const Evidence& evidence, const Familiar& familiar,
                      float* out) noexcept;

// The score in (0, 1) of features [gate_features]; gate: [gate_floats] of one head.
float gate_score(const float* gate, const float* features) noexcept;

}  // namespace dspex
