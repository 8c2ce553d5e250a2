// What the native benchmarks share: threads on cores, blocks of time, figures as lines of JSON.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "pool/clock.hpp"

namespace measure {

// One line of JSON: {"bench": ..., "peer": ..., ..., "figure": 1.5}.
class Line {
 public:
  explicit Line(const char* bench) { text("bench", bench); }

  Line& text(const char* name, const std::string& value) {
    line_ += separator() + '"' + name + "\": \"" + value + '"';
    return *this;
  }
  Line& number(const char* name, double value) {
    char digits[40];
    std::snprintf(digits, sizeof digits, "%.9g", value);
    line_ += separator() + '"' + name + "\": " + digits;
    return *this;
  }
  void print() const {
    std::printf("{%s}\n", line_.c_str());
    std::fflush(stdout);
  }

 private:
  std::string separator() const { return line_.empty() ? "" : ", "; }
  std::string line_;
};

inline std::vector<int> cores() {
  cpu_set_t allowed;
  std::vector<int> found;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &allowed)) found.push_back(cpu);
  return found;
}

// Keeps the calling thread on the nth allowed core while it lives.
class OnCore {
 public:
  explicit OnCore(std::size_t nth) {
    sched_getaffinity(0, sizeof before_, &before_);
    const std::vector<int> all = cores();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(all[nth % all.size()], &one);
    sched_setaffinity(0, sizeof one, &one);
  }
  ~OnCore() { sched_setaffinity(0, sizeof before_, &before_); }

 private:
  cpu_set_t before_;
};

// Runs work(0..count-1) at the same time; nanoseconds from the common beginning to the last one's end.
template <class Work>
std::int64_t ns_of_threads(std::size_t count, Work work) {
  std::atomic<std::size_t> ready{0};
  std::atomic<bool> begin{false};
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < count; ++i)
    threads.emplace_back([&, i] {
      ready.fetch_add(1);
      while (!begin.load()) sched_yield();
      work(i);
    });
  while (ready.load() < count) sched_yield();
  const std::int64_t from = dspex::now_ns();
  begin.store(true);
  for (std::thread& thread : threads) thread.join();
  return dspex::now_ns() - from;
}

// How a thread waits for a queue that is full, or empty: some pauses, then whoever else wants the core.
class Patience {
 public:
  void wait() {
    if (++looks_ <= 32)
      dspex::spin_pause();
    else
      sched_yield();
  }
  void reset() { looks_ = 0; }

 private:
  unsigned looks_ = 0;
};

struct Blocks {
  double p50 = 0, mean = 0;
};

// Nanoseconds of one call: median and mean over blocks of 100.
template <class Call>
Blocks time_blocks(std::size_t blocks, Call call) {
  for (int i = 0; i < 300; ++i) call();
  std::vector<double> found;
  double sum = 0;
  for (std::size_t block = 0; block < blocks; ++block) {
    const std::int64_t from = dspex::now_ns();
    for (int i = 0; i < 100; ++i) call();
    found.push_back(static_cast<double>(dspex::now_ns() - from) / 100);
    sum += found.back();
  }
  std::nth_element(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(found.size() / 2), found.end());
  return {found[found.size() / 2], sum / static_cast<double>(blocks)};
}

// An argument --name=value, or the default.
inline double option(int argc, char** argv, const std::string& name, double otherwise) {
  for (int i = 1; i < argc; ++i)
    if (std::string(argv[i]).starts_with("--" + name + "=")) return std::strtod(argv[i] + name.size() + 3, nullptr);
  return otherwise;
}

inline bool asked(int argc, char** argv, const std::string& name) {
  bool any = false;
  for (int i = 1; i < argc; ++i) {
    if (argv[i] == name) return true;
    any = any || argv[i][0] != '-';
  }
  return !any;
}

}  // namespace measure
