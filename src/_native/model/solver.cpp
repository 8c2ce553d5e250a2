#include "solver.hpp"

#include "../clones.hpp"

namespace dspex {
namespace {

DSPEX_CLONES std::uint32_t solve_1(const Problem& p, const SolverOptions& o, std::vector<std::uint32_t> rows,
                                   Solution& w, RunState& s) {
  return DualSolver<1>(p, o, w).run(std::move(rows), s);
}

DSPEX_CLONES std::uint32_t solve_4(const Problem& p, const SolverOptions& o, std::vector<std::uint32_t> rows,
                                   Solution& w, RunState& s) {
  return DualSolver<4>(p, o, w).run(std::move(rows), s);
}

DSPEX_CLONES std::uint32_t solve_8(const Problem& p, const SolverOptions& o, std::vector<std::uint32_t> rows,
                                   Solution& w, RunState& s) {
  return DualSolver<8>(p, o, w).run(std::move(rows), s);
}

DSPEX_CLONES std::uint32_t solve_many(const Problem& p, const SolverOptions& o, std::vector<std::uint32_t> rows,
                                      Solution& w, RunState& s) {
  return DualSolver<0>(p, o, w).run(std::move(rows), s);
}

}  // namespace

std::uint32_t solve(const Problem& problem, const SolverOptions& options, std::vector<std::uint32_t> rows,
                    Solution& solution, RunState& state) {
  switch (solution.padded()) {
    case 1: return solve_1(problem, options, std::move(rows), solution, state);
    case 4: return solve_4(problem, options, std::move(rows), solution, state);
    case 8: return solve_8(problem, options, std::move(rows), solution, state);
    default: return solve_many(problem, options, std::move(rows), solution, state);
  }
}

void score_part(const Corpus& corpus, const Problem& problem, const Solution& solution, const Parts& parts,
                std::uint8_t part, float* out) {
  const Corpus& c = corpus;
  const std::size_t k = problem.columns;
  std::vector<float> sum(k);
  for (std::uint32_t row = 0; row < c.rows.size(); ++row) {
    if (parts.of_row()[row] != part) continue;
    std::fill(sum.begin(), sum.end(), 0.0f);
    float norm2 = 0;
    for (auto i = c.rows.begin[row]; i < c.rows.begin[row + 1]; ++i) {
      const std::uint32_t unit = c.rows.items[i];
      const bool known = parts.unit_seen(unit, part);
      const auto first = c.unit_features.begin[unit], last = c.unit_features.begin[unit + 1];
      for (auto j = known ? first : first + 1; j < last; ++j) {
        const std::uint32_t f = c.unit_features.items[j];
        if (!known && !parts.feature_seen(f, part)) continue;
        const float* w = solution.row(f);
        for (std::size_t m = 0; m < k; ++m) sum[m] += c.values[j] * w[m];
        norm2 += c.values[j] * c.values[j];
      }
    }
    const float inv = norm2 > 0 ? 1 / std::sqrt(norm2) : 0;
    const float* x = problem.dense.values + row * problem.dense.width;
    for (std::size_t m = 0; m < k; ++m) {
      float s = sum[m] * inv;
      for (std::size_t d = 0; d < problem.dense.width; ++d) s += x[d] * solution.row(c.features() + d)[m];
      out[row * k + m] = s;
    }
  }
}

}  // namespace dspex
