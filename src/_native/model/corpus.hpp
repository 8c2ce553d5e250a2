// The training texts as rows of units (words, pairs of words), and each unit as its features.
//
// A word's character n-grams depend on the word alone. So a text is kept as the units in it, a unit
// as its features, and the solver walks row -> units -> features. In the finished model each unit's
// features are summed into one row of weights (see export.hpp), which is what makes a call cheap.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "../text/features.hpp"
#include "hash_map.hpp"

namespace dspex {

// Compressed sparse rows: items[begin[i] .. begin[i + 1]) belong to row i.
struct Csr {
  std::vector<std::uint64_t> begin{0};
  std::vector<std::uint32_t> items;

  std::size_t size() const noexcept { return begin.size() - 1; }
  void end_row() { begin.push_back(items.size()); }
};

// Rows as the solver reads them: row -> units -> features, with values.
struct FeatureRows {
  Csr rows;                         // row -> unit ids, repeated as often as they occur
  Csr unit_features;                // unit -> feature ids; first the unit's own
  std::vector<float> values;        // parallel to unit_features.items
  std::vector<float> inv_norm;      // row -> 1 / sqrt(sum of its units' norm2), 0 for a row without units
  std::vector<float> squared_norm;  // row -> true squared length of its feature vector
  std::size_t feature_count = 0;

  void normalise(const std::vector<float>& unit_norm2);  // fills inv_norm and squared_norm from the rest
};

struct CorpusOptions {
  TextOptions text;
  std::uint32_t min_pair_df = 1;     // pairs of words in fewer rows than this are left out
  std::uint32_t max_units = 1 << 20; // and beyond this many, the rarest units
};

class Corpus : public FeatureRows {
 public:
  explicit Corpus(CorpusOptions options) : options_(options) {}

  // First pass: call for every text of every row, then finish_count() once.
  void count(std::uint32_t row, std::size_t field, const void* text, std::size_t size, unsigned unit_bytes) {
    for_each_unit(text, size, unit_bytes, field, options_.text, [&](const TextUnit& u) { count_unit(row, u); });
  }

  void finish_count(std::size_t rows);

  // Second pass: the same texts in the same order, end_row() after each row.
  void add_text(std::size_t field, const void* text, std::size_t size, unsigned unit_bytes) {
    for_each_unit(text, size, unit_bytes, field, options_.text, [&](const TextUnit& u) {
      const std::uint32_t id = ids_.find(u.hash);
      if (id != HashMap::none) {
        rows.items.push_back(id);
      } else {
        ++(u.is_word() ? dropped_.back().words : dropped_.back().pairs);
      }
    });
  }
  void end_row() {
    rows.end_row();
    dropped_.emplace_back();
  }

  // After the second pass: features of every unit, their values, and the rows' norms.
  void finish();

  std::size_t units() const noexcept { return hashes.size(); }
  std::size_t features() const noexcept { return feature_hash.size(); }
  const CorpusOptions& options() const noexcept { return options_; }

  std::uint32_t unit_df(std::uint32_t unit) const { return unit_df_[unit]; }
  std::uint32_t feature_df(std::uint32_t feature) const { return feature_df_[feature]; }
  bool is_word(std::uint32_t unit) const { return counted_[unit].kind == TextUnit::Kind::word; }
  // Words and pairs of a row that are not among the units.
  std::uint32_t dropped_words(std::uint32_t row) const { return dropped_[row].words; }
  std::uint32_t dropped_pairs(std::uint32_t row) const { return dropped_[row].pairs; }

  std::vector<std::uint64_t> hashes;       // unit -> its hash in the index
  std::vector<float> unit_norm2;           // unit -> sum of squares of its values
  std::vector<std::uint64_t> feature_hash; // feature -> hash; a unit's own feature has the unit's hash
  std::vector<float> idf;                  // feature -> smoothed inverse document frequency

 private:
  struct Counted {
    std::uint32_t df = 0;
    std::uint32_t last_row = ~0u;
    std::uint32_t text_begin = 0;  // of a word, in texts_
    std::uint16_t bytes = 0, chars = 0;
    TextUnit::Kind kind = TextUnit::Kind::word;
    std::uint32_t field = 0;
  };

