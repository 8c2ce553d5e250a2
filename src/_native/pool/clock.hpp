// Two clocks: one for deadlines, and a cheaper one for measuring.
#pragma once

#include <sched.h>

#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace dspex {

inline constexpr std::int64_t never = INT64_MAX;

// Nanoseconds of the monotonic clock, which futex timeouts are in as well.
inline std::int64_t now_ns() noexcept {
  using namespace std::chrono;
  return duration_cast<nanoseconds>(steady_clock::now().time_since_epoch()).count();
}

// now_ns in so many nanoseconds, or never.
inline std::int64_t deadline_in(std::int64_t ns) noexcept {
  const std::int64_t now = now_ns();
  return ns >= never - now ? never : now + ns;
}

// A counter of constant rate at less than half the price of now_ns; TickRate says how fast it runs.
inline std::uint64_t ticks() noexcept {
#if defined(__x86_64__)
  return __rdtsc();
#elif defined(__aarch64__)
  std::uint64_t value;
  asm volatile("mrs %0, cntvct_el0" : "=r"(value));
  return value;
#else
  return static_cast<std::uint64_t>(now_ns());
#endif
}

// Compares both clocks from its making on: the longer it lives, the more exact.
class TickRate {
 public:
  double ns_per_tick() const noexcept {
    const double elapsed = static_cast<double>(ticks() - tick_);
    return elapsed > 0 ? static_cast<double>(now_ns() - ns_) / elapsed : 1.0;
  }

 private:
  std::int64_t ns_ = now_ns();
  std::uint64_t tick_ = ticks();
};

// Tells the core that this is a spin loop.
inline void spin_pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

// Lets the core go to whoever wants it: perhaps to the thread that is waited for.
inline void spin_yield() noexcept { sched_yield(); }

}  // namespace dspex
