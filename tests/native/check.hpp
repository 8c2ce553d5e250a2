// What the test programs share: a check, a list of tests, and things that make schedules differ.
//
// A program runs the tests it is given by name, or all of them. A failed check ends it at once: the threads of a
// test that has failed cannot be told to stop. DSPEX_STRESS multiplies the counts, DSPEX_SEED changes the stalls.
#pragma once

#include <sched.h>
#include <time.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "pool/clock.hpp"

namespace check {

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
  std::cerr << file << ':' << line << ": " << what << std::endl;
  std::_Exit(1);
}

// Operands are shown as numbers, enumerations as well.
template <class Value>
std::string shown(const Value& value) {
  if constexpr (std::is_enum_v<Value>)
    return std::to_string(static_cast<long long>(value));
  else if constexpr (std::is_pointer_v<Value> || std::is_null_pointer_v<Value>)
    return value == nullptr ? "null" : "a pointer";
  else
    return std::to_string(value);
}

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) ::check::fail(__FILE__, __LINE__, "not so: " #condition); \
  } while (false)

#define CHECK_EQ(left, right) CHECK_COMPARED(left, ==, right)
#define CHECK_LE(left, right) CHECK_COMPARED(left, <=, right)
#define CHECK_LT(left, right) CHECK_COMPARED(left, <, right)
#define CHECK_COMPARED(left, op, right)                                                                        \
  do {                                                                                                         \
    const auto left_value = (left);                                                                            \
    const auto right_value = (right);                                                                          \
    if (!(left_value op right_value))                                                                          \
      ::check::fail(__FILE__, __LINE__,                                                                        \
                    "not so: " #left " " #op " " #right "; they are " + ::check::shown(left_value) + " and " + \
                        ::check::shown(right_value));                                                          \
  } while (false)

#define CHECK_THROWS(error, expression)                                       \
  do {                                                                        \
    bool thrown = false;                                                      \
    try {                                                                     \
      static_cast<void>(expression);                                          \
    } catch (const error&) {                                                  \
      thrown = true;                                                          \
    }                                                                         \
    if (!thrown) ::check::fail(__FILE__, __LINE__, "throws no " #error ": " #expression); \
  } while (false)

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

#define TEST(name)                                            \
  static void name();                                         \
  static const ::check::Registration name##_registered{#name, name}; \
  static void name()

inline int main(int argc, char** argv) {
  int found = 0;
  for (const Test& test : tests()) {
    bool wanted = argc == 1;
    for (int i = 1; i < argc; ++i) wanted = wanted || std::string_view(argv[i]) == test.name;
    if (!wanted) continue;
    ++found;
    std::cout << test.name << std::flush;
    const std::int64_t begin = dspex::now_ns();
    test.run();
    std::cout << ": " << (dspex::now_ns() - begin) / 1'000'000 << " ms" << std::endl;
  }
  return found >= (argc == 1 ? 1 : argc - 1) ? 0 : 2;
}

// `count` times DSPEX_STRESS, at least one.
inline std::size_t times(std::size_t count) {
  static const double factor = [] {
    const char* text = std::getenv("DSPEX_STRESS");
    return text == nullptr ? 1.0 : std::strtod(text, nullptr);
  }();
  const double product = static_cast<double>(count) * factor;
  return product < 1 ? 1 : static_cast<std::size_t>(product);
}

// Long enough for everything but a lost wake-up, even under a sanitizer on a busy machine.
inline std::int64_t patience() { return dspex::now_ns() + 30'000'000'000; }

inline void sleep_us(long us) {
  const timespec time{us / 1'000'000, us % 1'000'000 * 1000};
  nanosleep(&time, nullptr);
}

template <class Condition>
bool comes_true(Condition&& condition, std::int64_t until = patience()) {
  while (!condition()) {
    if (dspex::now_ns() > until) return false;
    sleep_us(100);
  }
  return true;
}

// xorshift64*; one for each thread.
class Random {
 public:
  explicit Random(std::uint64_t number) {
    static const std::uint64_t seed = [] {
      const char* text = std::getenv("DSPEX_SEED");
      return text == nullptr ? std::uint64_t{1} : std::strtoull(text, nullptr, 10);
    }();
    state_ = (seed * 0x9e3779b97f4a7c15u) ^ ((number + 1) * 0xbf58476d1ce4e5b9u);
    if (state_ == 0) state_ = 1;
  }

  std::uint64_t operator()() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1du;
  }

  std::uint64_t below(std::uint64_t bound) { return ((*this)() >> 20) % bound; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

  // Mostly nothing; now and then a spin, a yield or a sleep, so that threads meet at every step of the others.
  void stall() {
    const std::uint64_t roll = below(2048);
    if (roll == 0)
      sleep_us(static_cast<long>(1 + below(50)));
    else if (roll < 12)
      sched_yield();
    else if (roll < 200)
      for (std::uint64_t i = below(100); i > 0; --i) dspex::spin_pause();
  }

 private:
  std::uint64_t state_;
};

// Where a number of threads wait for each other, over and over.
class Barrier {
 public:
  explicit Barrier(std::size_t threads) : threads_(threads) {}

  void meet() {
    const std::size_t round = round_.load(std::memory_order_relaxed);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
      here_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (unsigned looks = 0; round_.load(std::memory_order_acquire) == round; ++looks)
      if (looks > 500) sched_yield();
  }

 private:
  const std::size_t threads_;
  std::atomic<std::size_t> here_{0}, round_{0};
};

// Runs work(0..count-1) at the same time; all begin together.
template <class Work>
void in_threads(std::size_t count, Work work) {
  Barrier begin(count);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      begin.meet();
      work(i);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace check