  void count_unit(std::uint32_t row, const TextUnit& u) {
    // In large corpora a unit is counted from its second meeting on: most pairs are met only once.
    if (row >= doorkeeper_after && !u.is_word() && !doorkeeper_.test_and_set(u.hash)) return;
    const auto [id, fresh] = counting_.insert(u.hash);
    if (fresh) {
      counted_.emplace_back();
      Counted& c = counted_.back();
      c.kind = u.kind, c.field = static_cast<std::uint32_t>(u.field);
      if (u.has_ngrams()) {
        c.text_begin = static_cast<std::uint32_t>(texts_.size());
        c.bytes = static_cast<std::uint16_t>(u.bytes), c.chars = static_cast<std::uint16_t>(u.chars);
        texts_.append(u.text, u.bytes);
      }
    }
    Counted& c = counted_[id];
    if (c.last_row != row) c.last_row = row, ++c.df;
  }

  void select_units();
  void build_features();
  void count_features();
  void weigh();

  static constexpr std::uint32_t doorkeeper_after = 1 << 17;

  CorpusOptions options_;
  HashMap counting_, ids_;
  BitFilter doorkeeper_;
  std::vector<Counted> counted_;
  std::string texts_;
  std::size_t row_count_ = 0;
  std::vector<std::uint32_t> unit_df_, feature_df_;
  struct Dropped {
    std::uint32_t words = 0, pairs = 0;
  };
  std::vector<Dropped> dropped_{1};  // of each row, then of the one that is being added
};

// The rows dealt to parts, and what a model that is trained without one of them has seen.
class Parts {
 public:
  Parts(const Corpus& corpus, std::vector<std::uint8_t> part_of_row, std::size_t count);

  const std::vector<std::uint8_t>& of_row() const noexcept { return part_of_row_; }
  std::size_t count() const noexcept { return count_; }
  // Whether a unit or feature occurs in a row outside the part.
  bool unit_seen(std::uint32_t unit, std::size_t part) const { return corpus_.unit_df(unit) > unit_df_[unit * count_ + part]; }
  bool feature_seen(std::uint32_t f, std::size_t part) const { return corpus_.feature_df(f) > feature_df_[f * count_ + part]; }

