// Trains every head of a program: its models on all rows and on all but each fold, in parallel, then
// their stack. For a gate, also on all but each group of classes: their rows are then as new to the models as a text
// of no class. Each solver run is sequential and seeded, so the result does not depend on the threads.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "corpus.hpp"
#include "evidence.hpp"
#include "solver.hpp"
#include "stack.hpp"

namespace dspex {

struct Learner {
  Loss loss;
  float c;
};

struct HeadSpec {
  HeadKind kind;
  std::size_t columns;
  std::vector<float> targets;  // [rows, columns]
  std::vector<float> weights;  // [rows]
  std::vector<Learner> learners;
  std::vector<std::uint8_t> group_of_row;  // [rows], or empty: a group of classes, for novel rows
  std::size_t groups = 0;
};

struct HeadFit {
  std::vector<std::unique_ptr<Solution>> solutions;  // one a learner, on all rows
  std::vector<std::vector<float>> held_out;          // one a learner: [rows, columns]
  std::vector<RowEvidence> evidence;                 // [rows], of models that have not seen the row; if wanted
  std::vector<std::vector<float>> novel;             // as held_out, of models that have not seen the row's class
  std::vector<RowEvidence> novel_evidence;
  std::vector<std::uint32_t> epochs;
  Stack stack;
};

struct TrainOptions {
  std::size_t folds = 3;
  std::size_t threads = 1;
  std::uint64_t seed = 0;
  std::uint32_t max_epochs = 60;
  float tolerance = 0.01f;
  bool evidence = false;  // whether what a gate looks at is taken down
};

class Trainer {
 public:
  Trainer(const Corpus& corpus, DenseView dense, std::vector<std::uint8_t> fold_of_row, std::vector<HeadSpec> heads,
          TrainOptions options);
  ~Trainer();  // cancels and joins
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  void start();
  bool wait_for(double seconds);  // whether it has ended; rethrows a worker's error
  void cancel() noexcept { state_.cancelled.store(true, std::memory_order_relaxed); }
  double progress() const noexcept;  // an estimate in [0, 1]

  std::vector<HeadFit> fits;

 private:
  struct Part;
  void plan();
  void plan_parts(std::size_t head, const Parts& parts, std::vector<std::vector<float>>& scores,
                  std::vector<RowEvidence>* evidence);
  void train_part(Part& part, std::size_t learner);
  void finish_part(Part& part);
  std::uint32_t train(std::size_t head, std::size_t learner, std::vector<std::uint32_t> rows, Solution& solution,
                      float tolerance);
  Problem problem(std::size_t head) const;
  void rescale(const Part& part);
  void work() noexcept;
  void finish() noexcept;

  const Corpus& corpus_;
  DenseView dense_;
  std::vector<HeadSpec> heads_;
  TrainOptions options_;
  Parts folds_;
  std::vector<Parts> groups_;
  std::vector<std::unique_ptr<Part>> parts_;
  RunState state_;
  double expected_visits_ = 1;
  struct Task {
    std::size_t cost;
    std::function<void()> run;
  };
  std::vector<Task> tasks_;
  std::atomic<std::size_t> next_{0}, left_{0};
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable done_;
  bool ended_ = false;
  std::exception_ptr error_;
};

}  // namespace dspex
