// An unbounded list that many push to and that is taken whole, oldest first.
#pragma once

#include <atomic>

namespace dspex {

// Treiber's stack without its ABA problem: nobody pops one element, takers take everything. `Next` is the
// element's link; an element is in one list at a time.
template <class T, T* T::* Next>
class TakeAllStack {
 public:
  // Whether it was empty before.
  bool push(T* element) noexcept {
    T* top = top_.load(std::memory_order_relaxed);
    do {
      element->*Next = top;
      // Release, with the acquire in take_all: the element and its link are whole. Sequentially consistent
      // for the sake of idle.hpp.
    } while (!top_.compare_exchange_weak(top, element, std::memory_order_seq_cst, std::memory_order_relaxed));
    return top == nullptr;
  }

  // All elements, oldest first, linked by Next; null if there are none.
  T* take_all() noexcept {
    if (empty()) return nullptr;
    T* newest = top_.exchange(nullptr, std::memory_order_seq_cst);
    T* oldest = nullptr;
    while (newest != nullptr) {
      T* next = newest->*Next;
      newest->*Next = oldest;
      oldest = newest;
      newest = next;
    }
    return oldest;
  }

  bool empty() const noexcept { return top_.load(std::memory_order_seq_cst) == nullptr; }

 private:
  std::atomic<T*> top_{nullptr};
};

}  // namespace dspex
