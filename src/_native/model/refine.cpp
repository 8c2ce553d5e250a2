#include "refine.hpp"

#include "scorer.hpp"

namespace dspex {
namespace {

constexpr std::uint32_t max_epochs = 40;
constexpr float tolerance = 0.01f;
constexpr float no_norm = 1e-12f;

}  // namespace

Refiner::Refiner(const ModelView& model, const std::uint64_t* hashes, std::size_t trained_rows)
    : view_(model), fresh_idf_(static_cast<float>(std::log(1.0 + static_cast<double>(trained_rows)) + 1.0)) {
  const std::size_t k = model.columns;
  model_.columns = k;
  model_.hashes.assign(hashes, hashes + model.row_count);
  model_.weights.resize(model.row_count * k);
  for (std::uint32_t row = 0; row < model.row_count; ++row) {
    ids_.insert(hashes[row]);
    model_.norm2.push_back(unpack_row(model, row, 1.0f, &model_.weights[row * k]));
  }
  if (ids_.size() != model.row_count) throw std::invalid_argument("two rows of the model have one hash");
  model_.bias.assign(model.bias, model.bias + k);
  if (model.dense_width > 0) model_.dense.assign(model.dense, model.dense + model.dense_width * k);
}

void Refiner::add_text(std::size_t field, const void* text, std::size_t size, unsigned unit_bytes) {
  for_each_unit(text, size, unit_bytes, field, view_.text, [&](const TextUnit& u) {
    const std::uint32_t known = ids_.find(u.hash);
    rows_.rows.items.push_back(known != HashMap::none ? known : new_unit(u));
  });
}

std::uint32_t Refiner::new_unit(const TextUnit& u) {
  const std::uint32_t id = ids_.insert(u.hash).first;
  const float own = fresh_idf_ * view_.text.unit_weight(u.kind);
  const std::size_t k = model_.columns;
  model_.hashes.push_back(u.hash);
  model_.norm2.push_back(own * own);
  model_.weights.resize(model_.weights.size() + k, 0.0f);
  if (!u.has_ngrams()) return id;
  const float weight = view_.text.ngram_weight(ngram_count(u.chars, view_.text.ngrams));
  std::vector<float> part(k);
  for_each_ngram(u.text, u.bytes, u.chars, view_.text.ngrams, field_salt(Salt::ngram, u.field),
                 [&](const char*, std::size_t, std::uint64_t hash) {
                   const std::uint32_t row = view_.find(hash);
                   if (row == no_row) return;
                   model_.norm2[id] += unpack_row(view_, row, weight, part.data());
                   for (std::size_t c = 0; c < k; ++c) model_.weights[id * k + c] += part[c];
                 });
  return id;
}

FloatModel Refiner::run(const std::vector<RefineHead>& heads, DenseView dense, float c, std::uint64_t seed) {
  for (std::uint32_t u = 0; u < model_.hashes.size(); ++u) {
    rows_.unit_features.items.push_back(u);
    rows_.unit_features.end_row();
    rows_.values.push_back(std::sqrt(model_.norm2[u]));
  }
  rows_.feature_count = model_.hashes.size();
  rows_.normalise(model_.norm2);
  std::vector<std::uint32_t> all(rows_.rows.size());
  std::iota(all.begin(), all.end(), 0u);
  std::size_t first = 0;
  for (const RefineHead& head : heads) {
    const Problem problem{&rows_, dense, head.targets.data(), head.weights.data(), head.columns};
    Solution solution = start(problem, first);
    RunState state;
    solve(problem, {head.loss, c, max_epochs, tolerance, seed}, all, solution, state);
    finish(solution, problem, first);
    first += head.columns;
  }
  return std::move(model_);
}

// The solver's weights of a unit are its row divided by the unit's length, see FeatureRows::values.
Solution Refiner::start(const Problem& problem, std::size_t first_column) const {
  Solution solution(problem, padded_columns(problem.columns));
  const std::size_t k = model_.columns, units = rows_.feature_count, width = view_.dense_width;
  for (std::size_t m = 0; m < problem.columns; ++m) {
    const std::size_t column = first_column + m;
    for (std::size_t u = 0; u < units; ++u)
      if (rows_.values[u] > no_norm) solution.row(u)[m] = model_.weights[u * k + column] / rows_.values[u];
    for (std::size_t d = 0; d < width; ++d) solution.row(units + d)[m] = model_.dense[d * k + column];
    solution.row(units + width)[m] = model_.bias[column];
  }
  return solution;
}

void Refiner::finish(const Solution& solution, const Problem& problem, std::size_t first_column) {
  const std::size_t k = model_.columns, units = rows_.feature_count, width = view_.dense_width;
  for (std::size_t m = 0; m < problem.columns; ++m) {
    const std::size_t column = first_column + m;
    for (std::size_t u = 0; u < units; ++u)
      if (rows_.values[u] > no_norm) model_.weights[u * k + column] = solution.row(u)[m] * rows_.values[u];
    for (std::size_t d = 0; d < width; ++d) model_.dense[d * k + column] = solution.row(units + d)[m];
    model_.bias[column] = solution.row(units + width)[m];
  }
}

}  // namespace dspex
