// Tasks for the tests: made from functions, counted, and held by whoever has to look at them afterwards.
#pragma once

#include <atomic>
#include <functional>
#include <utility>

#include "check.hpp"
#include "pool/pool.hpp"

namespace check {

using dspex::Accept;
using dspex::Phase;
using dspex::Pool;
using dspex::PoolOptions;
using dspex::Task;
using dspex::Worker;

// How many there are: 0 once everybody has dropped theirs, and never freed twice.
class TestTask : public Task {
 public:
  using Work = std::function<void(Worker&)>;

  explicit TestTask(Work work = {}, bool batchable = false) : work_(std::move(work)), batchable_(batchable) {
    alive.fetch_add(1, std::memory_order_relaxed);
  }

  void run(Worker& worker) override {
    CHECK_EQ(runs.fetch_add(1, std::memory_order_relaxed), 0);
    CHECK_EQ(phase(), Phase::running);
    if (work_) work_(worker);
  }
  bool batchable() const noexcept override { return batchable_; }

  std::atomic<int> runs{0};
  static inline std::atomic<long> alive{0};

 private:
  ~TestTask() override { CHECK(alive.fetch_sub(1, std::memory_order_relaxed) > 0); }

  const Work work_;
  const bool batchable_;
};

// One reference to a task.
class Held {
 public:
  explicit Held(TestTask::Work work = {}, bool batchable = false) : task_(new TestTask(std::move(work), batchable)) {}
  Held(Held&& other) noexcept : task_(std::exchange(other.task_, nullptr)) {}
  Held& operator=(Held&& other) noexcept {
    std::swap(task_, other.task_);
    return *this;
  }
  ~Held() {
    if (task_ != nullptr) task_->release();
  }

  TestTask* operator->() const noexcept { return task_; }
  TestTask* get() const noexcept { return task_; }

  // Another reference, for whoever takes it over.
  TestTask* share() const noexcept {
    task_->retain();
    return task_;
  }

 private:
  TestTask* task_;
};

// Submits by `submit(task)`, which takes over a reference when it says yes.
template <class Submit>
Accept give(const Held& task, Submit&& submit) {
  const Accept accept = submit(task.share());
  if (accept != Accept::yes) task->release();
  return accept;
}

inline Accept submit(Pool& pool, const Held& task) {
  return give(task, [&pool](Task* given) { return pool.submit(given); });
}

inline void must_submit(Pool& pool, const Held& task) {
  CHECK_EQ(give(task, [&pool](Task* given) { return pool.submit_within(given, patience()); }), Accept::yes);
}

inline void must_end(const Held& task) { CHECK(task->wait(patience(), 0)); }

// Whoever passes waits until it is opened.
class Gate {
 public:
  void open() noexcept { open_.store(true, std::memory_order_release); }
  void pass() noexcept {
    passing_.fetch_add(1, std::memory_order_relaxed);
    CHECK(comes_true([this] { return open_.load(std::memory_order_acquire); }));
  }
  bool somebody_waits() const noexcept { return passing_.load(std::memory_order_relaxed) > 0; }

 private:
  std::atomic<bool> open_{false};
  std::atomic<int> passing_{0};
};

// A task that keeps a worker busy until the gate is opened; returns once it runs.
inline Held block(Pool& pool, Gate& gate) {
  Held task([&gate](Worker&) { gate.pass(); });
  must_submit(pool, task);
  CHECK(comes_true([&] { return task->phase() == Phase::running; }));
  return task;
}

inline void check_all_freed() {
  CHECK(comes_true([] { return TestTask::alive.load(std::memory_order_relaxed) == 0; }));
}

inline PoolOptions options_of(std::size_t size, std::size_t capacity = 1024) {
  PoolOptions options;
  options.size = options.max_size = size;
  options.capacity = capacity;
  return options;
}

}  // namespace check
