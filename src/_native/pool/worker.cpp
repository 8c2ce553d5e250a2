#include "worker.hpp"

#include <cxxabi.h>

#if defined(__linux__)
#include <sched.h>
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <climits>
#include <cstdio>
#include <utility>

#include "pool.hpp"

namespace dspex {

// Runs when the thread is unwound by something that is not an exception of C++: pthread_exit or a cancellation
// inside a task. The task is lost, the worker is replaced, and nobody waits for either.
class Worker::Death {
 public:
  explicit Death(Worker& worker) noexcept : worker_(worker) {}
  ~Death() {
    if (!averted_) worker_.pool_.replace_dead(worker_);
  }
  void avert() noexcept { averted_ = true; }

 private:
  Worker& worker_;
  bool averted_ = false;
};

void* Worker::main(void* self) {
  Worker& worker = *static_cast<Worker*>(self);
  worker.settle();
  Death death(worker);
  worker.work();
  death.avert();
  worker.pool_.leave(worker);
  return nullptr;
}

void Worker::settle() noexcept {
#if defined(__linux__)
  char name[16];
  std::snprintf(name, sizeof name, "dspex-%zu", index_);
  pthread_setname_np(pthread_self(), name);
  prctl(PR_SET_TIMERSLACK, 1000UL, 0, 0, 0);  // waits of some microseconds end in time
  if (pool_.options_.pin) {
    cpu_set_t allowed, own;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0 && CPU_COUNT(&allowed) > 0) {
      auto nth = static_cast<int>(index_ % static_cast<std::size_t>(CPU_COUNT(&allowed)));
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &allowed) && nth-- == 0) {
          CPU_ZERO(&own);
          CPU_SET(cpu, &own);
          sched_setaffinity(0, sizeof own, &own);
        }
    }
  }
#endif
  pool_.up_.fetch_add(1, std::memory_order_release);
  futex_wake(pool_.up_, 1);
}

void Worker::work() {
  Work work;
  while (!leaving_.load(std::memory_order_relaxed)) {
    if (find(work) || wait_for(work))
      execute(work);
    else
      return;
  }
}

// --- looking for work

bool Worker::find(Work& work) noexcept {
  strands_first_ = !strands_first_;  // neither starves the other
  if (strands_first_) return find_strand(work) || find_task(work);
  return find_task(work) || find_strand(work);
}

bool Worker::find_task(Work& work) noexcept {
  bool stolen = false;
  Task* task = pool_.take_from_lanes(index_, stolen);
  if (task == nullptr) return false;
  if (stolen) count(counters_.steals);
  work = {task, nullptr};
  return true;
}

bool Worker::find_strand(Work& work) noexcept {
  if (ready_ == nullptr) ready_ = pinned_.take_all();
  if (ready_ == nullptr) return false;
  Strand* strand = ready_;
  ready_ = strand->next;
  work = {strand->take(), strand};
  return true;
}

bool Worker::spin_for(Work& work) noexcept {
  if (find(work)) return true;
  const std::int64_t spin = pool_.options_.spin_ns;
  if (spin <= 0) return false;
  for (int i = 0; i < 64; ++i)  // at first without pauses, which take as long as a hand-over
    if (find(work)) return true;
  const std::int64_t until = deadline_in(spin);
  do {
    for (int i = 0; i < 16; ++i) {
      spin_pause();
      if (find(work)) return true;
    }
    spin_yield();
  } while (now_ns() < until && !leaving_.load(std::memory_order_relaxed));
  return false;
}

// idle.hpp says why the order of these steps loses no wake-up.
bool Worker::wait_for(Work& work) noexcept {
  IdleSet& idle = pool_.idle_;
  idle.begin_search();
  for (;;) {
    if (spin_for(work)) {
      found_while_searching();
      return true;
    }
    idle.announce(index_);
    idle.end_search();
    const bool found = find(work), leaving = leaving_.load(std::memory_order_seq_cst);
    if (found || leaving) {
      if (!idle.retract(index_)) {
        idle.take_token(index_);
        found_while_searching();
      } else if (pool_.lanes_have_work()) {
        idle.wake_one();
      }
      return found;
    }
    count(counters_.parks);
    const bool surplus = index_ >= pool_.size();
    if (!idle.park(index_, surplus ? deadline_in(pool_.options_.idle_ns) : never)) return find(work);
    if (leaving_.load(std::memory_order_relaxed)) {
      found_while_searching();
      return false;
    }
  }
}

void Worker::found_while_searching() noexcept {
  if (pool_.idle_.end_search() && pool_.lanes_have_work()) pool_.idle_.wake_one();
}

// --- running it

void Worker::let_others_run() {
  if (interrupted_.task != nullptr || grouped_ != 0) return;  // it is such a one itself, or one of a group
  interrupted_ = std::exchange(current_, {});
  Work work;
  for (int i = 0; i < 64 && find(work); ++i) execute(work);
  current_ = std::exchange(interrupted_, {});
}

void Worker::execute(Work work) {
  if (work.strand == nullptr && pool_.options_.window_ns > 0 && work.task->batchable()) {
    execute_group(work.task);
    return;
  }
  current_ = work;
  if (may_begin(work.task)) end(work.task, run(work.task));
  current_ = {};
  if (work.strand != nullptr) end_strand(work.strand);
}

// Whether it still wants to be run; if not, it has been ended.
bool Worker::may_begin(Task* task) noexcept {
  const bool late = task->deadline != never && now_ns() > task->deadline;
  if (!late && task->begin()) return true;
  if (late) task->finish_waiting(Phase::expired);
  count(task->phase() == Phase::expired ? counters_.expired : counters_.cancelled);
  count(counters_.ended);
  task->release();
  return false;
}

