// Sleeping on a word until somebody changes it and says so.
#pragma once

#include <atomic>
#include <cstdint>

#include "clock.hpp"

#if defined(__linux__) && !defined(DSPEX_NO_FUTEX)
#include <cerrno>
#include <ctime>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <array>
#include <condition_variable>
#include <mutex>
#endif

namespace dspex {

using Word = std::atomic<std::uint32_t>;
static_assert(sizeof(Word) == 4 && Word::is_always_lock_free);

#if defined(__linux__) && !defined(DSPEX_NO_FUTEX)

// Sleeps while the word holds `expected`; may return early. False: the deadline (now_ns) has passed.
inline bool futex_wait(Word& word, std::uint32_t expected, std::int64_t deadline) noexcept {
  timespec at{};
  if (deadline != never && deadline > 0) {  // before the clock began is 0: long past
    at.tv_sec = static_cast<std::time_t>(deadline / 1'000'000'000);
    at.tv_nsec = static_cast<long>(deadline % 1'000'000'000);
  }
  const long outcome = syscall(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, expected,
                               deadline == never ? nullptr : &at, nullptr, FUTEX_BITSET_MATCH_ANY);
  return !(outcome == -1 && errno == ETIMEDOUT);
}

inline void futex_wake(Word& word, int count) noexcept {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

#else

// Elsewhere: a small table of condition variables, picked by the word's address. Only those who sleep, and
// those who wake a sleeper, come here.
namespace detail {
struct Bed {
  std::mutex mutex;
  std::condition_variable changed;
};
inline Bed& bed_of(const void* word) noexcept {
  static std::array<Bed, 64> beds;
  return beds[(reinterpret_cast<std::uintptr_t>(word) >> 6) % beds.size()];
}
}  // namespace detail

inline bool futex_wait(Word& word, std::uint32_t expected, std::int64_t deadline) noexcept {
  detail::Bed& bed = detail::bed_of(&word);
  std::unique_lock lock(bed.mutex);
  if (word.load(std::memory_order_seq_cst) != expected) return true;
  if (deadline == never) {
    bed.changed.wait(lock);
    return true;
  }
  const std::chrono::steady_clock::time_point at{std::chrono::nanoseconds(deadline)};
  return bed.changed.wait_until(lock, at) != std::cv_status::timeout;
}

inline void futex_wake(Word& word, int) noexcept {
  detail::Bed& bed = detail::bed_of(&word);
  { std::lock_guard lock(bed.mutex); }  // whoever saw the old value sleeps by now
  bed.changed.notify_all();             // beds are shared: wake all of them, each looks at its own word
}

#endif

}  // namespace dspex
