// A bounded queue for any number of producers and consumers.
//
// D. Vyukov's bounded MPMC queue (1024cores.net, "Bounded MPMC queue"): every cell carries a turn that says whose
// it is. Two changes: the capacity is exact, although the ring is a power of two; and the turns are published and
// read in the single order of sequentially consistent operations, so that "push, then look whether somebody
// sleeps" and "say that I sleep, then look for elements" cannot both miss (see idle.hpp).
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace dspex {

inline constexpr std::size_t cache_line = 64;

template <class T>
class BoundedQueue {
  static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_destructible_v<T>,
                "an element that throws while it moves would be lost");

 public:
  // Room for exactly `capacity` elements. Throws std::invalid_argument for 0, std::bad_alloc for too many.
  explicit BoundedQueue(std::size_t capacity)
      : capacity_(capacity), ring_(ring_for(capacity)), cells_(std::make_unique<Cell[]>(ring_)) {
    for (std::size_t i = 0; i < ring_; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
  }

  // Only when nobody uses it any more; elements left behind are destroyed.
  ~BoundedQueue() {
    while (drop_one()) {
    }
  }

  BoundedQueue(const BoundedQueue&) = delete;
  BoundedQueue& operator=(const BoundedQueue&) = delete;

  // False when full; then the value is left as it was.
  bool try_push(T&& value) noexcept {
    std::uint64_t at = tail_.load(std::memory_order_relaxed);
    for (;;) {
      Cell& cell = cells_[at & (ring_ - 1)];
      // Acquire, with the release of the turn in take: the cell's last element has been moved out.
      const auto lag = static_cast<std::int64_t>(cell.turn.load(std::memory_order_seq_cst) - at);
      if (lag == 0 && has_room(at)) {
        if (tail_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
          ::new (static_cast<void*>(cell.storage)) T(std::move(value));
          cell.turn.store(at + 1, std::memory_order_seq_cst);  // release, with the acquire in try_pop
          return true;
        }
      } else {
        const std::uint64_t newer = tail_.load(std::memory_order_relaxed);
        if (newer == at) return false;
        at = newer;
      }
    }
  }

  // False when empty, or when the oldest element is still being pushed.
  bool try_pop(T& out) noexcept {
    return take([&out](T& element) noexcept { out = std::move(element); });
  }

  // As try_pop, but hands the element to a function before its place is given back.
  template <class Take>
  bool take(Take&& take) noexcept {
    std::uint64_t at = head_.load(std::memory_order_relaxed);
    for (;;) {
      Cell& cell = cells_[at & (ring_ - 1)];
      // Acquire, with the release of the turn in try_push: the element is whole.
      const auto lag = static_cast<std::int64_t>(cell.turn.load(std::memory_order_seq_cst) - (at + 1));
      if (lag == 0) {
        if (head_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
          T& element = *std::launder(reinterpret_cast<T*>(cell.storage));
          take(element);
          element.~T();
          cell.turn.store(at + ring_, std::memory_order_seq_cst);  // release, with the acquire in try_push
          return true;
        }
      } else {
        const std::uint64_t newer = head_.load(std::memory_order_relaxed);
        if (newer == at) return false;
        at = newer;
      }
    }
  }

  std::uint64_t pushed() const noexcept { return tail_.load(std::memory_order_relaxed); }
  std::uint64_t popped() const noexcept { return head_.load(std::memory_order_relaxed); }

  // Exact when nobody pushes or pops meanwhile.
  std::size_t size() const noexcept {
    const std::uint64_t popped_so_far = popped(), pushed_so_far = pushed();
    return pushed_so_far > popped_so_far ? static_cast<std::size_t>(pushed_so_far - popped_so_far) : 0;
  }

  // Whether try_pop would find something now, in the order of sequentially consistent operations.
  bool has_next() const noexcept {
    const std::uint64_t at = head_.load(std::memory_order_relaxed);
    return cells_[at & (ring_ - 1)].turn.load(std::memory_order_seq_cst) != at;
  }

  std::size_t capacity() const noexcept { return capacity_; }

 private:
  struct Cell {
    std::atomic<std::uint64_t> turn;  // at: free for push `at`; at + 1: holds element `at`; at + ring: next lap
    alignas(T) unsigned char storage[sizeof(T)];
  };

  // A ring of one would have no turn between "full" and "free for the next lap".
  static std::size_t ring_for(std::size_t capacity) {
    if (capacity == 0) throw std::invalid_argument("a queue needs room for at least one element");
    if (capacity > (std::size_t{1} << 40)) throw std::bad_alloc();
    return std::bit_ceil(capacity < 2 ? std::size_t{2} : capacity);
  }

  // Whether the element `capacity` places before has been popped. Free when the ring is full at capacity.
  bool has_room(std::uint64_t at) const noexcept {
    if (capacity_ == ring_) return true;
    const std::uint64_t before = at - capacity_;
    const std::uint64_t turn = cells_[before & (ring_ - 1)].turn.load(std::memory_order_seq_cst);
    return static_cast<std::int64_t>(turn - (before + ring_)) >= 0;
  }

  bool drop_one() noexcept {
    return take([](T&) noexcept {});
  }

  const std::size_t capacity_, ring_;
  const std::unique_ptr<Cell[]> cells_;
  alignas(cache_line) std::atomic<std::uint64_t> tail_{0};
  alignas(cache_line) std::atomic<std::uint64_t> head_{0};
};

}  // namespace dspex
