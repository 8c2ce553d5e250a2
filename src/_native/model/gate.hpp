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

// Of n weights, each times a factor; what follows to the next multiple of 8 is 0.
Evidence evidence_of(const float* weights, std::size_t n, float factor) noexcept;

// How much of a text is known.
struct Familiar {
  float known_words = 0, unknown_words = 0;
  float known_pairs = 0, unknown_pairs = 0;
};

inline constexpr std::size_t gate_features = 16;  // the first is the constant 1
inline constexpr std::size_t gate_floats = 3 * gate_features;  // weights, lowest, highest value of each feature
inline constexpr std::size_t gate_hits = 64;      // rows of a text that are looked at

// The log-odds of one head's score. gate: [gate_floats]; confidence: above 1 where there is none (numbers);
// features: [gate_features], what it was made of.
float gate_log_odds(const float* gate, const Standing& at, float confidence, const Evidence& evidence,
                    const Familiar& familiar, float* features) noexcept;

// How like the examples an input is: the largest logit tells of what belongs to no class, and the score of what
// is doubtful; together they tell more than either. Of several classes only: other logits say which, not how far.
inline float familiarity(const AnswerHead& head, const Standing& at, float log_odds) noexcept {
  return head.kind == AnswerKind::choice ? log_odds + at.top : log_odds;
}

}  // namespace dspex
