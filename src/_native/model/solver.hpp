// Dual coordinate descent for linear models, all columns of a head at once.
//
// Minimises 1/2 |W|^2 + C sum_i weight_i loss(W x_i, target_i), one example at a time, by exact
// (hinge, squared) or bounded-Newton (logistic, softmax) steps in the dual: Hsieh et al., 2008, for the
// squared hinge; Yu, Huang and Lin, 2011, for maximum entropy, with Boehning's curvature bound (1992).
// One example's columns share every feature row, so a visit reads and writes whole cache lines.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "corpus.hpp"
#include "math.hpp"

namespace dspex {

enum class Loss : std::uint8_t { hinge, squared, logistic, softmax };

// Rows of numeric features beside the text; the last of them is the constant 1 of the bias.
struct DenseView {
  const float* values = nullptr;  // [rows, width]
  std::size_t width = 0;
};

struct Problem {
  const FeatureRows* corpus;
  DenseView dense;
  const float* targets;      // [rows, columns] : class probabilities in [0, 1], or standardised numbers
  const float* weights;      // [rows] : >= 0, 0 leaves a row out
  std::size_t columns;
};

struct SolverOptions {
  Loss loss = Loss::hinge;
  float c = 1.0f;
  std::uint32_t max_epochs = 60;
  float tolerance = 0.01f;   // stop when an epoch moves the dual by less than this share of its size
  std::uint64_t seed = 0;
};

// What a run shares with its caller: rows visited so far, and the wish to stop.
struct RunState {
  std::atomic<std::uint64_t> visited{0};
  std::atomic<bool> cancelled{false};
};

constexpr std::size_t padded_columns(std::size_t columns) noexcept {
  return columns <= 1 ? 1 : columns <= 4 ? 4 : columns <= 8 ? 8 : (columns + 15) / 16 * 16;
}

// W: [features + dense width, padded_columns], features first.
class Solution {
 public:
  Solution(const Problem& p, std::size_t padded)
      : padded_(padded), weights_((p.corpus->feature_count + p.dense.width) * padded, 0.0f) {}
  float* row(std::size_t feature) noexcept { return weights_.data() + feature * padded_; }
  const float* row(std::size_t feature) const noexcept { return weights_.data() + feature * padded_; }
  std::size_t padded() const noexcept { return padded_; }

 private:
  std::size_t padded_;
  std::vector<float> weights_;
};

// Fixed is the number of columns when it is small, else 0.
template <std::size_t Fixed>
class DualSolver {
 public:
  DualSolver(const Problem& problem, const SolverOptions& options, Solution& solution)
      : p_(problem), o_(options), w_(solution), k_(Fixed != 0 ? Fixed : solution.padded()),
        alpha_(problem.corpus->rows.size() * k_, 0.0f),
        score_(std::max<std::size_t>(k_, 16)), step_(score_.size()), prob_(score_.size()) {}

  // rows: the ones to train on. Returns the number of epochs taken.
  std::uint32_t run(std::vector<std::uint32_t> rows, RunState& state) {
    Random random(o_.seed);
    std::uint32_t epoch = 0;
    while (epoch < o_.max_epochs && !state.cancelled.load(std::memory_order_relaxed)) {
      shuffle(rows, random);
      double moved = 0, size = 0;
      std::uint32_t since = 0;
      for (const std::uint32_t row : rows) {
        if (p_.weights[row] > 0) visit(row, moved, size);
        if (++since == 256) {
          state.visited.fetch_add(since, std::memory_order_relaxed), since = 0;
          if (state.cancelled.load(std::memory_order_relaxed)) return epoch;
        }
      }
      state.visited.fetch_add(since, std::memory_order_relaxed);
      ++epoch;
      if (moved <= o_.tolerance * size) break;
    }
    return epoch;
  }

 private:
  std::size_t columns() const noexcept { return Fixed != 0 ? Fixed : k_; }

  // The row's features in one list, so that both passes can fetch rows of weights ahead of their use.
  void gather(std::uint32_t row) {
    const FeatureRows& c = *p_.corpus;
    feature_.clear(), value_.clear();
    for (auto i = c.rows.begin[row]; i < c.rows.begin[row + 1]; ++i) {
      const std::uint32_t unit = c.rows.items[i];
      const auto first = c.unit_features.begin[unit], last = c.unit_features.begin[unit + 1];
      feature_.insert(feature_.end(), c.unit_features.items.data() + first, c.unit_features.items.data() + last);
      value_.insert(value_.end(), c.values.data() + first, c.values.data() + last);
    }
  }

  template <class Visit>
  void for_each_feature(Visit&& visit) {
    constexpr std::size_t ahead = 6;
    const std::size_t n = feature_.size();
    for (std::size_t j = 0; j < n; ++j) {
      const float* next = w_.row(feature_[std::min(j + ahead, n - 1)]);
      for (std::size_t c = 0; c < columns(); c += 16) __builtin_prefetch(next + c, 1);
      visit(w_.row(feature_[j]), value_[j]);
    }
  }