Phase Worker::run(Task* task) {
  const std::uint64_t submitted = task->submitted, begun = submitted != 0 ? ticks() : 0;
  Phase phase = Phase::done;
  try {
    task->run(*this);
  } catch (const abi::__forced_unwind&) {
    throw;  // the thread is ending: see Death
  } catch (...) {
    task->error = std::current_exception();
    phase = Phase::failed;
  }
  if (submitted != 0) {
    const std::uint64_t ended = ticks();
    wait_.add(begun > submitted ? begun - submitted : 0);  // cores may disagree by some ticks
    service_.add(ended - begun);
    count(counters_.busy_ticks, ended - begun);
  }
  return phase;
}

void Worker::end(Task* task, Phase phase) noexcept {
  task->finish_and_release(phase);
  count(phase == Phase::done ? counters_.done : counters_.failed);
  count(counters_.ended);
}

void Worker::end_strand(Strand* strand) noexcept {
  const bool more = strand->done_one();
  pool_.strand_room_.made(INT_MAX);
  if (more)
    pinned_.push(strand);  // behind the other strands
  else
    strand->release();
}

// --- the end, and the books

void Worker::bury() noexcept {
  for (const Work& work : {current_, interrupted_}) {
    if (work.task != nullptr) end(work.task, Phase::lost);
    if (work.strand != nullptr) end_strand(work.strand);
  }
  current_ = interrupted_ = {};
  for (std::size_t i = 0; i < grouped_; ++i)
    if (Task* task = std::exchange(group_[i], nullptr)) {
      // Those after the one that died had not begun, and may have been cancelled meanwhile.
      if (task->begin() || task->phase() == Phase::running) {
        end(task, Phase::lost);
      } else {
        count(counters_.cancelled);
        count(counters_.ended);
        task->release();
      }
    }
  grouped_ = 0;
  if (Task* task = std::exchange(alone_, nullptr))
    if (may_begin(task)) end(task, Phase::lost);
}

void Worker::give_back_strands() noexcept {
  while (ready_ != nullptr) {
    Strand* strand = ready_;
    ready_ = strand->next;
    pinned_.push(strand);
  }
}

WorkerCounts Worker::counts() const noexcept {
  const auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  WorkerCounts counts;
  counts.ended = read(counters_.ended);
  counts.done = read(counters_.done);
  counts.failed = read(counters_.failed);
  counts.cancelled = read(counters_.cancelled);
  counts.expired = read(counters_.expired);
  counts.steals = read(counters_.steals);
  counts.parks = read(counters_.parks);
  counts.groups = read(counters_.groups);
  counts.grouped = read(counters_.grouped);
  counts.busy_ticks = read(counters_.busy_ticks);
  return counts;
}

WorkerCounts& WorkerCounts::operator+=(const WorkerCounts& other) noexcept {
  ended += other.ended;
  done += other.done;
  failed += other.failed;
  cancelled += other.cancelled;
  expired += other.expired;
  steals += other.steals;
  parks += other.parks;
  groups += other.groups;
  grouped += other.grouped;
  busy_ticks += other.busy_ticks;
  return *this;
}

// --- calls run together

// Waits for company while the window is open, but not where none is likely: calls came alone of late, or those that
// came together are all here and no other has followed for some time. Now and then it waits all the same, to see.
std::size_t Worker::collect(Task* first) noexcept {
  const std::size_t most = std::min(pool_.options_.max_batch, max_group);
  const std::int64_t window = pool_.options_.window_ns, begin = now_ns();
  const std::uint64_t pushed = pool_.pushed_to_lanes();
  const auto came = static_cast<double>(std::max<std::uint64_t>(pushed - last_pushed_, 1));
  gap_ns_ += (static_cast<double>(begin - last_group_) / came - gap_ns_) / 4;
  last_pushed_ = pushed;
  last_group_ = begin;
  const bool worth_waiting = company_ > 0.25 || ++groups_ % 256 == 0;
  const auto patience = static_cast<std::int64_t>(4 * gap_ns_);

  std::size_t n = 0;
  group_[n++] = first;
  pool_.idle_.begin_search();  // who submits now need not wake another
  std::int64_t latest = begin;
  for (bool stolen = false; n < most;) {
    if (Task* task = pool_.take_from_lanes(index_, stolen)) {
      if (!task->batchable()) {  // it may be long, and the group is told when all of it has run
        alone_ = task;
        break;
      }
      group_[n++] = task;
      if (worth_waiting) latest = now_ns();
      continue;
    }
    if (!worth_waiting || leaving_.load(std::memory_order_relaxed)) break;
    const std::int64_t now = now_ns();
    if (now - begin >= window || now - latest > patience) break;
    spin_pause();
  }
  found_while_searching();
  company_ += (static_cast<double>(n - 1) - company_) / 8;
  return n;
}

void Worker::execute_group(Task* first) {
  Phase phases[max_group];
  const std::size_t n = grouped_ = collect(first);
  count(counters_.groups);
  count(counters_.grouped, n);
  for (std::size_t i = 0; i < n; ++i) {
    if (may_begin(group_[i]))
      phases[i] = run(group_[i]);
    else
      group_[i] = nullptr;
  }
  for (std::size_t i = 0; i < n; ++i)
    if (Task* task = std::exchange(group_[i], nullptr)) end(task, phases[i]);
  grouped_ = 0;
  if (Task* task = std::exchange(alone_, nullptr)) execute({task, nullptr});
}

}  // namespace dspex
