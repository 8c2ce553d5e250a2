// Where finished tasks wait for a Python thread or an event loop to pick them up, many with one wake-up.
#pragma once

#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "stack.hpp"
#include "task.hpp"

namespace dspex {

// Holds one reference to each task in it. Itself referenced by its owner and by every task that will be posted.
class Mailbox {
 public:
  // `fd`: an eventfd or the writing end of a pipe, not blocking; owned by the mailbox from here on.
  explicit Mailbox(int fd) noexcept : fd_(fd) {}

  void retain() noexcept { refs_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    // Release, with the acquire of the last: whatever was done with it is done.
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }

  // Takes over the caller's reference to the task. Writes to the descriptor only when the box was empty: whoever
  // empties it looks again after each wake-up.
  void post(Task* task) noexcept {
    if (!letters_.push(task)) return;
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = ::write(fd_, &one, sizeof one);  // full means: a wake-up is due anyway
  }

  // Whether nobody but its owner knows it: no task will be posted any more.
  bool alone() const noexcept { return refs_.load(std::memory_order_acquire) == 1; }

  // Finished tasks, oldest first, linked by `next`; their references go to the caller.
  Task* take_all() noexcept { return letters_.take_all(); }

 private:
  ~Mailbox() { ::close(fd_); }

  TakeAllStack<Task, &Task::next_letter> letters_;
  std::atomic<std::uint32_t> refs_{1};
  const int fd_;
};

}  // namespace dspex