  void compute_scores(std::uint32_t row) {
    const std::size_t k = columns();
    float* __restrict s = score_.data();
    std::fill_n(s, k, 0.0f);
    for_each_feature([&](const float* w, float v) {
      for (std::size_t c = 0; c < k; ++c) s[c] += v * w[c];
    });
    const float inv = p_.corpus->inv_norm[row];
    for (std::size_t c = 0; c < k; ++c) s[c] *= inv;
    const float* x = p_.dense.values + row * p_.dense.width;
    for (std::size_t d = 0; d < p_.dense.width; ++d) {
      const float* w = w_.row(p_.corpus->feature_count + d);
      for (std::size_t c = 0; c < k; ++c) s[c] += x[d] * w[c];
    }
  }

  void apply_step(std::uint32_t row) {
    const std::size_t k = columns();
    float* __restrict d = step_.data();
    const float* x = p_.dense.values + row * p_.dense.width;
    for (std::size_t j = 0; j < p_.dense.width; ++j) {
      float* w = w_.row(p_.corpus->feature_count + j);
      for (std::size_t c = 0; c < k; ++c) w[c] += x[j] * d[c];
    }
    const float inv = p_.corpus->inv_norm[row];
    for (std::size_t c = 0; c < k; ++c) d[c] *= inv;
    for_each_feature([&](float* w, float v) {
      for (std::size_t c = 0; c < k; ++c) w[c] += v * d[c];
    });
  }

  float squared_length(std::uint32_t row) const {
    const float* x = p_.dense.values + row * p_.dense.width;
    float q = p_.corpus->squared_norm[row];
    for (std::size_t d = 0; d < p_.dense.width; ++d) q += x[d] * x[d];
    return q;
  }

  void visit(std::uint32_t row, double& moved, double& size) {
    gather(row);
    compute_scores(row);
    float* a = alpha_.data() + row * columns();
    const float* t = p_.targets + row * p_.columns;
    const float q = squared_length(row), cost = o_.c * p_.weights[row];
    const std::size_t k = p_.columns;
    switch (o_.loss) {
      case Loss::hinge: hinge_step(a, t, q, 1 / (2 * cost), k); break;
      case Loss::squared: squared_step(a, t, q, 1 / (2 * cost), k); break;
      case Loss::logistic: entropy_step(a, t, q, cost, k, false); break;
      case Loss::softmax: entropy_step(a, t, q, cost, k, true); break;
    }
    float change = 0, total = 0;
    for (std::size_t c = 0; c < k; ++c) {
      a[c] += step_[c];
      change += std::fabs(step_[c]), total += std::fabs(a[c]);
    }
    moved += change, size += total;
    if (change > 1e-6f * cost) apply_step(row);
  }

  // Targets of 0 and 1 are the two sides of a squared hinge; a share between them is met squarely.
  void hinge_step(const float* a, const float* t, float q, float slack, std::size_t k) {
    const float inv = 1 / (q + slack);
    for (std::size_t c = 0; c < k; ++c) {
      const float y = 2 * t[c] - 1, next = a[c] + (y - score_[c] - slack * a[c]) * inv;
      const bool clamp = (t[c] == 0 || t[c] == 1) && next * y < 0;
      step_[c] = (clamp ? 0 : next) - a[c];
    }
  }

  void squared_step(const float* a, const float* t, float q, float slack, std::size_t k) {
    const float inv = 1 / (q + slack);
    for (std::size_t c = 0; c < k; ++c) step_[c] = (t[c] - score_[c] - slack * a[c]) * inv;
  }

  // Solves a = cost * (target - probability) by Newton steps with the curvature's upper bound.
  void entropy_step(const float* a, const float* t, float q, float cost, std::size_t k, bool soft) {
    const float damp = 1 / (1 + cost * q * (soft ? 0.5f : 0.25f));
    std::fill_n(step_.data(), k, 0.0f);
    for (int round = 0; round < 3; ++round) {
      for (std::size_t c = 0; c < k; ++c) prob_[c] = score_[c] + q * step_[c];
      if (soft) {
        softmax(prob_.data(), prob_.data(), k);
      } else {
        for (std::size_t c = 0; c < k; ++c) prob_[c] = sigmoid(prob_[c]);
      }
      for (std::size_t c = 0; c < k; ++c) step_[c] += (cost * (t[c] - prob_[c]) - a[c] - step_[c]) * damp;
    }
  }

  const Problem& p_;
  SolverOptions o_;
  Solution& w_;
  std::size_t k_;
  std::vector<float> alpha_, score_, step_, prob_, value_;
  std::vector<std::uint32_t> feature_;
};

// Runs one solver and returns its epochs. The dispatch on instruction sets is here, once per run.
std::uint32_t solve(const Problem& problem, const SolverOptions& options, std::vector<std::uint32_t> rows,
                    Solution& solution, RunState& state);

// Scores of a part's rows by a model that never saw them: what only occurs there counts as unseen.
// out: [rows, columns], only the part's rows are written.
void score_part(const Corpus& corpus, const Problem& problem, const Solution& solution, const Parts& parts,
                std::uint8_t part, float* out);

}  // namespace dspex
