// Who searches, who sleeps, and whom to wake: the part of the pool that must not lose a wake-up.
//
// The scheme of Go's scheduler (runtime/proc.go, "Worker thread parking/unparking"): a submitter wakes a sleeper
// only while nobody searches, and the last searcher that finds work wakes the next. A burst of submissions costs
// one wake-up, and no task is left lying:
//
//   submitter                                 worker
//   push the task                    (1)      announce(w)               (3)
//   somebody announced, and          (2)      end_search()              (4)
//   nobody searching? wake it        (2)      look for tasks once more  (5)
//                                             park(w) if there are none
//
// All of these are sequentially consistent. If the submitter misses the worker at (2), then (2) comes before (3) or
// before (4), and so (1) before (5): the worker finds the task. docs/pool.md names the model that checks it.
#pragma once

#include <atomic>
#include <bit>
#include <climits>
#include <cstddef>
#include <cstdint>

#include "futex.hpp"
#include "queue.hpp"

namespace dspex {

class IdleSet {
 public:
  static constexpr std::size_t max_workers = 256;

  // --- workers

  void begin_search() noexcept { searching_.fetch_add(1, std::memory_order_seq_cst); }
  // Whether nobody searches any more: then whoever found work looks whether there is more of it.
  bool end_search() noexcept { return searching_.fetch_sub(1, std::memory_order_seq_cst) == 1; }

  void announce(std::size_t worker) noexcept {
    word_of(worker).fetch_or(bit_of(worker), std::memory_order_seq_cst);
  }
  // Takes the announcement back; false when a waker was faster: its token has to be awaited.
  bool retract(std::size_t worker) noexcept {
    return (word_of(worker).fetch_and(~bit_of(worker), std::memory_order_seq_cst) & bit_of(worker)) != 0;
  }

  // Sleeps until woken; then the worker is a searcher already. False when the deadline has passed: then it is not,
  // and is not announced either.
  bool park(std::size_t worker, std::int64_t deadline) noexcept {
    if (await_token(worker, deadline)) return true;
    if (retract(worker)) {
      tokens_[worker].word.store(0, std::memory_order_relaxed);
      return false;
    }
    take_token(worker);
    return true;
  }
  // For a worker that could not retract: the token is on its way.
  void take_token(std::size_t worker) noexcept { await_token(worker, never); }

  // --- submitters

  bool somebody_searches() const noexcept { return searching_.load(std::memory_order_relaxed) != 0; }

  // After a push: wakes one sleeper unless somebody searches. False when nobody sleeps. The line of `sleeping_`
  // changes seldom, that of `searching_` with every task: look at the former first.
  bool wake_one() noexcept {
    for (std::size_t i = 0; i < words; ++i) {
      std::uint64_t bits;
      while ((bits = sleeping_[i].load(std::memory_order_seq_cst)) != 0) {
        if (searching_.load(std::memory_order_seq_cst) != 0) return true;
        if (wake(64 * i + static_cast<std::size_t>(std::countr_zero(bits)))) return true;
      }
    }
    return false;
  }

  // Wakes this worker if it sleeps or is about to.
  bool wake(std::size_t worker) noexcept {
    if ((word_of(worker).load(std::memory_order_seq_cst) & bit_of(worker)) == 0 || !retract(worker)) return false;
    begin_search();  // on its behalf, so that the next submitter need not wake another
    // Release, with the acquire in await_token.
    if (tokens_[worker].word.exchange(token, std::memory_order_acq_rel) == sleeper) futex_wake(tokens_[worker].word, 1);
    return true;
  }

  std::size_t asleep() const noexcept {
    std::size_t sum = 0;
    for (const auto& word : sleeping_) sum += static_cast<std::size_t>(std::popcount(word.load(std::memory_order_relaxed)));
    return sum;
  }

 private:
  static constexpr std::size_t words = max_workers / 64;
  static constexpr std::uint32_t token = 1, sleeper = 2;

  std::atomic<std::uint64_t>& word_of(std::size_t worker) noexcept { return sleeping_[worker / 64]; }
  static std::uint64_t bit_of(std::size_t worker) noexcept { return std::uint64_t{1} << (worker % 64); }

  bool await_token(std::size_t worker, std::int64_t deadline) noexcept {
    Word& word = tokens_[worker].word;
    std::uint32_t none = 0;
    word.compare_exchange_strong(none, sleeper, std::memory_order_relaxed);
    // Acquire, with the release in wake.
    while (word.load(std::memory_order_acquire) == sleeper)
      if (!futex_wait(word, sleeper, deadline) && word.load(std::memory_order_acquire) == sleeper) return false;
    word.store(0, std::memory_order_relaxed);
    return true;
  }

  struct alignas(cache_line) Token {
    Word word{0};
  };

  alignas(cache_line) std::atomic<std::uint32_t> searching_{0};
  alignas(cache_line) std::atomic<std::uint64_t> sleeping_[words]{};
  Token tokens_[max_workers];
};

}  // namespace dspex