 private:
  const Corpus& corpus_;
  std::vector<std::uint8_t> part_of_row_;
  std::size_t count_;
  std::vector<std::uint32_t> unit_df_, feature_df_;  // [units, count], [features, count]
};

inline void Corpus::finish_count(std::size_t rows) {
  row_count_ = rows;
  select_units();
}

inline void Corpus::select_units() {
  std::vector<std::uint32_t> keep;
  for (std::uint32_t i = 0; i < counted_.size(); ++i)
    if (counted_[i].kind == TextUnit::Kind::word || counted_[i].df >= options_.min_pair_df) keep.push_back(i);
  if (keep.size() > options_.max_units) {
    std::stable_sort(keep.begin(), keep.end(),
                     [this](auto a, auto b) { return counted_[a].df > counted_[b].df; });
    keep.resize(options_.max_units);
    std::sort(keep.begin(), keep.end());
  }
  std::vector<std::uint64_t> all(counted_.size());
  counting_.for_each([&](std::uint64_t hash, std::uint32_t id) { all[id] = hash; });
  std::vector<Counted> kept;
  for (const std::uint32_t i : keep) {
    ids_.insert(all[i]);
    hashes.push_back(all[i]);
    kept.push_back(counted_[i]);
    unit_df_.push_back(counted_[i].df);
  }
  counted_ = std::move(kept);
  counting_ = HashMap{};
}

inline void Corpus::finish() {
  build_features();
  count_features();
  weigh();
  feature_count = features();
  normalise(unit_norm2);
}

inline void Corpus::build_features() {
  feature_hash = hashes;
  HashMap ngrams;
  const auto base = static_cast<std::uint32_t>(units());
  for (std::uint32_t u = 0; u < base; ++u) {
    unit_features.items.push_back(u);
    const Counted& c = counted_[u];
    if (c.chars != 0) {
      for_each_ngram(texts_.data() + c.text_begin, c.bytes, c.chars, options_.text.ngrams, field_salt(Salt::ngram, c.field),
                     [&](const char*, std::size_t, std::uint64_t hash) {
                       const auto [id, fresh] = ngrams.insert(hash);
                       if (fresh) feature_hash.push_back(hash);
                       unit_features.items.push_back(base + id);
                     });
    }
    unit_features.end_row();
  }
}

// Calls visit(unit, feature) once for each feature of a unit: an n-gram twice in one word is in it once.
template <class Visit>
void for_each_member(const Csr& unit_features, std::size_t features, Visit&& visit) {
  std::vector<std::uint32_t> seen_in(features, ~0u);
  for (std::uint32_t u = 0; u < unit_features.size(); ++u)
    for (auto i = unit_features.begin[u]; i < unit_features.begin[u + 1]; ++i) {
      const std::uint32_t f = unit_features.items[i];
      if (seen_in[f] != u) seen_in[f] = u, visit(u, f);
    }
}

inline void Corpus::count_features() {
  feature_df_.assign(features(), 0);
  for_each_member(unit_features, features(), [this](std::uint32_t u, std::uint32_t f) { feature_df_[f] += unit_df_[u]; });
}

inline Parts::Parts(const Corpus& corpus, std::vector<std::uint8_t> part_of_row, std::size_t count)
    : corpus_(corpus), part_of_row_(std::move(part_of_row)), count_(count), unit_df_(corpus.units() * count, 0),
      feature_df_(corpus.features() * count, 0) {
  std::vector<std::uint32_t> last(corpus.units(), ~0u);
  for (std::uint32_t row = 0; row < corpus.rows.size(); ++row)
    for (auto i = corpus.rows.begin[row]; i < corpus.rows.begin[row + 1]; ++i) {
      const std::uint32_t u = corpus.rows.items[i];
      if (last[u] != row) last[u] = row, ++unit_df_[u * count_ + part_of_row_[row]];
    }
  for_each_member(corpus.unit_features, corpus.features(), [this](std::uint32_t u, std::uint32_t f) {
    for (std::size_t k = 0; k < count_; ++k) feature_df_[f * count_ + k] += unit_df_[u * count_ + k];
  });
}

inline void Corpus::weigh() {
  const auto n = static_cast<double>(row_count_);
  idf.resize(features());
  for (std::size_t f = 0; f < features(); ++f) {
    const double df = std::min<double>(feature_df_[f], n);
    idf[f] = static_cast<float>(std::log((1.0 + n) / (1.0 + df)) + 1.0);
  }
  values.resize(unit_features.items.size());
  unit_norm2.resize(units());
  for (std::uint32_t u = 0; u < units(); ++u) {
    const auto first = unit_features.begin[u], last = unit_features.begin[u + 1];
    const float own = options_.text.unit_weight(counted_[u].kind);
    const float shared = options_.text.ngram_weight(last - first - 1);
    float sum = 0;
    for (auto i = first; i < last; ++i) {
      values[i] = idf[unit_features.items[i]] * (i == first ? own : shared);
      sum += values[i] * values[i];
    }
    unit_norm2[u] = sum;
  }
}

inline void FeatureRows::normalise(const std::vector<float>& unit_norm2) {
  inv_norm.resize(rows.size());
  squared_norm.resize(rows.size());
  std::vector<float> x(feature_count, 0.0f);
  for (std::size_t row = 0; row < rows.size(); ++row) {
    float norm2 = 0, true_norm2 = 0;
    const auto walk = [&](auto&& visit) {
      for (auto i = rows.begin[row]; i < rows.begin[row + 1]; ++i) {
        const std::uint32_t u = rows.items[i];
        for (auto j = unit_features.begin[u]; j < unit_features.begin[u + 1]; ++j) visit(unit_features.items[j], values[j]);
      }
    };
    for (auto i = rows.begin[row]; i < rows.begin[row + 1]; ++i) norm2 += unit_norm2[rows.items[i]];
    walk([&](std::uint32_t f, float v) { x[f] += v; });
    walk([&](std::uint32_t f, float) { true_norm2 += x[f] * x[f], x[f] = 0; });
    inv_norm[row] = norm2 > 0 ? 1 / std::sqrt(norm2) : 0;
    squared_norm[row] = norm2 > 0 ? true_norm2 / norm2 : 0;
  }
}

}  // namespace dspex
