// The worker pool: bounded lanes of tasks, strands for sessions, workers that steal, spin and sleep.
//
// Nothing on the way of a task takes a lock: submit, take, complete. A mutex guards only the coming and going of
// threads. Every lane is stolen from by every worker; a strand stays with its worker while that one lives.
#pragma once

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "idle.hpp"
#include "queue.hpp"
#include "strand.hpp"
#include "task.hpp"
#include "worker.hpp"

namespace dspex {

// How often this process, or those it was forked from, have been forked since pools were first used.
std::uint64_t forks_so_far() noexcept;

struct PoolOptions {
  std::size_t size = 1;             // workers
  std::size_t max_size = 1;         // with overflow workers, which come when all are busy and go when idle
  std::size_t capacity = 1024;      // tasks that wait, over all lanes; and of each strand
  std::int64_t spin_ns = 20'000;    // how long a worker without work looks for it before it sleeps
  std::int64_t idle_ns = 1'000'000'000;  // how long an overflow worker sleeps before it goes
  std::int64_t grow_ns = 1'000'000; // between two overflow workers
  std::int64_t window_ns = 0;       // how long a worker waits for calls to run together with one it has taken
  std::size_t max_batch = 64;       // of them
  bool pin = false;                 // each worker on a core of its own
};

enum class Accept { yes, full, closed, stale };  // stale: this process was forked from the pool's own

// Sums over the workers, those that are gone included.
struct PoolStats {
  std::size_t workers = 0, parked = 0, queued = 0;
  std::uint64_t accepted = 0, rejected = 0, caller_runs = 0, started = 0, retired = 0, deaths = 0;
  WorkerCounts counts;
  std::vector<WorkerCounts> by_worker;                  // of the workers there are
  std::vector<std::uint64_t> wait, service;             // histograms in ticks
  double ns_per_tick = 1;
};

class Pool {
 public:
  // Starts the workers and waits until they run. Throws std::invalid_argument, std::bad_alloc, std::system_error.
  explicit Pool(const PoolOptions& options);
  ~Pool();  // as stop()
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // Each takes over one reference to the task when it says yes.
  Accept submit(Task* task) noexcept;
  Accept submit(Strand& strand, Task* task) noexcept;
  // Waits for room until the deadline (now_ns).
  Accept submit_within(Task* task, std::int64_t deadline) noexcept;
  Accept submit_within(Strand& strand, Task* task, std::int64_t deadline) noexcept;

  std::size_t assign_strand() noexcept;  // the worker a new strand is to run on

  void resize(std::size_t size, std::size_t max_size);  // throws as the constructor
  void refuse() noexcept;                               // from here on submissions are refused
  // After refuse: waits until all that was accepted has ended; false when the deadline came first.
  bool drain(std::int64_t deadline) noexcept;
  void stop() noexcept;                                 // refuses, cancels what waits, joins the workers

  bool open() const noexcept { return stage_.load(std::memory_order_acquire) == Stage::open; }
  bool stale() const noexcept;                          // see Accept
  std::size_t size() const noexcept { return size_.load(std::memory_order_relaxed); }
  std::size_t max_size() const noexcept { return max_size_.load(std::memory_order_relaxed); }
  std::size_t workers() const noexcept { return active_.load(std::memory_order_relaxed); }
  std::size_t queued() const noexcept;                  // tasks that wait in lanes
  const PoolOptions& options() const noexcept { return options_; }
  PoolStats stats() const;
  void count_caller_run() noexcept { caller_runs_.fetch_add(1, std::memory_order_relaxed); }
  // Where other processes want the cores, a helper that has lost its own holds up a batch: none are sent for twenty
  // times as long as was lost.
  bool help_pays() const noexcept { return now_ns() >= no_help_before_.load(std::memory_order_relaxed); }
  void help_cost(std::int64_t lost_ns) noexcept {
    no_help_before_.store(now_ns() + 20 * lost_ns, std::memory_order_relaxed);
  }
  // Batches' helpers that wait or run: never more than workers, however many batches there are.
  bool take_helper_place() noexcept;
  void give_helper_place() noexcept { helpers_.fetch_sub(1, std::memory_order_relaxed); }
  void count_rejected() noexcept { rejected_.fetch_add(1, std::memory_order_relaxed); }

 private:
  friend class Worker;
  enum class Stage : std::uint32_t { open, refusing, stopping };
  using Lane = BoundedQueue<Task*>;

  // Where submitters wait until something has room again.
  struct Room {
    Word changes{0};
    std::atomic<std::uint32_t> waiters{0};
    void made(int wake) noexcept;
  };

  // The way of a task (pool.cpp).
  Accept refusal() const noexcept;                      // yes: none
  bool push_to_lanes(Task* task) noexcept;
  Accept after_push() noexcept;
  template <class Submit>
  Accept wait_for(Room& room, Submit&& submit, std::int64_t deadline) noexcept;
  Task* take_from_lanes(std::size_t home, bool& stolen) noexcept;
  bool lanes_have_work() const noexcept;
  std::uint64_t pushed_to_lanes() const noexcept;
  void schedule(Strand* strand) noexcept;               // takes over a reference
  void reroute(Strand* strands) noexcept;
  void cancel_waiting() noexcept;
  std::uint64_t accepted() const noexcept;
  std::uint64_t ended() const noexcept;

  // The coming and going of workers (crew.cpp).
  void start_worker(std::size_t index);                 // with crew_ held
  void grow() noexcept;
  void leave(Worker& worker) noexcept;
  void replace_dead(Worker& worker) noexcept;
  void restart(Worker& worker) noexcept;
  std::size_t any_active(std::size_t from) const noexcept;  // or max_workers
  void wake_everybody() noexcept;

  const PoolOptions options_;
  const std::uint64_t generation_;                      // of forks
  const TickRate rate_;
  IdleSet idle_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::atomic<std::size_t> size_, max_size_;
  std::atomic<Stage> stage_{Stage::open};
  std::atomic<std::size_t> active_{0}, next_strand_{0}, helpers_{0};
  std::atomic<std::uint64_t> strand_accepted_{0}, rejected_{0}, caller_runs_{0}, abandoned_{0};
  std::atomic<std::int64_t> last_growth_{0}, no_help_before_{0};
  Room lane_room_, strand_room_;
  Word up_{0};                                          // changes when a worker runs

  // Places for workers. A place outlives its thread, and is used again by the next.
  std::atomic<Worker*> workers_[IdleSet::max_workers]{};
  mutable std::mutex crew_;
  std::vector<std::unique_ptr<Worker>> places_;
  std::vector<pthread_t> unjoined_;                     // threads whose place another has taken
  std::uint64_t started_ = 0, retired_ = 0, deaths_ = 0;
};

}  // namespace dspex
