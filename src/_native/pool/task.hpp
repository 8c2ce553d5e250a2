// One piece of work and what became of it.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>

#include "clock.hpp"
#include "futex.hpp"

namespace dspex {

class Mailbox;
class Worker;

// waiting -> running -> done | failed | lost, or waiting -> cancelled | expired. Lost: the worker died under it.
enum class Phase : std::uint32_t { waiting, running, done, failed, lost, cancelled, expired };

constexpr bool is_final(Phase phase) noexcept { return phase >= Phase::done; }

class Task {
 public:
  Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;

  // The work. Called once, on a worker; what it throws makes the task `failed`.
  virtual void run(Worker& worker) = 0;
  // Whether calls like it gain from being run together with it (see PoolOptions::window_ns).
  virtual bool batchable() const noexcept { return false; }

  void retain() noexcept { state_.fetch_add(one_ref, std::memory_order_relaxed); }
  void release() noexcept {
    // Release, with the acquire of whoever is last: all that was done with the task is done.
    if (state_.fetch_sub(one_ref, std::memory_order_acq_rel) < 2 * one_ref) delete this;
  }

  Phase phase() const noexcept { return phase_of(state_.load(std::memory_order_acquire)); }
  bool finished() const noexcept { return is_final(phase()); }

  // waiting -> running; false if it was cancelled meanwhile.
  bool begin() noexcept;
  // waiting -> phase, and tells whoever waits; false if it runs or has ended.
  bool finish_waiting(Phase phase) noexcept;
  bool cancel() noexcept { return finish_waiting(Phase::cancelled); }
  // running -> phase, tells whoever waits, and gives up the caller's reference.
  void finish_and_release(Phase phase) noexcept;

  // Until it has ended or the deadline (now_ns) has passed; spins first. Whether it has ended.
  bool wait(std::int64_t deadline, std::int64_t spin_ns) noexcept;
  // Looks so many times; after the first few with pauses, which take as long as a hand-over.
  bool spin(unsigned looks) const noexcept;
  static constexpr unsigned close_looks = 100;

  // Asks for the finished task to be posted there, with a reference of its own; once a task, false if it has
  // ended already. Takes a reference to the mailbox.
  bool listen(Mailbox* mailbox) noexcept;

  std::int64_t deadline = never;          // now_ns; work that comes later than this is not begun
  std::uint64_t submitted = 0;            // ticks, or 0 when it is not measured
  std::exception_ptr error;               // what `run` threw
  Task* next = nullptr;                   // in a strand
  Task* next_letter = nullptr;            // in a mailbox, perhaps while the strand still has it
  void* owner = nullptr;                  // by which the mailbox's reader knows it

 protected:
  virtual ~Task() = default;

 private:
  // One word, so that ending a task and giving it up is one step: phase, flags, and references above.
  static constexpr std::uint32_t phase_mask = 7, sleepers = 8, listener = 16, one_ref = 32;
  static Phase phase_of(std::uint32_t state) noexcept { return static_cast<Phase>(state & phase_mask); }
  static std::uint32_t with_phase(std::uint32_t state, Phase phase) noexcept {
    return (state & ~phase_mask) | static_cast<std::uint32_t>(phase);
  }
  void tell(std::uint32_t flags) noexcept;

  Word state_{one_ref};
  Mailbox* mailbox_ = nullptr;            // written before `listener` is set, read after
};

}  // namespace dspex
