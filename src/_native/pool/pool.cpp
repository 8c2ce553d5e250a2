#include "pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <climits>
#include <functional>
#include <stdexcept>

namespace dspex {
namespace {

std::atomic<std::uint64_t> forks{0};

PoolOptions checked(const PoolOptions& options) {
  if (options.size == 0) throw std::invalid_argument("a pool needs at least one worker");
  if (options.max_size < options.size) throw std::invalid_argument("max_size is below size");
  if (options.max_size > IdleSet::max_workers) throw std::invalid_argument("too many workers");
  if (options.capacity == 0) throw std::invalid_argument("a pool needs room for at least one task");
  if (options.max_batch == 0) throw std::invalid_argument("max_batch is 0");
  return options;
}

// Which lane a thread pushes to: its own, so that its tasks begin in their order.
std::size_t lane_of_thread() noexcept {
  static std::atomic<std::size_t> threads{0};
  thread_local const std::size_t number = threads.fetch_add(1, std::memory_order_relaxed);
  return number;
}

constexpr std::size_t max_lanes = 16;

}  // namespace

std::uint64_t forks_so_far() noexcept {
  static const bool counting = [] {
    pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
    return true;
  }();
  static_cast<void>(counting);
  return forks.load(std::memory_order_relaxed);
}

bool Pool::take_helper_place() noexcept {
  if (helpers_.fetch_add(1, std::memory_order_relaxed) < workers()) return true;
  give_helper_place();
  return false;
}

Pool::Pool(const PoolOptions& options)
    : options_(checked(options)), generation_(forks_so_far()), size_(options.size), max_size_(options.max_size) {
  const std::size_t lanes = std::min({options.size, options.capacity, max_lanes});
  for (std::size_t i = 0; i < lanes; ++i)
    lanes_.push_back(std::make_unique<Lane>(options.capacity / lanes + (i < options.capacity % lanes)));
  try {
    std::lock_guard lock(crew_);
    for (std::size_t i = 0; i < options.size; ++i) start_worker(i);
  } catch (...) {
    stop();
    throw;
  }
  // Acquire, with the release in Worker::settle.
  for (std::uint32_t up; (up = up_.load(std::memory_order_acquire)) < options.size;) futex_wait(up_, up, never);
}

Pool::~Pool() { stop(); }

bool Pool::stale() const noexcept { return generation_ != forks.load(std::memory_order_relaxed); }

// --- in

Accept Pool::refusal() const noexcept {
  if (stale()) return Accept::stale;
  return stage_.load(std::memory_order_relaxed) == Stage::open ? Accept::yes : Accept::closed;
}

bool Pool::push_to_lanes(Task* task) noexcept {
  const std::size_t n = lanes_.size();
  if (n == 1) return lanes_[0]->try_push(std::move(task));
  std::size_t lane = lane_of_thread() % n;
  for (std::size_t i = 0; i < n; ++i) {
    if (lanes_[lane]->try_push(std::move(task))) return true;
    if (++lane == n) lane = 0;
  }
  return false;
}

Accept Pool::submit(Task* task) noexcept {
  if (const Accept no = refusal(); no != Accept::yes) return no;
  return push_to_lanes(task) ? after_push() : Accept::full;
}

Accept Pool::submit(Strand& strand, Task* task) noexcept {
  if (const Accept no = refusal(); no != Accept::yes) return no;
  strand_accepted_.fetch_add(1, std::memory_order_relaxed);  // before it can end: see drain
  const Strand::Push push = strand.push(task, options_.capacity);
  if (push == Strand::Push::full) {
    strand_accepted_.fetch_sub(1, std::memory_order_relaxed);
    return Accept::full;
  }
  if (push == Strand::Push::first) {
    strand.retain();
    schedule(&strand);
  }
  if (active_.load(std::memory_order_relaxed) == 0) grow();
  if (stage_.load(std::memory_order_seq_cst) == Stage::stopping) cancel_waiting();
  return Accept::yes;
}

Accept Pool::after_push() noexcept {
  if (!idle_.wake_one() && active_.load(std::memory_order_relaxed) < max_size_.load(std::memory_order_relaxed) &&
      !idle_.somebody_searches())
    grow();
  // Either stop() sweeps the lanes after our push, or we see that it is under way.
  if (stage_.load(std::memory_order_seq_cst) == Stage::stopping) cancel_waiting();
  return Accept::yes;
}

template <class Submit>
Accept Pool::wait_for(Room& room, Submit&& submit, std::int64_t deadline) noexcept {
  room.waiters.fetch_add(1, std::memory_order_seq_cst);
  Accept accept;
  for (;;) {
    const std::uint32_t changes = room.changes.load(std::memory_order_seq_cst);
    accept = submit();
    const std::int64_t now = now_ns();
    if (accept != Accept::full || now >= deadline) break;
    futex_wait(room.changes, changes, std::min(deadline, now + 1'000'000));
  }
  room.waiters.fetch_sub(1, std::memory_order_relaxed);
  return accept;
}

Accept Pool::submit_within(Task* task, std::int64_t deadline) noexcept {
  const Accept accept = submit(task);
  if (accept != Accept::full) return accept;
  return wait_for(lane_room_, [&] { return submit(task); }, deadline);
}

Accept Pool::submit_within(Strand& strand, Task* task, std::int64_t deadline) noexcept {
  const Accept accept = submit(strand, task);
  if (accept != Accept::full) return accept;
  return wait_for(strand_room_, [&] { return submit(strand, task); }, deadline);
}

// After something has been taken. Whoever waits counts itself before it looks once more: one of both sees the other.
void Pool::Room::made(int wake) noexcept {
  if (waiters.load(std::memory_order_seq_cst) == 0) return;
  changes.fetch_add(1, std::memory_order_seq_cst);
  futex_wake(changes, wake);
}

// --- out

Task* Pool::take_from_lanes(std::size_t home, bool& stolen) noexcept {
  const std::size_t n = lanes_.size();
  std::size_t lane = n == 1 ? 0 : home % n;
  Task* task = nullptr;
  for (std::size_t i = 0; i < n; ++i) {
    // The task's line is on its way while the lane's is given back.
    if (lanes_[lane]->take([&task](Task* next) noexcept { __builtin_prefetch(task = next, 1); })) {
      stolen = i != 0;
      // Not for every place: those who wait come back for a quarter of the room, and after a millisecond anyway.
      if (lane_room_.waiters.load(std::memory_order_seq_cst) != 0 && queued() <= options_.capacity * 3 / 4)
        lane_room_.made(INT_MAX);
      return task;
    }
    if (++lane == n) lane = 0;
  }
  return nullptr;
}

bool Pool::lanes_have_work() const noexcept {
  return std::any_of(lanes_.begin(), lanes_.end(), [](const auto& lane) { return lane->has_next(); });
}

std::uint64_t Pool::pushed_to_lanes() const noexcept {
  std::uint64_t sum = 0;
  for (const auto& lane : lanes_) sum += lane->pushed();
  return sum;
}

std::size_t Pool::queued() const noexcept {
  std::size_t sum = 0;
  for (const auto& lane : lanes_) sum += lane->size();
  return sum;
}

// --- strands

std::size_t Pool::assign_strand() noexcept {
  const std::size_t next = next_strand_.fetch_add(1, std::memory_order_relaxed);
  const std::size_t worker = any_active(next % size());
  return worker == IdleSet::max_workers ? 0 : worker;
}

void Pool::schedule(Strand* strand) noexcept {
  const std::size_t index = strand->worker();
  Worker* worker = workers_[index].load(std::memory_order_acquire);
  if (!worker->active_.load(std::memory_order_seq_cst)) {
    const std::size_t other = any_active(index);
    if (other != IdleSet::max_workers) {
      strand->move_to(other);
      worker = workers_[other].load(std::memory_order_acquire);
    }
  }
  worker->pinned_.push(strand);
  // Either the worker sees the strand before it leaves, or we see that it has left.
  if (worker->active_.load(std::memory_order_seq_cst))
    idle_.wake(worker->index());
  else if (any_active(index) != IdleSet::max_workers)
    reroute(worker->pinned_.take_all());
}

void Pool::reroute(Strand* strands) noexcept {
  while (strands != nullptr) {
    Strand* next = strands->next;
    schedule(strands);
    strands = next;
  }
}

// --- the end

void Pool::refuse() noexcept {
  Stage open = Stage::open;
  stage_.compare_exchange_strong(open, Stage::refusing, std::memory_order_seq_cst);
  for (Room* room : {&lane_room_, &strand_room_}) {  // those who wait for room learn that they wait in vain
    room->changes.fetch_add(1, std::memory_order_seq_cst);
    futex_wake(room->changes, INT_MAX);
  }
}

std::uint64_t Pool::accepted() const noexcept {
  return pushed_to_lanes() + strand_accepted_.load(std::memory_order_relaxed);
}

std::uint64_t Pool::ended() const noexcept {
  std::uint64_t sum = abandoned_.load(std::memory_order_relaxed);
  for (const auto& place : workers_) {
    const Worker* worker = place.load(std::memory_order_acquire);
    if (worker != nullptr) sum += worker->counters_.ended.load(std::memory_order_acquire);
  }
  return sum;
}

bool Pool::drain(std::int64_t deadline) noexcept {
  Word alarm{0};
  for (std::int64_t pause = 1'000;; pause = std::min<std::int64_t>(2 * pause, 1'000'000)) {
    const std::uint64_t over = ended();  // first: what is accepted later than this cannot be among it
    if (over >= accepted()) return true;
    if (stale()) return false;
    const std::int64_t now = now_ns();
    if (now >= deadline) return false;
    futex_wait(alarm, 0, std::min(deadline, now + pause));
  }
}

void Pool::cancel_waiting() noexcept {
  const auto abandon = [this](Task* task) {
    task->cancel();
    task->release();
    abandoned_.fetch_add(1, std::memory_order_relaxed);
  };
  Task* task = nullptr;
  for (const auto& lane : lanes_)
    while (lane->try_pop(task)) abandon(task);
  for (const auto& place : workers_) {
    Worker* worker = place.load(std::memory_order_acquire);
    Strand* strand = worker == nullptr ? nullptr : worker->pinned_.take_all();
    while (strand != nullptr) {
      Strand* next = strand->next;
      do abandon(strand->take());
      while (strand->done_one());
      strand->release();
      strand = next;
    }
  }
}

PoolStats Pool::stats() const {
  PoolStats stats;
  stats.queued = queued();
  stats.workers = workers();
  stats.parked = idle_.asleep();
  stats.accepted = accepted();
  stats.rejected = rejected_.load(std::memory_order_relaxed);
  stats.caller_runs = caller_runs_.load(std::memory_order_relaxed);
  stats.counts.cancelled = stats.counts.ended = abandoned_.load(std::memory_order_relaxed);
  stats.wait.resize(Histogram::buckets);
  stats.service.resize(Histogram::buckets);
  stats.ns_per_tick = rate_.ns_per_tick();
  // In a forked child whoever held the mutex is not there.
  const auto lock = stale() ? std::unique_lock<std::mutex>() : std::unique_lock(crew_);
  stats.started = started_;
  stats.retired = retired_;
  stats.deaths = deaths_;
  for (const auto& worker : places_) {
    if (worker == nullptr) continue;
    const WorkerCounts counts = worker->counts();
    stats.counts += counts;
    if (worker->active_.load(std::memory_order_relaxed)) stats.by_worker.push_back(counts);
    worker->wait_.add_to(stats.wait.data());
    worker->service_.add_to(stats.service.data());
  }
  return stats;
}

}  // namespace dspex
