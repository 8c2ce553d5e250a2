// What a call's gate looks at, for rows of the corpus and models that were trained without them.
#pragma once

#include <cstdint>
#include <vector>

#include "gate.hpp"
#include "solver.hpp"
#include "stack.hpp"

namespace dspex {

struct RowEvidence {
  Evidence evidence;
  Familiar familiar;
};

// One over the spread of scores [rows of the part, columns]: the weight of a model beside others, before the stack
// is known. 0 where all scores are the same.
double even_weight(const float* scores, std::size_t columns, const Parts& parts, std::uint8_t part);

// Fills out [rows] for the rows of a part. scores: one array [rows, columns] a model; solutions and weights: of the
// same models, which have not seen the part. Each row is looked at as in a call: Scorer::evidence.
void part_evidence(const Corpus& corpus, const Parts& parts, std::uint8_t part, HeadKind kind, std::size_t columns,
                   const std::vector<const float*>& scores, const std::vector<const Solution*>& solutions,
                   const std::vector<double>& weights, RowEvidence* out);

}  // namespace dspex
