// Tasks of the pool: one call of a program, and a probe of the pool itself.
#pragma once

#include <pthread.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#include "../pool/clock.hpp"
#include "../pool/task.hpp"
#include "../pool/worker.hpp"
#include "answerer.hpp"

namespace dspex {

// Holds copies of its inputs and room for the answer, all in one piece of memory. The model has to outlive it.
class CallTask final : public Task {
 public:
  // Throws std::bad_alloc.
  static CallTask* make(const Answerer& answerer, const TextView* texts, std::size_t text_count, const float* dense) {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < text_count; ++i) bytes += padded(texts[i].bytes());
    const std::size_t floats = answerer.answer_floats() + answerer.model->dense_width;
    const std::size_t total = sizeof(CallTask) + text_count * sizeof(TextView) + padded(floats * sizeof(float)) + bytes;
    void* memory = ::operator new(total);
    return ::new (memory) CallTask(answerer, texts, text_count, dense);
  }
  static void operator delete(void* memory) { ::operator delete(memory); }

  void run(Worker&) override { perform(); }
  bool batchable() const noexcept override { return true; }

  // The work, on whichever thread.
  void perform() {
    float stack_sums[1024];
    std::unique_ptr<float[]> heap_sums;
    float* sums = stack_sums;
    if (answerer_.sums() > 1024) {
      heap_sums = std::make_unique<float[]>(answerer_.sums());
      sums = heap_sums.get();
    }
    answered_ = answerer_.answer(texts(), text_count_, dense(), sums, out());
  }

  bool answered() const noexcept { return answered_; }  // false: nothing to answer from
  const float* answer() const noexcept { return const_cast<CallTask*>(this)->out(); }

 private:
  static constexpr std::size_t padded(std::size_t bytes) noexcept { return (bytes + 7) / 8 * 8; }

  CallTask(const Answerer& answerer, const TextView* texts, std::size_t text_count, const float* dense) noexcept
      : answerer_(answerer), text_count_(text_count) {
    if (answerer.model->dense_width != 0)
      std::memcpy(this->dense(), dense, answerer.model->dense_width * sizeof(float));
    auto* at = reinterpret_cast<unsigned char*>(out()) +
               padded((answerer.answer_floats() + answerer.model->dense_width) * sizeof(float));
    for (std::size_t i = 0; i < text_count; ++i) {
      if (texts[i].size != 0) std::memcpy(at, texts[i].data, texts[i].bytes());
      this->texts()[i] = {at, texts[i].size, texts[i].unit};
      at += padded(texts[i].bytes());
    }
  }

  // After the object: texts, answer, numbers, the texts' code points.
  TextView* texts() noexcept { return reinterpret_cast<TextView*>(this + 1); }
  float* out() noexcept { return reinterpret_cast<float*>(texts() + text_count_); }
  float* dense() noexcept { return out() + answerer_.answer_floats(); }

  const Answerer answerer_;
  const std::size_t text_count_;
  bool answered_ = false;
};

// Does nothing, or nothing for a while, or goes wrong: for measuring a pool and for testing how it heals.
class ProbeTask final : public Task {
 public:
  enum class Fault : std::uint32_t { none, error, death };

  ProbeTask(std::int64_t busy_ns, std::int64_t sleep_ns, Fault fault, bool batchable) noexcept
      : busy_ns_(busy_ns), sleep_ns_(sleep_ns), fault_(fault), batchable_(batchable) {}

  void run(Worker& worker) override {
    perform();
    if (fault_ == Fault::death) pthread_exit(nullptr);
    ran_on_ = worker.index();
  }
  bool batchable() const noexcept override { return batchable_; }

  void perform() {
    if (busy_ns_ > 0)
      for (const std::int64_t until = now_ns() + busy_ns_; now_ns() < until;) spin_pause();
    if (sleep_ns_ > 0)
      for (const std::int64_t until = now_ns() + sleep_ns_; gate_.load(std::memory_order_relaxed) == 0 && now_ns() < until;)
        futex_wait(gate_, 0, until);
    if (fault_ == Fault::error) throw std::runtime_error("a probe that fails");
  }

  // Ends its sleep.
  void let_go() noexcept {
    gate_.store(1, std::memory_order_relaxed);
    futex_wake(gate_, 1);
  }

  // The worker's index; no_worker before it has run, and when its caller ran it.
  static constexpr std::size_t no_worker = ~std::size_t{0};
  std::size_t ran_on() const noexcept { return ran_on_; }

 private:
  const std::int64_t busy_ns_, sleep_ns_;
  const Fault fault_;
  const bool batchable_;
  Word gate_{0};
  std::size_t ran_on_ = no_worker;
};

}  // namespace dspex
