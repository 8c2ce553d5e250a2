// The calls of one session: one after the other, in order, on one worker.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "stack.hpp"
#include "task.hpp"

namespace dspex {

// Whoever raises `pending` from 0 hands the strand to its worker; the worker keeps it until `pending` is 0 again.
// So at most one worker has it, whichever that is: order does not depend on where it runs.
class Strand {
 public:
  explicit Strand(std::size_t worker) noexcept : worker_(worker) {}

  void retain() noexcept { refs_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;  // as in Task::release
  }

  enum class Push { full, first, queued };

  // Takes over a reference to the task unless full. first: the caller has to schedule the strand.
  Push push(Task* task, std::size_t capacity) noexcept {
    std::size_t taken_up = reserved_.load(std::memory_order_relaxed);
    do {
      if (taken_up >= capacity) return Push::full;
    } while (!reserved_.compare_exchange_weak(taken_up, taken_up + 1, std::memory_order_seq_cst));
    pushed_.push(task);
    // After the push: whoever sees the count finds the task. Release, with the acquire in done_one.
    return pending_.fetch_add(1, std::memory_order_acq_rel) == 0 ? Push::first : Push::queued;
  }

  // The next task, its reference with it; only while there are some, and for the worker that has the strand.
  Task* take() noexcept {
    if (taken_ == nullptr) taken_ = pushed_.take_all();
    Task* task = taken_;
    taken_ = task->next;
    return task;
  }

  // After a task from `take`: whether there are more, and so the worker keeps the strand.
  bool done_one() noexcept {
    reserved_.fetch_sub(1, std::memory_order_seq_cst);
    return pending_.fetch_sub(1, std::memory_order_acq_rel) != 1;
  }

  std::size_t pending() const noexcept { return pending_.load(std::memory_order_relaxed); }

  // Where it is to run; another one once that worker is gone.
  std::size_t worker() const noexcept { return worker_.load(std::memory_order_relaxed); }
  void move_to(std::size_t worker) noexcept { worker_.store(worker, std::memory_order_relaxed); }

  Strand* next = nullptr;  // in a worker's list

 private:
  ~Strand() = default;

  TakeAllStack<Task, &Task::next> pushed_;
  Task* taken_ = nullptr;  // oldest first; of the worker that has the strand
  std::atomic<std::size_t> reserved_{0};  // tasks that were let in
  std::atomic<std::size_t> pending_{0};   // tasks that are in
  std::atomic<std::size_t> worker_;
  std::atomic<std::uint32_t> refs_{1};
};

}  // namespace dspex
