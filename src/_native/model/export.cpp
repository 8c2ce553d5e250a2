#include "export.hpp"

#include <bit>

namespace dspex {
namespace {

std::vector<std::uint32_t> units_by_frequency(const Corpus& corpus) {
  std::vector<std::uint32_t> order(corpus.units());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return corpus.unit_df(a) > corpus.unit_df(b); });
  return order;
}

// Adds value * (the heads' stacked weights of a feature) to row.
class FeatureAdder {
 public:
  FeatureAdder(const std::vector<HeadSpec>& heads, const std::vector<HeadFit>& fits) : heads_(heads), fits_(fits) {}

  void add(std::size_t feature, float value, float* row) const {
    for (std::size_t h = 0; h < heads_.size(); row += heads_[h].columns, ++h)
      for (std::size_t m = 0; m < fits_[h].solutions.size(); ++m) {
        const auto factor = static_cast<float>(fits_[h].stack.coefficient[m]) * value;
        if (factor == 0) continue;
        const float* w = fits_[h].solutions[m]->row(feature);
        for (std::size_t k = 0; k < heads_[h].columns; ++k) row[k] += factor * w[k];
      }
  }

 private:
  const std::vector<HeadSpec>& heads_;
  const std::vector<HeadFit>& fits_;
};

void pack_f32(std::uint8_t* out, const float* w, float norm2, std::size_t columns) {
  std::memcpy(out, &norm2, 4);
  std::memcpy(out + 4, w, 4 * columns);
}

// Symmetric int8 with a scale per row.
void pack_i8(std::uint8_t* out, const float* w, float norm2, std::size_t columns) {
  float top = 0;
  for (std::size_t k = 0; k < columns; ++k) top = std::max(top, std::fabs(w[k]));
  const float scale = top / 127, inv = top > 0 ? 127 / top : 0;
  std::memcpy(out, &scale, 4);
  std::memcpy(out + 4, &norm2, 4);
  for (std::size_t k = 0; k < columns; ++k) {
    const auto q = static_cast<std::int8_t>(std::lrint(w[k] * inv));
    std::memcpy(out + i8_header + k, &q, 1);
  }
}

}  // namespace

FloatModel fold_model(const Corpus& corpus, std::size_t dense_width, const std::vector<HeadSpec>& heads,
                      const std::vector<HeadFit>& fits) {
  const FeatureAdder adder(heads, fits);
  FloatModel model;
  for (const HeadSpec& h : heads) model.columns += h.columns;
  const std::size_t k = model.columns, units = corpus.units(), ngrams = corpus.features() - units;
  model.weights.assign((units + ngrams) * k, 0.0f);
  float* row = model.weights.data();
  for (const std::uint32_t u : units_by_frequency(corpus)) {
    for (auto i = corpus.unit_features.begin[u]; i < corpus.unit_features.begin[u + 1]; ++i)
      adder.add(corpus.unit_features.items[i], corpus.values[i], row);
    model.hashes.push_back(corpus.hashes[u]);
    model.norm2.push_back(corpus.unit_norm2[u]);
    row += k;
  }
  for (std::size_t f = units; f < corpus.features(); ++f, row += k) {
    adder.add(f, corpus.idf[f], row);
    model.hashes.push_back(corpus.feature_hash[f]);
    model.norm2.push_back(corpus.idf[f] * corpus.idf[f]);
  }
  model.dense.assign((dense_width - 1) * k, 0.0f);
  for (std::size_t d = 0; d + 1 < dense_width; ++d) adder.add(corpus.features() + d, 1.0f, &model.dense[d * k]);
  model.bias.assign(k, 0.0f);
  adder.add(corpus.features() + dense_width - 1, 1.0f, model.bias.data());
  float* bias = model.bias.data();
  for (std::size_t h = 0; h < heads.size(); ++h)
    for (std::size_t c = 0; c < heads[h].columns; ++c)
      *bias++ += static_cast<float>(fits[h].stack.bias);
  return model;
}

PackedModel pack_model(std::size_t columns, const std::vector<std::uint64_t>& hashes, const std::vector<float>& norm2,
                       const std::vector<float>& weights) {
  PackedModel packed;
  const std::size_t stride = row_stride(columns), count = hashes.size();
  packed.rows.assign(count * stride, 0);
  packed.index.assign(std::bit_ceil(std::max<std::size_t>(8, 2 * count)), IndexEntry{0, no_row});
  const std::size_t mask = packed.index.size() - 1;
  for (std::size_t i = 0; i < count; ++i) {
    const auto pack = row_format(columns) == RowFormat::i8 ? pack_i8 : pack_f32;
    pack(packed.rows.data() + i * stride, weights.data() + i * columns, norm2[i], columns);
    std::size_t slot = hashes[i] & mask;
    while (packed.index[slot].row != no_row) slot = (slot + 1) & mask;
    packed.index[slot] = {static_cast<std::uint32_t>(hashes[i] >> 32), static_cast<std::uint32_t>(i)};
  }
  return packed;
}

}  // namespace dspex
