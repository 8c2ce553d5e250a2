// Averages several linear models and calibrates them, on rows none of them was trained on.
//
// Each model's scores are scaled to minimise the log loss (or squared error) of the held-out rows, the scaled
// scores are averaged with equal say, and the average is scaled once more: temperature scaling (Guo et al.,
// 2017) for softmax, Platt's method (1999) for sigmoid heads. Equal say, because the best-fitting mixture
// follows the log loss and loses accuracy; the average of two linear models is one linear model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "math.hpp"
#include "solver.hpp"

namespace dspex {

enum class HeadKind : std::uint8_t { softmax, sigmoid, number };

struct Stack {
  std::vector<double> coefficient;  // one a model; never negative
  double bias = 0;                  // of sigmoid and number heads
};

// scores: one array [rows, columns] a model.
Stack fit_stack(HeadKind kind, std::span<const float* const> scores, const float* targets, const float* weights,
                std::size_t rows, std::size_t columns);

}  // namespace dspex
