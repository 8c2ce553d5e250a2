// New examples for a finished model: its rows of weights move as little as the examples allow.
//
// Minimises 1/2 |W - W_0|^2 + C sum_i weight_i loss(W x_i, target_i) from the model's own weights W_0, with the
// training solver. Here every word and pair is a feature of its own: words that the model knows keep their
// n-grams folded in, and new words begin as their n-grams spell them.
#pragma once

#include <vector>

#include "export.hpp"
#include "hash_map.hpp"
#include "view.hpp"

namespace dspex {

struct RefineHead {
  Loss loss;                   // softmax, logistic or squared
  std::size_t columns;
  std::vector<float> targets;  // [rows, columns]; numbers standardised as in the fit
  std::vector<float> weights;  // [rows]
};

class Refiner {
 public:
  // hashes: of the model's rows. trained_rows: how many rows the model was fitted on.
  Refiner(const ModelView& model, const std::uint64_t* hashes, std::size_t trained_rows);

  void add_text(std::size_t field, const void* text, std::size_t size, unsigned unit_bytes);
  void end_row() { rows_.rows.end_row(); }

  // dense: [rows, dense_width + 1] standardised numbers and the constant 1.
  FloatModel run(const std::vector<RefineHead>& heads, DenseView dense, float c, std::uint64_t seed);

 private:
  std::uint32_t new_unit(const TextUnit& u);
  Solution start(const Problem& problem, std::size_t first_column) const;
  void finish(const Solution& solution, const Problem& problem, std::size_t first_column);

  ModelView view_;
  float fresh_idf_;     // of a unit that no row of the fit had
  HashMap ids_;
  FloatModel model_;
  FeatureRows rows_;
};

}  // namespace dspex
