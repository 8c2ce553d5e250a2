// One worker: looks for work, runs it, tells what became of it, and sleeps when there is none.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "histogram.hpp"
#include "stack.hpp"
#include "strand.hpp"
#include "task.hpp"

namespace dspex {

class Pool;

// What a worker has done; only it writes. `ended` is the sum of the four after it.
struct WorkerCounts {
  std::uint64_t ended = 0, done = 0, failed = 0, cancelled = 0, expired = 0;
  std::uint64_t steals = 0, parks = 0, groups = 0, grouped = 0, busy_ticks = 0;

  WorkerCounts& operator+=(const WorkerCounts& other) noexcept;
};

class Worker {
 public:
  Worker(Pool& pool, std::size_t index) noexcept : pool_(pool), index_(index) {}

  std::size_t index() const noexcept { return index_; }

  // For long tasks, between two parts: runs what waits, so that short ones need not wait for all of it.
  void let_others_run();

 private:
  friend class Pool;
  struct Work {
    Task* task = nullptr;
    Strand* strand = nullptr;  // the one the task is of, or null
  };
  struct Counters {
    std::atomic<std::uint64_t> ended{0}, done{0}, failed{0}, cancelled{0}, expired{0};
    std::atomic<std::uint64_t> steals{0}, parks{0}, groups{0}, grouped{0}, busy_ticks{0};
  };
  class Death;
  static constexpr std::size_t max_group = 256;

  static void* main(void* self);
  void settle() noexcept;             // name, core, timers of the thread
  void work();

  bool find(Work& work) noexcept;
  bool find_task(Work& work) noexcept;
  bool find_strand(Work& work) noexcept;
  bool spin_for(Work& work) noexcept;
  bool wait_for(Work& work) noexcept;  // false: it is time to leave
  void found_while_searching() noexcept;

  void execute(Work work);
  void execute_group(Task* first);
  std::size_t collect(Task* first) noexcept;
  bool may_begin(Task* task) noexcept;
  Phase run(Task* task);
  void end(Task* task, Phase phase) noexcept;
  void end_strand(Strand* strand) noexcept;
  void bury() noexcept;               // ends what the dying thread leaves behind
  void give_back_strands() noexcept;  // from ready_ to pinned_
  WorkerCounts counts() const noexcept;
  void count(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) noexcept {
    // Release, with the acquire in Pool::ended: a drained pool has done all that it was given.
    counter.store(counter.load(std::memory_order_relaxed) + by, std::memory_order_release);
  }

  Pool& pool_;
  const std::size_t index_;
  pthread_t thread_{};
  bool joinable_ = false;                 // with Pool::crew_ held

  std::atomic<bool> active_{false};       // takes strands
  std::atomic<bool> leaving_{false};      // is asked to go
  TakeAllStack<Strand, &Strand::next> pinned_;
  Strand* ready_ = nullptr;               // taken from pinned_, oldest first
  bool strands_first_ = false;

  // What would be lost if the thread died now.
  Work current_, interrupted_;
  Task* group_[max_group];
  std::size_t grouped_ = 0;
  Task* alone_ = nullptr;                 // to be run after the group

  // Running means: nanoseconds between submissions, and how many calls came along with one.
  double gap_ns_ = 0, company_ = 0;
  std::uint32_t groups_ = 0;
  std::uint64_t last_pushed_ = 0;
  std::int64_t last_group_ = 0;

  Counters counters_;
  Histogram wait_, service_;              // ticks
};

}  // namespace dspex
