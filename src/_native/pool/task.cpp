#include "task.hpp"

#include <climits>

#include "mailbox.hpp"

namespace dspex {

bool Task::begin() noexcept {
  std::uint32_t state = state_.load(std::memory_order_relaxed);
  while (phase_of(state) == Phase::waiting)
    if (state_.compare_exchange_weak(state, with_phase(state, Phase::running), std::memory_order_acq_rel,
                                     std::memory_order_relaxed))
      return true;
  return false;
}

bool Task::finish_waiting(Phase phase) noexcept {
  std::uint32_t state = state_.load(std::memory_order_relaxed);
  do {
    if (phase_of(state) != Phase::waiting) return false;
    // Release, with the acquire in `phase`; acquire, with the release of `listener` in `listen`.
  } while (!state_.compare_exchange_weak(state, with_phase(state, phase), std::memory_order_acq_rel,
                                         std::memory_order_relaxed));
  tell(state);
  return true;
}

void Task::finish_and_release(Phase phase) noexcept {
  std::uint32_t state = state_.load(std::memory_order_relaxed);
  for (;;) {
    const bool watched = (state & (sleepers | listener)) != 0, last = state < 2 * one_ref;
    const std::uint32_t next = with_phase(state, phase) - (watched ? 0 : one_ref);
    // Release, with the acquire in `phase`: the results are there. Acquire, as in finish_waiting.
    if (!state_.compare_exchange_weak(state, next, std::memory_order_acq_rel, std::memory_order_relaxed)) continue;
    if (watched) {
      tell(state);
      release();
    } else if (last) {
      delete this;
    }
    return;
  }
}

// The caller's reference keeps the task alive past the wake-up, although those woken may drop theirs at once.
void Task::tell(std::uint32_t flags) noexcept {
  if (flags & sleepers) futex_wake(state_, INT_MAX);
  if (flags & listener) {
    Mailbox* mailbox = mailbox_;
    retain();
    mailbox->post(this);
    mailbox->release();
  }
}

bool Task::listen(Mailbox* mailbox) noexcept {
  mailbox_ = mailbox;
  mailbox->retain();
  std::uint32_t state = state_.load(std::memory_order_relaxed);
  while (!is_final(phase_of(state)))
    // Release, with the acquire in finish: mailbox_ is there.
    if (state_.compare_exchange_weak(state, state | listener, std::memory_order_acq_rel, std::memory_order_relaxed))
      return true;
  mailbox->release();
  return false;
}

bool Task::spin(unsigned looks) const noexcept {
  for (unsigned look = 0; look < looks; ++look) {
    if (finished()) return true;
    if (look >= close_looks) spin_pause();
  }
  return finished();
}

bool Task::wait(std::int64_t deadline, std::int64_t spin_ns) noexcept {
  if (finished()) return true;
  if (spin_ns > 0) {
    if (spin(2 * close_looks)) return true;  // before the clock is looked at, which takes as long as a short task
    const std::int64_t until = deadline_in(spin_ns);
    do {
      for (int i = 0; i < 16 && !finished(); ++i) spin_pause();
      spin_yield();
    } while (!finished() && now_ns() < until);
  }
  for (;;) {
    std::uint32_t state = state_.load(std::memory_order_acquire);
    if (is_final(phase_of(state))) return true;
    if (!(state & sleepers)) {
      if (!state_.compare_exchange_weak(state, state | sleepers, std::memory_order_acq_rel, std::memory_order_relaxed))
        continue;
      state |= sleepers;
    }
    // A change after this look makes the sleep return at once.
    if (!futex_wait(state_, state, deadline) && !finished()) return false;
  }
}

}  // namespace dspex
