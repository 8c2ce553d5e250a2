// From trained heads to a finished model: units' features summed into rows, quantised, indexed.
#pragma once

#include <vector>

#include "trainer.hpp"
#include "view.hpp"

namespace dspex {

// Rows in float: units first, most frequent first, then the n-grams that spell unknown words.
struct FloatModel {
  std::size_t columns = 0;
  std::vector<std::uint64_t> hashes;
  std::vector<float> norm2;
  std::vector<float> weights;  // [rows, columns]
  std::vector<float> bias;     // [columns]
  std::vector<float> dense;    // [dense width without the constant, columns]
};

FloatModel fold_model(const Corpus& corpus, std::size_t dense_width, const std::vector<HeadSpec>& heads,
                      const std::vector<HeadFit>& fits);

struct PackedModel {
  std::vector<IndexEntry> index;
  std::vector<std::uint8_t> rows;
};

PackedModel pack_model(std::size_t columns, const std::vector<std::uint64_t>& hashes, const std::vector<float>& norm2,
                       const std::vector<float>& weights);

}  // namespace dspex
