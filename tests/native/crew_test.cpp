// The coming and going of workers: resizing, overflow, death, fork, the end. Link with --wrap=pthread_create.
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "check.hpp"
#include "pool/mailbox.hpp"
#include "pool/pool.hpp"
#include "pool_tools.hpp"

namespace {

using check::Accept;
using check::comes_true;
using check::Gate;
using check::Held;
using check::must_end;
using check::must_submit;
using check::options_of;
using check::patience;
using check::Pool;
using check::PoolOptions;
using check::Random;
using check::submit;
using check::Task;
using check::TestTask;
using check::times;
using check::Worker;
using dspex::now_ns;
using dspex::Phase;
using dspex::PoolStats;
using dspex::Strand;

// How many threads pools may still start, and what is called in place of the next.
std::atomic<int> threads_left{INT_MAX};
std::function<void()> instead_of_a_thread = [] {};

// The threads of pools, which have given themselves names; a sanitizer has threads of its own.
std::size_t threads() {
  std::size_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    count += name.starts_with("dspex-");
  }
  return count;
}

std::size_t descriptors() {
  const std::filesystem::directory_iterator open("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(open), end(open)));
}

void check_stopped(Pool& pool) {
  pool.stop();
  const PoolStats stats = pool.stats();
  CHECK_EQ(stats.accepted, stats.counts.ended);
  CHECK_EQ(stats.counts.ended,
           stats.counts.done + stats.counts.failed + stats.counts.cancelled + stats.counts.expired);
  CHECK_EQ(stats.started, stats.retired + stats.deaths);
  CHECK_EQ(stats.workers, 0U);
  CHECK_EQ(stats.queued, 0U);
}

// Submits from two threads and awaits everything, until `over`.
std::thread load_on(Pool& pool, std::atomic<bool>& over) {
  return std::thread([&pool, &over] {
    check::in_threads(2, [&](std::size_t i) {
      Random random(i);
      auto* strand = new Strand(pool.assign_strand());
      while (!over.load()) {
        std::vector<Held> tasks(1 + random.below(20));
        for (const Held& task : tasks)
          CHECK_EQ(check::give(task, [&](Task* given) {
            return random.one_in(4) ? pool.submit_within(*strand, given, patience())
                                    : pool.submit_within(given, patience());
          }), Accept::yes);
        for (const Held& task : tasks) {
          must_end(task);
          CHECK_EQ(task->phase(), Phase::done);
        }
        random.stall();
      }
      strand->release();
    });
  });
}

Held killer() {
  return Held([](Worker&) { pthread_exit(nullptr); });
}

}  // namespace

extern "C" {
int __real_pthread_create(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
int __wrap_pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*begin)(void*), void* argument) {
  if (threads_left.fetch_sub(1) > 0) return __real_pthread_create(thread, attributes, begin, argument);
  instead_of_a_thread();
  return EAGAIN;
}
}

// --- resizing

TEST(resize_under_load) {
  PoolOptions options = options_of(2, 64);
  options.spin_ns = 1'000;
  Pool pool(options);
  std::atomic<bool> over{false};
  std::thread load = load_on(pool, over);
  Random random(5);
  for (std::size_t n = times(400); n > 0; --n) {
    const std::size_t size = 1 + random.below(6);
    pool.resize(size, size);
    CHECK_EQ(pool.size(), size);
    if (random.one_in(4)) check::sleep_us(static_cast<long>(random.below(500)));
    if (random.one_in(10)) CHECK(comes_true([&] { return pool.workers() == size; }));
  }
  over.store(true);
  load.join();
  check_stopped(pool);
  CHECK(pool.stats().retired > 6);
}

