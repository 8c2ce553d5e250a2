#include "trainer.hpp"

#include <chrono>
#include <system_error>

namespace dspex {
namespace {

// Models without some classes only say how a text of no class looks to such a model: they may stop sooner.
constexpr float novelty_slack = 4;

std::vector<std::uint32_t> rows_outside(const Parts& parts, std::uint8_t part) {
  std::vector<std::uint32_t> rows;
  for (std::uint32_t i = 0; i < parts.of_row().size(); ++i)
    if (parts.of_row()[i] != part) rows.push_back(i);
  return rows;
}

}  // namespace

// The models of one head that have not seen one part. Whoever trains the last of them takes down the evidence.
struct Trainer::Part {
  std::size_t head;
  const Parts* parts;
  std::uint8_t number;
  std::vector<std::vector<float>>* scores;
  std::vector<RowEvidence>* evidence;  // or null
  std::vector<std::unique_ptr<Solution>> solutions;
  std::vector<double> weights;         // of the models in the evidence
  std::atomic<std::size_t> left;
};

Trainer::Trainer(const Corpus& corpus, DenseView dense, std::vector<std::uint8_t> fold_of_row,
                 std::vector<HeadSpec> heads, TrainOptions options)
    : corpus_(corpus), dense_(dense), heads_(std::move(heads)), options_(options),
      folds_(corpus, std::move(fold_of_row), options.folds) {
  plan();
}

Trainer::~Trainer() {
  cancel();
  for (std::thread& t : threads_) t.join();
}

Problem Trainer::problem(std::size_t head) const {
  const HeadSpec& spec = heads_[head];
  return {&corpus_, dense_, spec.targets.data(), spec.weights.data(), spec.columns};
}

std::uint32_t Trainer::train(std::size_t head, std::size_t learner, std::vector<std::uint32_t> rows,
                             Solution& solution, float tolerance) {
  const Learner& l = heads_[head].learners[learner];
  const SolverOptions so{l.loss, l.c, options_.max_epochs, tolerance,
                         options_.seed * 1000003 + head * 131 + learner};
  return solve(problem(head), so, std::move(rows), solution, state_);
}

void Trainer::plan() {
  const std::size_t rows = folds_.of_row().size();
  fits.resize(heads_.size());
  groups_.reserve(heads_.size());
  for (std::size_t h = 0; h < heads_.size(); ++h) {
    const HeadSpec& head = heads_[h];
    HeadFit& fit = fits[h];
    fit.solutions.resize(head.learners.size());
    fit.epochs.resize(head.learners.size());
    for (std::size_t m = 0; m < head.learners.size(); ++m) {
      const std::size_t soft = head.learners[m].loss == Loss::softmax ? 2 : 1;
      // The models on all rows take longest.
      tasks_.push_back({padded_columns(head.columns) * rows * soft, [this, h, m, rows] {
                          std::vector<std::uint32_t> all(rows);
                          std::iota(all.begin(), all.end(), 0u);
                          auto solution = std::make_unique<Solution>(problem(h), padded_columns(heads_[h].columns));
                          fits[h].epochs[m] = train(h, m, std::move(all), *solution, options_.tolerance);
                          fits[h].solutions[m] = std::move(solution);
                        }});
    }
    plan_parts(h, folds_, fit.held_out, options_.evidence ? &fit.evidence : nullptr);
    if (head.groups > 0) {
      groups_.emplace_back(corpus_, head.group_of_row, head.groups);
      plan_parts(h, groups_.back(), fit.novel, &fit.novel_evidence);
    }
  }
  // Longest first keeps the threads evenly loaded; equal ones stay in order.
  std::stable_sort(tasks_.begin(), tasks_.end(), [](const Task& a, const Task& b) { return a.cost > b.cost; });
  const double typical_epochs = 15;
  double visits = 0;
  for (const HeadSpec& head : heads_)
    visits += static_cast<double>(head.learners.size() * rows) *
              static_cast<double>(options_.folds + (head.groups > 0 ? head.groups - 1 : 0));
  expected_visits_ = typical_epochs * visits;
}

void Trainer::plan_parts(std::size_t h, const Parts& parts, std::vector<std::vector<float>>& scores,
                         std::vector<RowEvidence>* evidence) {
  const HeadSpec& head = heads_[h];
  const std::size_t rows = parts.of_row().size(), models = head.learners.size();
  scores.assign(models, std::vector<float>(rows * head.columns, 0.0f));
  if (evidence != nullptr) evidence->resize(rows);
  for (std::size_t f = 0; f < parts.count(); ++f) {
    parts_.push_back(std::make_unique<Part>());
    Part& part = *parts_.back();
    part.head = h, part.parts = &parts, part.number = static_cast<std::uint8_t>(f);
    part.scores = &scores, part.evidence = evidence;
    part.solutions.resize(models);
    part.left.store(models, std::memory_order_relaxed);
    for (std::size_t m = 0; m < models; ++m) {
      // With evidence, a part's models are trained one after the other: they wait for each other, in memory.
      const std::size_t soft = evidence != nullptr ? 1 : head.learners[m].loss == Loss::softmax ? 2 : 1;
      const std::size_t share = rows - rows / parts.count();
      tasks_.push_back({padded_columns(head.columns) * share * soft, [this, &part, m] { train_part(part, m); }});
    }
  }
}

void Trainer::train_part(Part& part, std::size_t learner) {
  auto solution = std::make_unique<Solution>(problem(part.head), padded_columns(heads_[part.head].columns));
  const float tolerance = part.parts == &folds_ ? options_.tolerance : novelty_slack * options_.tolerance;
  train(part.head, learner, rows_outside(*part.parts, part.number), *solution, tolerance);
  score_part(corpus_, problem(part.head), *solution, *part.parts, part.number, (*part.scores)[learner].data());
  if (part.evidence == nullptr) return;
  part.solutions[learner] = std::move(solution);
  // Releases this model to whoever comes last, and acquires the others'.
  if (part.left.fetch_sub(1, std::memory_order_acq_rel) == 1) finish_part(part);
}

void Trainer::finish_part(Part& part) {
  const std::size_t columns = heads_[part.head].columns;
  std::vector<const float*> scores;
  std::vector<const Solution*> solutions;
  std::vector<double> weights;
  for (std::size_t m = 0; m < part.solutions.size(); ++m) {
    scores.push_back((*part.scores)[m].data());
    solutions.push_back(part.solutions[m].get());
    weights.push_back(even_weight(scores[m], columns, *part.parts, part.number));
  }
  part_evidence(corpus_, *part.parts, part.number, heads_[part.head].kind, columns, scores, solutions, weights,
                part.evidence->data());
  part.solutions.clear();
  part.weights = std::move(weights);
}

// The evidence was summed with even weights, before the stack was known: now in the stack's units.
void Trainer::rescale(const Part& part) {
  const Stack& stack = fits[part.head].stack;
  double sum = 0, used = 0;
  for (std::size_t m = 0; m < part.weights.size(); ++m)
    if (part.weights[m] > 0) sum += stack.coefficient[m] / part.weights[m], used += 1;
  const auto scale = static_cast<float>(used > 0 ? sum / used : 0);
  for (std::size_t row = 0; row < part.parts->of_row().size(); ++row) {
    if (part.parts->of_row()[row] != part.number) continue;
    Evidence& e = (*part.evidence)[row].evidence;
    e.positive *= scale, e.largest *= scale, e.squares *= scale * scale;
  }
}

void Trainer::start() {
  left_.store(tasks_.size(), std::memory_order_relaxed);  // before any worker starts: ordered by thread creation
  const std::size_t count = std::max<std::size_t>(1, std::min(options_.threads, tasks_.size()));
  for (std::size_t i = 0; i < count; ++i) {
    try {
      threads_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      if (threads_.empty()) throw;
      return;  // fewer threads do the same work
    }
  }
}

void Trainer::work() noexcept {
  for (;;) {
    const std::size_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= tasks_.size()) return;
    try {
      if (!state_.cancelled.load(std::memory_order_relaxed)) tasks_[i].run();
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!error_) error_ = std::current_exception();
      cancel();
    }
    // Releases this task's results to the worker that finishes last, which acquires them all.
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) finish();
  }
}

void Trainer::finish() noexcept {
  try {
    if (!state_.cancelled.load(std::memory_order_relaxed))
      for (std::size_t h = 0; h < heads_.size(); ++h) {
        std::vector<const float*> scores;
        for (const auto& s : fits[h].held_out) scores.push_back(s.data());
        fits[h].stack = fit_stack(heads_[h].kind, scores, heads_[h].targets.data(), heads_[h].weights.data(),
                                  folds_.of_row().size(), heads_[h].columns);
      }
    if (!state_.cancelled.load(std::memory_order_relaxed))
      for (const auto& part : parts_)
        if (part->evidence != nullptr) rescale(*part);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
  }
  // Notified under the lock: the waiter cannot return and destroy the condition variable before this ends.
  const std::lock_guard lock(mutex_);
  ended_ = true;
  done_.notify_all();
}

bool Trainer::wait_for(double seconds) {
  std::unique_lock lock(mutex_);
  const bool ended = done_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return ended_; });
  if (ended && error_) std::rethrow_exception(error_);
  return ended;
}

double Trainer::progress() const noexcept {
  const double share = static_cast<double>(state_.visited.load(std::memory_order_relaxed)) / expected_visits_;
  return std::min(share, 0.99);
}

}  // namespace dspex
