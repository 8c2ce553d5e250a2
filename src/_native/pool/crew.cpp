// The coming and going of a pool's workers. The one place with a mutex: no task passes here.
#include <algorithm>
#include <climits>
#include <stdexcept>
#include <system_error>

#include "pool.hpp"

namespace dspex {

void Pool::start_worker(std::size_t index) {
  if (places_.size() <= index) places_.resize(index + 1);
  if (places_[index] == nullptr) places_[index] = std::make_unique<Worker>(*this, index);
  Worker& worker = *places_[index];
  if (worker.joinable_) {  // its last thread has left
    pthread_join(worker.thread_, nullptr);
    worker.joinable_ = false;
  }
  worker.leaving_.store(false, std::memory_order_relaxed);
  workers_[index].store(&worker, std::memory_order_release);
  worker.active_.store(true, std::memory_order_seq_cst);
  active_.fetch_add(1, std::memory_order_relaxed);
  const int error = pthread_create(&worker.thread_, nullptr, &Worker::main, &worker);
  if (error != 0) {
    worker.active_.store(false, std::memory_order_seq_cst);
    active_.fetch_sub(1, std::memory_order_relaxed);
    reroute(worker.pinned_.take_all());  // who saw it active may have left a strand there
    throw std::system_error(error, std::generic_category(), "a worker thread could not be started");
  }
  worker.joinable_ = true;
  ++started_;
  for (const auto& place : places_)  // strands of workers that are gone, if nobody was there to take them
    if (place != nullptr && !place->active_.load(std::memory_order_seq_cst)) reroute(place->pinned_.take_all());
}

// One more worker when all are busy and more tasks wait than there are workers; not two within grow_ns.
void Pool::grow() noexcept {
  const std::size_t active = active_.load(std::memory_order_relaxed);
  if (active != 0 && queued() <= active) return;
  const std::int64_t now = now_ns();
  std::int64_t last = last_growth_.load(std::memory_order_relaxed);
  if (active != 0 && now - last < options_.grow_ns) return;
  if (!last_growth_.compare_exchange_strong(last, now, std::memory_order_relaxed)) return;
  std::unique_lock lock(crew_, std::try_to_lock);
  if (!lock || stage_.load(std::memory_order_relaxed) == Stage::stopping) return;
  for (std::size_t i = 0; i < max_size(); ++i) {
    if (i < places_.size() && places_[i] != nullptr && places_[i]->active_.load(std::memory_order_relaxed)) continue;
    try {
      start_worker(i);
    } catch (...) {  // no thread now; the next submission tries again
      return;
    }
    return;
  }
}

std::size_t Pool::any_active(std::size_t from) const noexcept {
  for (std::size_t i = 0; i < IdleSet::max_workers; ++i) {
    const std::size_t index = (from + i) % IdleSet::max_workers;
    const Worker* worker = workers_[index].load(std::memory_order_acquire);
    if (worker != nullptr && worker->active_.load(std::memory_order_seq_cst)) return index;
  }
  return IdleSet::max_workers;
}

// The worker's thread is about to end: strands that are its own go to the others.
void Pool::leave(Worker& worker) noexcept {
  std::lock_guard lock(crew_);
  worker.active_.store(false, std::memory_order_seq_cst);
  active_.fetch_sub(1, std::memory_order_relaxed);
  ++retired_;
  worker.give_back_strands();
  if (stage_.load(std::memory_order_seq_cst) == Stage::stopping) return;
  if (worker.index() < size()) restart(worker);  // a resize wants it after all
  reroute(worker.pinned_.take_all());
  if (lanes_have_work()) idle_.wake_one();
}

// On the thread that dies.
void Pool::replace_dead(Worker& worker) noexcept {
  std::lock_guard lock(crew_);
  worker.bury();
  ++deaths_;
  worker.active_.store(false, std::memory_order_seq_cst);
  active_.fetch_sub(1, std::memory_order_relaxed);
  worker.give_back_strands();
  if (stage_.load(std::memory_order_seq_cst) == Stage::stopping) return;
  restart(worker);
  reroute(worker.pinned_.take_all());
}

// A new thread for a worker whose own calls this. It cannot join itself: stop() does that.
void Pool::restart(Worker& worker) noexcept {
  try {
    if (worker.joinable_) unjoined_.push_back(worker.thread_);
    worker.joinable_ = false;
    start_worker(worker.index());
  } catch (...) {  // the others take over; with none left, the next submission tries again (grow)
  }
}

void Pool::resize(std::size_t size, std::size_t max_size) {
  if (size == 0) throw std::invalid_argument("a pool needs at least one worker");
  if (max_size < size) throw std::invalid_argument("max_size is below size");
  if (max_size > IdleSet::max_workers) throw std::invalid_argument("too many workers");
  if (stale()) return;
  std::lock_guard lock(crew_);
  if (stage_.load(std::memory_order_relaxed) != Stage::open) return;
  size_.store(size, std::memory_order_relaxed);
  max_size_.store(max_size, std::memory_order_relaxed);
  for (std::size_t i = 0; i < std::max(size, places_.size()); ++i) {
    const bool there = i < places_.size() && places_[i] != nullptr && places_[i]->active_.load(std::memory_order_relaxed);
    if (i < size && !there) start_worker(i);
    if (i < size && there) places_[i]->leaving_.store(false, std::memory_order_seq_cst);
    if (i >= max_size && there) places_[i]->leaving_.store(true, std::memory_order_seq_cst);
  }
  wake_everybody();
}

// Each looks anew at whether it is surplus, or is to leave.
void Pool::wake_everybody() noexcept {
  for (std::size_t i = 0; i < places_.size(); ++i)
    if (places_[i] != nullptr) idle_.wake(i);
}

void Pool::stop() noexcept {
  if (stale()) {  // a forked child has the pool's memory, but none of its threads
    for (auto& place : places_) place.release();  // NOLINT: their threads live in the parent
    return;
  }
  refuse();
  std::vector<pthread_t> ended;
  {
    std::lock_guard lock(crew_);
    stage_.store(Stage::stopping, std::memory_order_seq_cst);
    for (auto& place : places_) {
      if (place == nullptr) continue;
      place->leaving_.store(true, std::memory_order_seq_cst);
      if (place->joinable_) ended.push_back(place->thread_);
      place->joinable_ = false;
    }
    wake_everybody();
  }
  cancel_waiting();  // also because a task that runs may wait for one that waits
  for (const pthread_t thread : ended) pthread_join(thread, nullptr);
  ended.clear();
  {
    std::lock_guard lock(crew_);
    ended.swap(unjoined_);
  }
  for (const pthread_t thread : ended) pthread_join(thread, nullptr);
  cancel_waiting();
}

}  // namespace dspex