TEST(resize_of_a_sleeping_pool) {
  PoolOptions options = options_of(4);
  options.spin_ns = 0;
  Pool pool(options);
  for (const std::size_t size : {1, 8, 3, 4, 1, 2}) {
    CHECK(comes_true([&] { return pool.stats().parked == pool.workers(); }));
    pool.resize(size, size);
    CHECK(comes_true([&] { return pool.workers() == size && threads() == size; }));
    const Held task;
    must_submit(pool, task);
    must_end(task);
  }
  CHECK_THROWS(std::invalid_argument, (pool.resize(0, 1), 0));
  CHECK_THROWS(std::invalid_argument, (pool.resize(2, 1), 0));
  CHECK_THROWS(std::invalid_argument, (pool.resize(1, dspex::IdleSet::max_workers + 1), 0));
  CHECK_EQ(pool.workers(), 2U);
  pool.refuse();
  pool.resize(4, 4);  // too late
  CHECK_EQ(pool.workers(), 2U);
}

TEST(overflow_workers_come_and_go) {
  PoolOptions options = options_of(1, 64);
  options.max_size = 4;
  options.grow_ns = 10'000;
  options.idle_ns = 2'000'000;
  Pool pool(options);
  for (std::size_t round = times(5); round > 0; --round) {
    Gate gate;
    std::vector<Held> blocking;
    const std::int64_t until = patience();
    while (pool.workers() < 4) {  // each blocks a worker until there are enough of them
      blocking.emplace_back([&gate](Worker&) { gate.pass(); });
      if (submit(pool, blocking.back()) != Accept::yes) blocking.pop_back();
      check::sleep_us(50);
      CHECK_LT(now_ns(), until);
    }
    check::sleep_us(1'000);
    CHECK_EQ(pool.workers(), 4U);
    gate.open();
    for (const Held& task : blocking) must_end(task);
    CHECK(comes_true([&] { return pool.workers() == 1; }));
  }
  std::atomic<bool> over{false};
  std::thread load = load_on(pool, over);
  check::sleep_us(static_cast<long>(times(50'000)));
  over.store(true);
  load.join();
  CHECK(pool.stats().retired >= 3);
  check_stopped(pool);
}

// A worker that looks for work will take the task: no need of another.
TEST(overflow_workers_do_not_come_for_one_task_at_a_time) {
  PoolOptions options = options_of(1, 64);
  options.max_size = 4;
  options.grow_ns = 0;
  options.spin_ns = 100'000;
  Pool pool(options);
  std::size_t most = 0;
  for (std::size_t n = times(2'000); n > 0; --n) {
    const Held task;
    must_submit(pool, task);
    must_end(task);
    most = std::max(most, pool.workers());
  }
  CHECK_EQ(most, 1U);
}

TEST(a_surplus_worker_stays_when_it_is_wanted) {
  PoolOptions options = options_of(1, 64);
  options.max_size = 2;
  options.grow_ns = 0;
  options.idle_ns = 1'000'000;
  Pool pool(options);
  std::atomic<bool> over{false};
  std::thread load = load_on(pool, over);
  for (std::size_t n = times(60); n > 0; --n) {
    pool.resize(2, 2);
    check::sleep_us(700);
    pool.resize(1, 2);
    check::sleep_us(1'300);
  }
  pool.resize(2, 2);
  over.store(true);
  load.join();
  CHECK(comes_true([&] { return pool.workers() == 2; }));
  check::sleep_us(5'000);
  CHECK_EQ(pool.workers(), 2U);
  check_stopped(pool);
}

// A worker that has been asked to go and is wanted again before it is gone.
TEST(resize_down_and_up_again) {
  PoolOptions options = options_of(2);
  options.spin_ns = 0;
  options.idle_ns = 100'000;
  Pool pool(options);
  Random random(3);
  for (std::size_t round = times(600); round > 0; --round) {
    CHECK(comes_true([&] { return pool.stats().parked == 2; }));
    pool.resize(1, 1 + round % 2);  // at once, or when it has been idle for so long
    const std::uint64_t pause = random.below(round % 2 == 0 ? 60'000 : 200'000);
    for (const std::int64_t until = now_ns() + static_cast<std::int64_t>(pause); now_ns() < until;) dspex::spin_pause();
    pool.resize(2, 2);
  }
  CHECK(comes_true([&] { return pool.stats().parked == 2; }));
  check_stopped(pool);
}

TEST(strands_of_a_leaving_worker_go_on) {
  Pool pool(options_of(2));
  Gate gate;
  const Held blocking([&gate](Worker&) { gate.pass(); });
  std::vector<Strand*> strands;
  std::vector<Held> tasks(20);
  for (std::size_t i = 0; i < 11; ++i) strands.push_back(new Strand(1));
  const auto submit_to = [&](Strand* strand, const Held& task) {
    CHECK_EQ(check::give(task, [&](Task* given) { return pool.submit(*strand, given); }), Accept::yes);
  };
  submit_to(strands[10], blocking);
  CHECK(comes_true([&] { return gate.somebody_waits(); }));
  for (std::size_t i = 0; i < 20; ++i) submit_to(strands[i % 10], tasks[i]);
  pool.resize(1, 1);
  check::sleep_us(1'000);
  for (const Held& task : tasks) CHECK_EQ(task->phase(), Phase::waiting);
  gate.open();
  for (const Held& task : tasks) must_end(task);
  CHECK(comes_true([&] { return pool.workers() == 1; }));
  for (Strand* strand : strands) {
    const Held task;
    submit_to(strand, task);
    must_end(task);
    CHECK_EQ(strand->worker(), 0U);
    strand->release();
  }
  check_stopped(pool);
}

// Strands that are handed to a worker while it goes.
TEST(strands_meet_a_leaving_worker) {
  Pool pool(options_of(1));
  check::Barrier barrier(2);
  check::in_threads(2, [&](std::size_t i) {
    Random random(i);
    for (std::size_t round = times(300); round > 0; --round) {
      if (i == 0) pool.resize(2, 2);
      barrier.meet();
      if (i == 0) {
        for (std::uint64_t spins = random.below(200); spins > 0; --spins) dspex::spin_pause();
        pool.resize(1, 1);
      } else {
        std::vector<Held> tasks(100);
        for (const Held& task : tasks) {
          auto* strand = new Strand(1);
          CHECK_EQ(check::give(task, [&](Task* given) { return pool.submit(*strand, given); }), Accept::yes);
          strand->release();
        }
        for (const Held& task : tasks) must_end(task);
      }
      barrier.meet();
    }
  });
  check_stopped(pool);
}

// --- death

TEST(a_dead_worker_is_replaced) {
  Pool pool(options_of(2));
  auto* mailbox = new dspex::Mailbox(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  std::size_t letters = 0;
  const std::size_t rounds = times(20);
  std::vector<Held> others;
  for (std::size_t n = 0; n < rounds; ++n) {
    const Held task = killer();
    CHECK(task->listen(mailbox));
    must_submit(pool, task);
    others.emplace_back();
    must_submit(pool, others.back());
    must_end(task);
    CHECK_EQ(task->phase(), Phase::lost);
  }
  for (const Held& task : others) {
    must_end(task);
    CHECK_EQ(task->phase(), Phase::done);
  }
  CHECK(comes_true([&] { return pool.stats().deaths == rounds && pool.workers() == 2; }));
  CHECK(comes_true([] { return threads() == 2; }));
  for (Task* letter = mailbox->take_all(); letter != nullptr; ++letters) {
    Task* next = letter->next_letter;
    letter->release();
    letter = next;
  }
  CHECK_EQ(letters, rounds);
  mailbox->release();
  check_stopped(pool);
  CHECK_EQ(pool.stats().counts.failed, rounds);
}

TEST(a_death_in_a_strand_loses_one_task) {
  Pool pool(options_of(1));
  auto* strand = new Strand(pool.assign_strand());
  Gate gate;
  const Held blocking = check::block(pool, gate);
  std::vector<Held> tasks;
  int next = 0;
  for (int i = 0; i < 30; ++i) {
    tasks.emplace_back([&next, i](Worker&) {
      CHECK_EQ(next++, i);
      if (i % 10 == 5) pthread_exit(nullptr);
    });
    CHECK_EQ(check::give(tasks.back(), [&](Task* given) { return pool.submit(*strand, given); }), Accept::yes);
  }
  gate.open();
  for (const Held& task : tasks) must_end(task);
  for (std::size_t i = 0; i < 30; ++i) CHECK_EQ(tasks[i]->phase(), i % 10 == 5 ? Phase::lost : Phase::done);
  strand->release();
  check_stopped(pool);
}

TEST(a_death_while_another_gives_way_loses_both) {
  Pool pool(options_of(1));
  Gate gate;
  const Held longer([&gate](Worker& worker) {
    gate.pass();
    worker.let_others_run();
  });
  must_submit(pool, longer);
  const Held dies = killer(), after;
  must_submit(pool, dies);
  must_submit(pool, after);
  gate.open();
  must_end(after);
  CHECK_EQ(after->phase(), Phase::done);
  CHECK_EQ(dies->phase(), Phase::lost);
  CHECK_EQ(longer->phase(), Phase::lost);
  check_stopped(pool);
}

// All of a group that has not ended is lost, but what was cancelled stays cancelled and is told of once.
TEST(a_death_in_a_group) {
  PoolOptions options = options_of(1);
  options.window_ns = 100'000;
  Pool pool(options);
  auto* mailbox = new dspex::Mailbox(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  Gate gate;
  const Held blocking = check::block(pool, gate);
  std::vector<Held> tasks;
  const auto cancel_the_last = [&tasks](Worker&) {
    CHECK(tasks.back()->cancel());
    pthread_exit(nullptr);
  };
  tasks.emplace_back([](Worker&) {}, true);
  tasks.emplace_back(cancel_the_last, true);
  tasks.emplace_back([](Worker&) {}, true);
  tasks.emplace_back([](Worker&) {}, true);
  for (const Held& task : tasks) {
    CHECK(task->listen(mailbox));
    must_submit(pool, task);
  }
  gate.open();
  for (const Held& task : tasks) must_end(task);
  const Held after;
  must_submit(pool, after);
  must_end(after);
  for (std::size_t i = 0; i < 3; ++i) CHECK_EQ(tasks[i]->phase(), Phase::lost);
  CHECK_EQ(tasks[3]->phase(), Phase::cancelled);
  std::size_t letters = 0;
  for (Task* letter = mailbox->take_all(); letter != nullptr && letters < 10; ++letters) {
    Task* next = letter->next_letter;
    letter->release();
    letter = next;
  }
  CHECK_EQ(letters, 4U);
  mailbox->release();
  check_stopped(pool);
  const PoolStats stats = pool.stats();
  CHECK_EQ(stats.counts.failed, 3U);
  CHECK_EQ(stats.counts.cancelled, 1U);
}

// --- no more threads to be had

TEST(a_pool_that_cannot_start) {
  for (int allowed = 0; allowed < 3; ++allowed) {
    threads_left.store(allowed);
    CHECK_THROWS(std::system_error, Pool(options_of(3)));
    CHECK(comes_true([] { return threads() == 0; }));
  }
  threads_left.store(INT_MAX);
}

TEST(a_resize_that_finds_no_thread) {
  Pool pool(options_of(1));
  auto* strand = new Strand(0);
  const Held task;
  instead_of_a_thread = [&] {  // a strand is given to the worker that is about to come
    strand->move_to(1);
    CHECK_EQ(check::give(task, [&](Task* given) { return pool.submit(*strand, given); }), Accept::yes);
  };
  threads_left.store(0);
  CHECK_THROWS(std::system_error, (pool.resize(2, 2), 0));
  instead_of_a_thread = [] {};
  threads_left.store(INT_MAX);
  CHECK(task->wait(now_ns() + 5'000'000'000, 0));
  CHECK_EQ(pool.workers(), 1U);
  pool.resize(2, 2);
  CHECK_EQ(pool.workers(), 2U);
  strand->release();
  check_stopped(pool);
}

TEST(a_pool_without_workers_recovers) {
  Pool pool(options_of(1));
  auto* strand = new Strand(pool.assign_strand());
  threads_left.store(0);
  const Held dies = killer(), left, left_in_strand, next;
  must_submit(pool, dies);
  must_end(dies);
  CHECK(comes_true([&] { return threads_left.load() < 0 && pool.workers() == 0; }));
  must_submit(pool, left);
  CHECK_EQ(check::give(left_in_strand, [&](Task* given) { return pool.submit(*strand, given); }), Accept::yes);
  check::sleep_us(1'000);
  CHECK_EQ(left->phase(), Phase::waiting);
  threads_left.store(INT_MAX);
  must_submit(pool, next);
  must_end(left);
  must_end(left_in_strand);
  must_end(next);
  CHECK_EQ(pool.workers(), 1U);
  strand->release();
  check_stopped(pool);
}

// --- the end

TEST(stop_cancels_what_waits) {
  for (const std::size_t size : {1, 2}) {
    Pool pool(options_of(size));
    auto* strand = new Strand(pool.assign_strand());
    Gate gate;
    std::vector<Held> blocking, waiting(50);
    for (std::size_t i = 0; i < size; ++i) blocking.push_back(check::block(pool, gate));
    for (std::size_t i = 0; i < waiting.size(); ++i)
      CHECK_EQ(check::give(waiting[i], [&](Task* given) {
        return i % 3 == 0 ? pool.submit(*strand, given) : pool.submit(given);
      }), Accept::yes);
    std::thread stopper([&pool] { pool.stop(); });
    CHECK(comes_true([&] { return !pool.open(); }));
    check::sleep_us(20'000);
    gate.open();
    stopper.join();
    for (const Held& task : waiting) CHECK_EQ(task->phase(), Phase::cancelled);
    for (const Held& task : blocking) CHECK_EQ(task->phase(), Phase::done);
    const Held late;
    CHECK_EQ(submit(pool, late), Accept::closed);
    CHECK_EQ(check::give(late, [&](Task* given) { return pool.submit(*strand, given); }), Accept::closed);
    strand->release();
    check_stopped(pool);  // a second time
  }
}

// A running task may wait for one that is not begun any more.
TEST(stop_cancels_before_it_joins) {
  Pool pool(options_of(1));
  const Held waiting;
  const Held running([&waiting](Worker&) { waiting->wait(now_ns() + 5'000'000'000, 0); });
  must_submit(pool, running);
  CHECK(comes_true([&] { return running->phase() == Phase::running; }));
  must_submit(pool, waiting);
  const std::int64_t begin = now_ns();
  pool.stop();
  CHECK_LT(now_ns() - begin, 4'000'000'000);
  CHECK_EQ(waiting->phase(), Phase::cancelled);
}

TEST(submit_against_stop) {
  for (std::size_t round = times(300); round > 0; --round) {
    Random random(round);
    PoolOptions options = options_of(1 + random.below(3), 1 + random.below(8));
    options.spin_ns = random.one_in(2) ? 0 : 5'000;
    options.max_size = options.size + random.below(2);
    options.grow_ns = 0;
    Pool pool(options);
    check::in_threads(3, [&](std::size_t i) {
      Random stalls(3 * round + i);
      if (i == 0) {
        check::sleep_us(static_cast<long>(stalls.below(300)));
        pool.stop();
        return;
      }
      auto* strand = new Strand(pool.assign_strand());
      std::vector<Held> accepted;
      for (;;) {
        Held task;
        const Accept accept = check::give(task, [&](Task* given) {
          switch (stalls.below(4)) {
            case 0: return pool.submit(given);
            case 1: return pool.submit(*strand, given);
            case 2: return pool.submit_within(*strand, given, dspex::never);
            default: return pool.submit_within(given, dspex::never);
          }
        });
        if (accept == Accept::closed) break;
        CHECK(accept == Accept::yes || accept == Accept::full);
        if (accept == Accept::yes) accepted.push_back(std::move(task));
        stalls.stall();
      }
      for (const Held& task : accepted) {
        must_end(task);
        CHECK(task->phase() == Phase::done || task->phase() == Phase::cancelled);
      }
      strand->release();
    });
    check_stopped(pool);
  }
  check::check_all_freed();
}

TEST(drain_gives_up_at_its_deadline) {
  Pool pool(options_of(1));
  Gate gate;
  const Held blocking = check::block(pool, gate);
  pool.refuse();
  const std::int64_t deadline = now_ns() + 3'000'000;
  CHECK(!pool.drain(deadline));
  CHECK_LE(deadline, now_ns());
  gate.open();
  CHECK(pool.drain(dspex::never));
}

TEST(nothing_is_left_behind) {
  { const Pool first(options_of(1)); }  // what is made once a process is made now
  const std::size_t descriptors_before = descriptors();
  for (std::size_t round = times(200); round > 0; --round) {
    PoolOptions options = options_of(1 + round % 3);
    options.pin = round % 5 == 0;
    Pool pool(options);
    const Held first, second;
    must_submit(pool, first);
    must_submit(pool, second);
    if (round % 2 == 0) must_end(first);
    if (round % 4 == 0) pool.stop();
  }
  CHECK(comes_true([] { return threads() == 0; }));
  CHECK_EQ(descriptors(), descriptors_before);
  check::check_all_freed();
}

// --- options at their limits

TEST(times_without_end) {
  PoolOptions options = options_of(1);
  options.max_size = 2;
  options.grow_ns = 0;
  options.idle_ns = dspex::never;
  options.spin_ns = dspex::never;
  Pool pool(options);
  pool.resize(1, 2);
  Gate gate;
  const Held blocking = check::block(pool, gate);
  std::vector<Held> tasks(3);
  for (const Held& task : tasks) must_submit(pool, task);
  for (const Held& task : tasks) CHECK(task->wait(patience(), dspex::never));
  CHECK_EQ(pool.workers(), 2U);
  gate.open();
  check_stopped(pool);
}

// --- fork

TEST(a_forked_child_has_no_workers) {
  Pool pool(options_of(2));
  Gate gate;
  std::vector<Held> tasks;
  tasks.push_back(check::block(pool, gate));
  tasks.push_back(check::block(pool, gate));
  for (int i = 0; i < 5; ++i) {
    tasks.emplace_back();
    must_submit(pool, tasks.back());
  }
  std::atomic<bool> over{false};
  std::thread resizer([&] {  // holds the pool's mutex most of the time, and allocates nothing
    while (!over.load()) pool.resize(2, 2);
  });
  for (std::size_t round = times(20); round > 0; --round) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(10);  // ends a child that hangs
      auto* strand = new Strand(0);
      auto* task = new TestTask;
      const bool as_it_should =
          pool.stale() && pool.submit(task) == Accept::stale && pool.submit(*strand, task) == Accept::stale &&
          pool.submit_within(task, dspex::never) == Accept::stale &&
          pool.submit_within(*strand, task, dspex::never) == Accept::stale && !pool.drain(dspex::never);
      pool.resize(3, 3);
      pool.stats();
      pool.refuse();
      pool.stop();
      pool.~Pool();
      _exit(as_it_should ? 0 : 1);
    }
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
  }
  over.store(true);
  resizer.join();
  CHECK(!pool.stale());
  gate.open();
  for (const Held& task : tasks) must_end(task);
  check_stopped(pool);
}

int main(int argc, char** argv) { return check::main(argc, argv); }
