#include "trainer.hpp"

#include <chrono>
#include <system_error>

namespace dspex {
namespace {

constexpr std::uint8_t no_fold = 255;

std::vector<std::uint32_t> rows_outside(const std::vector<std::uint8_t>& fold_of_row, std::uint8_t fold) {
  std::vector<std::uint32_t> rows;
  for (std::uint32_t i = 0; i < fold_of_row.size(); ++i)
    if (fold_of_row[i] != fold) rows.push_back(i);
  return rows;
}

}  // namespace

Trainer::Trainer(const Corpus& corpus, DenseView dense, std::vector<std::uint8_t> fold_of_row,
                 std::vector<HeadSpec> heads, TrainOptions options)
    : corpus_(corpus), dense_(dense), fold_of_row_(std::move(fold_of_row)), heads_(std::move(heads)),
      options_(options) {
  plan();
}

Trainer::~Trainer() {
  cancel();
  for (std::thread& t : threads_) t.join();
}

void Trainer::plan() {
  fits.resize(heads_.size());
  for (std::size_t h = 0; h < heads_.size(); ++h) {
    const HeadSpec& head = heads_[h];
    HeadFit& fit = fits[h];
    fit.solutions.resize(head.learners.size());
    fit.epochs.resize(head.learners.size());
    fit.held_out.assign(head.learners.size(), std::vector<float>(fold_of_row_.size() * head.columns, 0.0f));
    for (std::size_t m = 0; m < head.learners.size(); ++m)
      for (std::size_t f = 0; f <= options_.folds; ++f) {
        const std::uint8_t fold = f == options_.folds ? no_fold : static_cast<std::uint8_t>(f);
        const auto run = [this, h, m, fold] {
          const HeadSpec& spec = heads_[h];
          const Problem problem{&corpus_, dense_, spec.targets.data(), spec.weights.data(), spec.columns};
          auto solution = std::make_unique<Solution>(problem, padded_columns(spec.columns));
          const Learner& learner = spec.learners[m];
          const SolverOptions so{learner.loss, learner.c, options_.max_epochs,
                                 options_.tolerance, options_.seed * 1000003 + h * 131 + m};
          const std::uint32_t epochs = solve(problem, so, rows_outside(fold_of_row_, fold), *solution, state_);
          if (fold == no_fold) {
            fits[h].epochs[m] = epochs;
            fits[h].solutions[m] = std::move(solution);
          } else {
            score_fold(corpus_, problem, *solution, fold_of_row_, fold, fits[h].held_out[m].data());
          }
        };
        const std::size_t share = fold == no_fold ? options_.folds : options_.folds - 1;
        const std::size_t soft = head.learners[m].loss == Loss::softmax ? 2 : 1;
        tasks_.push_back({padded_columns(head.columns) * share * soft, run});
      }
  }
  // Longest first keeps the threads evenly loaded; equal ones stay in order.
  std::stable_sort(tasks_.begin(), tasks_.end(), [](const Task& a, const Task& b) { return a.cost > b.cost; });
  const double typical_epochs = 15;
  expected_visits_ = typical_epochs * static_cast<double>(tasks_.size() * fold_of_row_.size()) *
                     static_cast<double>(options_.folds) / static_cast<double>(options_.folds + 1);
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
                                  fold_of_row_.size(), heads_[h].columns);
      }
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
