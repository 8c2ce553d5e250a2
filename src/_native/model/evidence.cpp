#include "evidence.hpp"

namespace dspex {
namespace {

// The summed weights of one column, over models.
class Column {
 public:
  Column(const std::vector<const Solution*>& solutions, const std::vector<double>& weights, std::size_t column,
         float sign)
      : solutions_(solutions), weights_(weights), column_(column), sign_(sign) {}

  float operator()(std::size_t feature) const noexcept {
    float sum = 0;
    for (std::size_t m = 0; m < solutions_.size(); ++m)
      sum += static_cast<float>(weights_[m]) * solutions_[m]->row(feature)[column_];
    return sign_ * sum;
  }

 private:
  const std::vector<const Solution*>& solutions_;
  const std::vector<double>& weights_;
  std::size_t column_;
  float sign_;
};

class RowReader {
 public:
  RowReader(const Corpus& corpus, const Parts& parts, std::uint8_t part)
      : corpus_(corpus), parts_(parts), part_(part) {}

  RowEvidence read(std::uint32_t row, const Column& column) const {
    RowEvidence r;
    r.familiar.unknown_words = static_cast<float>(corpus_.dropped_words(row));
    r.familiar.unknown_pairs = static_cast<float>(corpus_.dropped_pairs(row));
    std::vector<float> weights;
    float norm2 = 0;
    const auto add_row = [&](float w, float square) {
      norm2 += square;
      if (weights.size() < gate_hits) weights.push_back(w);
    };
    for (auto i = corpus_.rows.begin[row]; i < corpus_.rows.begin[row + 1]; ++i)
      add_unit(corpus_.rows.items[i], column, r.familiar, add_row);
    const std::size_t rows = weights.size();
    while (weights.size() % 8 != 0) weights.push_back(0);
    r.evidence = evidence_of(weights.data(), rows, norm2 > 0 ? 1 / std::sqrt(norm2) : 0);
    return r;
  }

 private:
  template <class AddRow>
  void add_unit(std::uint32_t unit, const Column& column, Familiar& familiar, AddRow&& add_row) const {
    const bool word = corpus_.is_word(unit), known = parts_.unit_seen(unit, part_);
    (word ? known ? familiar.known_words : familiar.unknown_words
          : known ? familiar.known_pairs : familiar.unknown_pairs) += 1;
    const auto first = corpus_.unit_features.begin[unit], last = corpus_.unit_features.begin[unit + 1];
    float sum = 0, norm2 = 0;
    for (auto j = known ? first : first + 1; j < last; ++j) {
      const std::uint32_t f = corpus_.unit_features.items[j];
      const float v = corpus_.values[j];
      if (known) {
        sum += v * column(f), norm2 += v * v;
      } else if (parts_.feature_seen(f, part_)) {
        add_row(v * column(f), v * v);
      }
    }
    if (known) add_row(sum, norm2);
  }

  const Corpus& corpus_;
  const Parts& parts_;
  std::uint8_t part_;
};

}  // namespace

static_assert(sizeof(RowEvidence) == 9 * sizeof(float));  // as _fit.pyx hands it out

double even_weight(const float* scores, std::size_t columns, const Parts& parts, std::uint8_t part) {
  double count = 0, sum = 0, squares = 0;
  for (std::size_t row = 0; row < parts.of_row().size(); ++row) {
    if (parts.of_row()[row] != part) continue;
    for (std::size_t k = 0; k < columns; ++k) {
      const double s = scores[row * columns + k];
      count += 1, sum += s, squares += s * s;
    }
  }
  const double variance = count > 0 ? squares / count - (sum / count) * (sum / count) : 0;
  return variance > 1e-12 ? 1 / std::sqrt(variance) : 0;
}

void part_evidence(const Corpus& corpus, const Parts& parts, std::uint8_t part, HeadKind kind, std::size_t columns,
                   const std::vector<const float*>& scores, const std::vector<const Solution*>& solutions,
                   const std::vector<double>& weights, RowEvidence* out) {
  const RowReader reader(corpus, parts, part);
  std::vector<double> sum(columns);
  for (std::uint32_t row = 0; row < parts.of_row().size(); ++row) {
    if (parts.of_row()[row] != part) continue;
    std::fill(sum.begin(), sum.end(), 0.0);
    for (std::size_t m = 0; m < scores.size(); ++m)
      for (std::size_t k = 0; k < columns; ++k) sum[k] += weights[m] * scores[m][row * columns + k];
    const auto top = static_cast<std::size_t>(std::max_element(sum.begin(), sum.end()) - sum.begin());
    const float sign = kind == HeadKind::sigmoid && columns == 1 && sum[0] < 0 ? -1.0f : 1.0f;
    out[row] = reader.read(row, Column(solutions, weights, top, sign));
  }
}

}  // namespace dspex
