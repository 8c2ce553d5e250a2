// One call: texts and numbers in, one calibrated logit a column out. Allocates nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gate.hpp"
#include "view.hpp"

namespace dspex {

// A row of weights that a text added, and how often.
struct Hit {
  const std::uint8_t* row;
  float weight;
};

class Scorer {
 public:
  // sums: room for row_lanes(columns) floats, the call's accumulators.
  // keep: whether rows are kept for `evidence`.
  void begin(const ModelView* model, float* sums, bool keep) noexcept;

  // unit_bytes is 1, 2 or 4: code points, as Python keeps them (1: Latin-1).
  void add_text(std::size_t field, const void* text, std::size_t size, unsigned unit_bytes) noexcept;

  // logits: [columns]. dense: [dense_width], may be null when there are none.
  void finish(const float* dense, float* logits) noexcept;

  // Whether there was a word or symbol in the texts.
  bool any_units() const noexcept { return familiar_.known_words + familiar_.unknown_words > 0; }

  // What the first gate_hits rows say of a column, times sign. After all texts. Rows come in the order of their
  // units, but the n-grams of unknown words after the rows of 64 units.
  Evidence evidence(std::size_t column, float sign) const noexcept;
  const Familiar& familiar() const noexcept { return familiar_; }

 private:
  const ModelView* model_ = nullptr;
  float* sums_ = nullptr;
  bool keep_ = false;
  Familiar familiar_;
  float norm2_ = 0;
  std::size_t kept_ = 0;
  Hit hits_[gate_hits + 65];  // the kept ones, then a block's
};

// What one unit of a text adds to the logits, for explanations.
struct Contribution {
  const char* text;         // of a word or n-gram, folded; of a pair, its second word
  std::size_t bytes;
  const char* first;        // of a pair, its first word
  std::size_t first_bytes;
  std::size_t field;
  std::uint32_t kind;       // 0 word, 1 pair of neighbours, 2 pair around one token, 3 n-gram of an unknown word
  const float* weights;     // [columns], before division by the norm
  float norm2;
  std::uint32_t row;
};

using ContributionSink = void (*)(void* context, const Contribution&);

// The weights [columns] of one row times a factor; returns its squared norm times the factor's square.
float unpack_row(const ModelView& model, std::uint32_t row, float factor, float* out);

// Visits every row that add_text would add, in the same order. With `unfold`, the n-grams of known words too,
// which lie folded in the words' rows.
void visit_contributions(const ModelView& model, std::size_t field, const void* text, std::size_t size,
                         unsigned unit_bytes, bool unfold, ContributionSink sink, void* context);

}  // namespace dspex
