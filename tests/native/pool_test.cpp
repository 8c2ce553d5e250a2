// The way of a task through the pool: everything accepted ends, once, and in order where order is promised.
#include "pool/pool.hpp"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.hpp"
#include "pool/mailbox.hpp"
#include "pool_tools.hpp"

namespace {

using check::Accept;
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

// How many tasks there are of each phase.
using Phases = std::array<std::uint64_t, 7>;

std::uint64_t of(const Phases& phases, Phase phase) { return phases[static_cast<std::size_t>(phase)]; }

Phases phases_of(const std::vector<Held>& tasks) {
  Phases phases{};
  for (const Held& task : tasks) {
    const Phase phase = task->phase();
    CHECK(dspex::is_final(phase));
    // Whether it ran agrees with how it ended.
    CHECK_EQ(task->runs.load(), phase == Phase::done || phase == Phase::failed || phase == Phase::lost ? 1 : 0);
    CHECK_EQ(task->error != nullptr, phase == Phase::failed);
    phases[static_cast<std::size_t>(phase)] += 1;
  }
  return phases;
}

// The pool's books agree with what became of the tasks.
void check_books(const Pool& pool, const Phases& phases) {
  const PoolStats stats = pool.stats();
  std::uint64_t sum = 0;
  for (const std::uint64_t count : phases) sum += count;
  CHECK_EQ(stats.accepted, sum);
  CHECK_EQ(stats.counts.ended, sum);
  CHECK_EQ(stats.counts.done, of(phases, Phase::done));
  CHECK_EQ(stats.counts.failed, of(phases, Phase::failed) + of(phases, Phase::lost));
  CHECK_EQ(stats.counts.cancelled, of(phases, Phase::cancelled));
  CHECK_EQ(stats.counts.expired, of(phases, Phase::expired));
  CHECK_EQ(stats.queued, 0U);
}

Phases sum_of(const std::vector<Phases>& parts) {
  Phases sum{};
  for (const Phases& part : parts)
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
  return sum;
}

// A strand, for as long as it is in scope.
class HeldStrand {
 public:
  explicit HeldStrand(Pool& pool) : strand_(new Strand(pool.assign_strand())) {}
  HeldStrand(HeldStrand&& other) noexcept : strand_(std::exchange(other.strand_, nullptr)) {}
  ~HeldStrand() {
    if (strand_ != nullptr) strand_->release();
  }
  Strand& operator*() const noexcept { return *strand_; }
  Strand* operator->() const noexcept { return strand_; }

 private:
  Strand* strand_;
};

void must_submit(Pool& pool, const HeldStrand& strand, const Held& task) {
  CHECK_EQ(check::give(task, [&](Task* given) { return pool.submit_within(*strand, given, patience()); }),
           Accept::yes);
}

}  // namespace

TEST(options_that_cannot_be) {
  const auto refused = [](auto change) {
    PoolOptions options;
    change(options);
    CHECK_THROWS(std::invalid_argument, Pool(options));
  };
  refused([](PoolOptions& options) { options.size = 0; });
  refused([](PoolOptions& options) { options.size = 2; });
  refused([](PoolOptions& options) { options.max_size = dspex::IdleSet::max_workers + 1; });
  refused([](PoolOptions& options) { options.capacity = 0; });
  refused([](PoolOptions& options) { options.max_batch = 0; });
}

// One at a time, and each awaited: a lost wake-up would leave one lying for good. Workers sleep at once, or spin
// for about as long as it takes until the next comes.
TEST(no_wake_up_is_lost) {
  for (const std::size_t size : {1, 2, 4})
    for (const std::size_t submitters : {1, 2})  // two help each other out, but meet more often
      for (const std::int64_t spin_ns : {0, 3'000}) {
        PoolOptions options = options_of(size);
        options.spin_ns = spin_ns;
        Pool pool(options);
        check::in_threads(submitters, [&](std::size_t i) {
          Random random(i);
          for (std::size_t round = times(2'000); round > 0; --round) {
            const Held task;
            must_submit(pool, task);
            CHECK(task->wait(patience(), random.one_in(8) ? 0 : 50'000));
            for (std::uint64_t spins = random.below(60); spins > 0; --spins) dspex::spin_pause();
          }
        });
        CHECK(pool.drain(patience()));
      }
  check::check_all_freed();
}

// As many as fit at once, with everybody asleep before: all are begun although only some wake-ups are sent.
TEST(bursts_wake_enough) {
  PoolOptions options = options_of(4, 256);
  options.spin_ns = 0;
  Pool pool(options);
  Random random(1);
  for (std::size_t round = times(1'000); round > 0; --round) {
    std::vector<Held> tasks(1 + random.below(40));
    for (const Held& task : tasks) must_submit(pool, task);
    for (const Held& task : tasks) must_end(task);
    if (random.one_in(2)) check::sleep_us(100);
  }
}

// Tasks that wait for each other need a worker each, wherever the others are on their way to sleep.
TEST(tasks_that_need_each_other) {
  PoolOptions options = options_of(3);
  options.spin_ns = 0;
  Pool pool(options);
  Random random(1);
  for (std::size_t round = times(4'000); round > 0; --round) {
    std::atomic<int> here{0};
    const auto meet = [&here](Worker&) {
      here.fetch_add(1);
      for (const std::int64_t until = patience(); here.load() < 3; sched_yield()) CHECK_LT(now_ns(), until);
    };
    std::vector<Held> tasks;
    for (int i = 0; i < 3; ++i) tasks.emplace_back(meet);
    for (const Held& task : tasks) {
      must_submit(pool, task);
      for (std::uint64_t spins = random.below(30); spins > 0; --spins) dspex::spin_pause();
    }
    for (const Held& task : tasks) must_end(task);
    for (std::uint64_t spins = random.below(100); spins > 0; --spins) dspex::spin_pause();
  }
}

TEST(all_are_accounted_for) {
  for (const std::size_t size : {1, 3})
    for (const std::size_t capacity : {2, 64}) {
      PoolOptions options = options_of(size, capacity);
      options.spin_ns = 2'000;
      Pool pool(options);
      const std::size_t threads = 3, each = times(4'000);
      std::vector<Phases> parts(threads);
      std::atomic<std::uint64_t> refused{0};
      check::in_threads(threads, [&](std::size_t i) {
        Random random(i);
        std::vector<Held> accepted;
        std::vector<HeldStrand> strands;
        for (int n = 0; n < 2; ++n) strands.emplace_back(pool);
        while (accepted.size() < each) {
          const std::uint64_t kind = random.below(8);
          Held task([kind](Worker&) {
            if (kind == 0) throw std::runtime_error("as the test wants it");
            if (kind == 1) throw 7;
            if (kind == 2) check::sleep_us(1);
          });
          task->submitted = dspex::ticks();
          if (random.one_in(6)) task->deadline = now_ns() + static_cast<std::int64_t>(random.below(100'000)) - 10'000;
          const std::int64_t until = random.one_in(2) ? 0 : now_ns() + 200'000;
          const HeldStrand& strand = strands[random.below(2)];
          const bool pinned = random.one_in(3);
          const Accept accept = check::give(task, [&](Task* given) {
            if (pinned) return until == 0 ? pool.submit(*strand, given) : pool.submit_within(*strand, given, until);
            return until == 0 ? pool.submit(given) : pool.submit_within(given, until);
          });
          if (accept != Accept::yes) {
            CHECK_EQ(accept, Accept::full);
            CHECK_EQ(task->phase(), Phase::waiting);
            refused.fetch_add(1);
            sched_yield();
            continue;
          }
          accepted.push_back(std::move(task));
          if (random.one_in(5)) accepted[random.below(accepted.size())]->cancel();
          random.stall();
        }
        for (const Held& task : accepted) must_end(task);
        parts[i] = phases_of(accepted);
      });
      pool.refuse();
      CHECK(pool.drain(patience()));
      check_books(pool, sum_of(parts));
      for (const Phase phase : {Phase::done, Phase::failed, Phase::cancelled, Phase::expired})
        CHECK(of(sum_of(parts), phase) > 0);
      const PoolStats stats = pool.stats();
      std::uint64_t waited = 0;
      for (const std::uint64_t count : stats.wait) waited += count;
      CHECK_EQ(waited, stats.counts.done + stats.counts.failed);
      pool.stop();
      check_books(pool, sum_of(parts));
    }
  check::check_all_freed();
}

TEST(drain_shows_what_tasks_wrote) {
  for (std::size_t round = times(100); round > 0; --round) {
    Pool pool(options_of(2));
    std::vector<int> written(20);  // not atomic: drain alone puts it in order
    for (int& place : written) {
      const Held task([&place](Worker&) { place = 1; });
      must_submit(pool, task);
    }
    pool.refuse();
    CHECK(pool.drain(patience()));
    CHECK_EQ(std::count(written.begin(), written.end(), 1), 20);
  }
}

// --- room

TEST(capacity_holds_over_all_lanes) {
  for (const std::size_t size : {1, 2, 3})
    for (const std::size_t capacity : {1, 2, 3, 7, 8}) {
      Pool pool(options_of(size, capacity));
      Gate gate;
      std::vector<Held> blocking, waiting;
      for (std::size_t i = 0; i < size; ++i) blocking.push_back(check::block(pool, gate));
      for (std::size_t i = 0; i < capacity; ++i) {
        waiting.emplace_back();
        CHECK_EQ(submit(pool, waiting.back()), Accept::yes);
      }
      CHECK_EQ(pool.queued(), capacity);
      const Held more;
      CHECK_EQ(submit(pool, more), Accept::full);
      const std::int64_t deadline = now_ns() + 2'000'000;
      CHECK_EQ(check::give(more, [&](Task* given) { return pool.submit_within(given, deadline); }), Accept::full);
      CHECK_LE(deadline, now_ns());
      gate.open();
      for (const Held& task : waiting) must_end(task);
      CHECK_EQ(more->phase(), Phase::waiting);
    }
}

TEST(capacity_of_a_strand) {
  Pool pool(options_of(1, 4));
  Gate gate;
  const HeldStrand strand(pool);
  const Held blocking = check::block(pool, gate);
  std::vector<Held> waiting(4);
  const auto submit_to_strand = [&](Task* given) { return pool.submit(*strand, given); };
  for (const Held& task : waiting) CHECK_EQ(check::give(task, submit_to_strand), Accept::yes);
  const Held more;
  CHECK_EQ(check::give(more, submit_to_strand), Accept::full);
  const std::int64_t deadline = now_ns() + 2'000'000;
  CHECK_EQ(check::give(more, [&](Task* given) { return pool.submit_within(*strand, given, deadline); }),
           Accept::full);
  CHECK_LE(deadline, now_ns());
  std::thread submitter([&] { must_submit(pool, strand, more); });
  check::sleep_us(2'000);
  gate.open();
  submitter.join();
  must_end(more);
}

TEST(blocked_submitters_all_get_room) {
  for (const std::size_t capacity : {1, 3, 16}) {
    Pool pool(options_of(1, capacity));
    std::vector<Phases> parts(4);
    check::in_threads(4, [&](std::size_t i) {
      Random random(i);
      std::vector<Held> tasks;
      for (std::size_t n = times(500); n > 0; --n) {
        tasks.emplace_back([&](Worker&) {
          for (int spins = 0; spins < 20; ++spins) dspex::spin_pause();
        });
        must_submit(pool, tasks.back());
        random.stall();
      }
      for (const Held& task : tasks) must_end(task);
      parts[i] = phases_of(tasks);
    });
    CHECK(pool.drain(patience()));
    check_books(pool, sum_of(parts));
    CHECK_EQ(of(sum_of(parts), Phase::done), 4 * times(500));
  }
}

TEST(refusal_frees_blocked_submitters) {
  Pool pool(options_of(1, 1));
  Gate gate;
  const Held blocking = check::block(pool, gate);
  const HeldStrand strand(pool);
  const Held waiting, waiting_in_strand;
  must_submit(pool, waiting);
  must_submit(pool, strand, waiting_in_strand);
  std::atomic<int> refused{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      const Held task;
      const Accept accept = check::give(task, [&](Task* given) {
        return i % 2 == 0 ? pool.submit_within(given, dspex::never) : pool.submit_within(*strand, given, dspex::never);
      });
      CHECK_EQ(accept, Accept::closed);
      refused.fetch_add(1);
    });
  check::sleep_us(3'000);
  CHECK_EQ(refused.load(), 0);
  pool.refuse();
  for (std::thread& thread : threads) thread.join();
  CHECK(!pool.open());
  gate.open();
  CHECK(pool.drain(patience()));  // what was accepted before is still done
  CHECK_EQ(waiting->phase(), Phase::done);
  CHECK_EQ(waiting_in_strand->phase(), Phase::done);
}

// --- strands

namespace {

// Whatever else happens, the tasks of each strand run one at a time and in the order of their submission.
void submit_in_order(Pool& pool, std::size_t strands, std::size_t each, std::atomic<bool>& over) {
  struct Line {
    std::size_t next = 0;  // not atomic: one task at a time
  };
  check::in_threads(2, [&](std::size_t i) {
    Random random(i);
    std::vector<HeldStrand> own;
    std::vector<Line> lines(strands);
    std::vector<std::size_t> given(strands);
    std::vector<Held> tasks;
    for (std::size_t n = 0; n < strands; ++n) own.emplace_back(pool);
    for (std::size_t n = 0; n < each; ++n) {
      const std::size_t which = random.below(strands);
      const std::size_t number = given[which]++;
      Line& line = lines[which];
      const bool throws = random.one_in(50), stalls = random.one_in(20);
      tasks.emplace_back([&line, number, throws, stalls](Worker&) {
        CHECK_EQ(line.next, number);
        if (stalls) sched_yield();
        CHECK_EQ(line.next++, number);
        if (throws) throw 1;
      });
      must_submit(pool, own[which], tasks.back());
      random.stall();
    }
    for (const Held& task : tasks) must_end(task);
    for (std::size_t n = 0; n < strands; ++n) CHECK_EQ(lines[n].next, given[n]);
  });
  over.store(true);
}

}  // namespace

TEST(strands_keep_order) {
  for (const std::size_t size : {1, 3}) {
    PoolOptions options = options_of(size, 32);
    options.spin_ns = 1'000;
    Pool pool(options);
    std::atomic<bool> over{false};
    submit_in_order(pool, 5, times(6'000), over);
  }
}

TEST(strands_keep_order_while_workers_change) {
  PoolOptions options = options_of(2, 32);
  options.spin_ns = 1'000;
  Pool pool(options);
  std::atomic<bool> over{false};
  std::thread resizer([&] {
    Random random(9);
    while (!over.load()) {
      const std::size_t size = 1 + random.below(4);
      pool.resize(size, size + random.below(2));
      check::sleep_us(static_cast<long>(random.below(300)));
    }
  });
  std::thread killer([&] {
    while (!over.load()) {
      const Held task([](Worker&) { pthread_exit(nullptr); });
      must_submit(pool, task);
      must_end(task);
      CHECK_EQ(task->phase(), Phase::lost);
      check::sleep_us(1'000);
    }
  });
  submit_in_order(pool, 5, times(6'000), over);
  resizer.join();
  killer.join();
  const PoolStats stats = pool.stats();
  CHECK(stats.deaths > 0);
  CHECK(stats.retired > 0);
  pool.stop();
  const PoolStats after = pool.stats();
  CHECK_EQ(after.accepted, after.counts.ended);
  CHECK_EQ(after.started, after.retired + after.deaths);
}

// --- micro-batches

TEST(calls_that_came_together_are_one_group) {
  PoolOptions options = options_of(1);
  options.window_ns = 100'000;
  options.max_batch = 16;
  Pool pool(options);
  Gate gate;
  const Held blocking = check::block(pool, gate);
  std::vector<Held> tasks;
  for (int i = 0; i < 40; ++i) {
    tasks.emplace_back([i](Worker&) { if (i == 3) throw 1; }, true);
    must_submit(pool, tasks.back());
  }
  tasks[5]->cancel();
  tasks[6]->deadline = now_ns();
  gate.open();
  for (const Held& task : tasks) must_end(task);
  must_end(blocking);
  CHECK(pool.drain(patience()));
  const PoolStats stats = pool.stats();
  CHECK_EQ(stats.counts.groups, 3U);
  CHECK_EQ(stats.counts.grouped, 40U);
  Phases phases = phases_of(tasks);
  CHECK_EQ(of(phases, Phase::done), 37U);
  CHECK_EQ(tasks[3]->phase(), Phase::failed);
  CHECK_EQ(tasks[5]->phase(), Phase::cancelled);
  CHECK_EQ(tasks[6]->phase(), Phase::expired);
  phases[static_cast<std::size_t>(Phase::done)] += 1;
  check_books(pool, phases);
}

TEST(a_window_gathers_calls_that_come_often) {
  PoolOptions options = options_of(2);
  options.window_ns = 300'000;
  Pool pool(options);
  std::vector<Phases> parts(4);
  const std::size_t each = times(1'500);
  check::in_threads(4, [&](std::size_t i) {
    Random random(i);
    std::vector<Held> tasks;
    for (std::size_t n = 0; n < each; ++n) {
      tasks.emplace_back([](Worker&) {}, !random.one_in(10));
      must_submit(pool, tasks.back());
      if (random.one_in(6)) tasks[random.below(tasks.size())]->cancel();
      if (random.one_in(4)) must_end(tasks.back());
    }
    for (const Held& task : tasks) must_end(task);
    parts[i] = phases_of(tasks);
  });
  CHECK(pool.drain(patience()));
  check_books(pool, sum_of(parts));
  const dspex::WorkerCounts counts = pool.stats().counts;
  CHECK(counts.groups > 0);
  CHECK_LT(counts.groups * 2, counts.grouped);
}

// --- tasks that give way

TEST(a_long_task_lets_others_run) {
  for (const std::int64_t window_ns : {0, 100'000})
    for (const bool in_strand : {false, true}) {
      PoolOptions options = options_of(1);
      options.window_ns = window_ns;
      Pool pool(options);
      const HeldStrand strand(pool), other(pool);
      Gate gate;
      std::vector<Held> tasks;
      for (int i = 0; i < 10; ++i)
        tasks.emplace_back([](Worker& worker) { worker.let_others_run(); }, i % 2 == 0);  // not nested any deeper
      const Held longer([&](Worker& worker) {
        gate.pass();
        for (int i = 0; i < 3; ++i) worker.let_others_run();
        for (std::size_t i = 0; i < tasks.size(); ++i)
          CHECK_EQ(tasks[i]->phase(), i == 9 && in_strand ? Phase::waiting : Phase::done);
      });
      if (in_strand)
        must_submit(pool, strand, longer);
      else
        must_submit(pool, longer);
      CHECK(check::comes_true([&] { return gate.somebody_waits(); }));
      for (std::size_t i = 0; i < tasks.size(); ++i) {
        if (i == 8)
          must_submit(pool, other, tasks[i]);
        else if (i == 9 && in_strand)
          must_submit(pool, strand, tasks[i]);  // comes after the one that gives way
        else
          must_submit(pool, tasks[i]);
      }
      gate.open();
      must_end(longer);
      for (const Held& task : tasks) must_end(task);
      for (const Held& task : tasks) CHECK_EQ(task->phase(), Phase::done);
    }
  check::check_all_freed();
}

TEST(a_task_of_a_group_lets_others_run) {
  PoolOptions options = options_of(1);
  options.window_ns = 100'000;
  options.max_batch = 4;
  Pool pool(options);
  Gate gate;
  const Held blocking = check::block(pool, gate);
  std::vector<Held> tasks;
  for (int i = 0; i < 40; ++i) {
    tasks.emplace_back([](Worker& worker) { worker.let_others_run(); }, true);
    must_submit(pool, tasks.back());
  }
  gate.open();
  for (const Held& task : tasks) must_end(task);
  CHECK_EQ(of(phases_of(tasks), Phase::done), 40U);
}

// --- a mailbox for many

TEST(every_listener_hears_of_its_task) {
  Pool pool(options_of(2));
  auto* mailbox = new dspex::Mailbox(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  std::atomic<std::size_t> expected{0};
  std::atomic<bool> over{false};
  std::thread reader([&] {
    std::size_t letters = 0;
    const std::int64_t until = patience();
    while (!over.load() || letters < expected.load()) {
      for (Task* letter = mailbox->take_all(); letter != nullptr; ++letters) {
        CHECK(letter->finished());
        Task* next = letter->next_letter;
        letter->release();
        letter = next;
      }
      sched_yield();
      CHECK_LT(now_ns(), until);
    }
    CHECK_EQ(letters, expected.load());
  });
  check::in_threads(2, [&](std::size_t i) {
    Random random(i);
    for (std::size_t n = times(2'000); n > 0; --n) {
      const Held task;
      const bool early = random.one_in(2);
      if (early) CHECK(task->listen(mailbox));
      must_submit(pool, task);
      if (early || task->listen(mailbox)) expected.fetch_add(1);
      if (random.one_in(4)) task->cancel();
      random.stall();
    }
  });
  CHECK(pool.drain(patience()));
  over.store(true);
  reader.join();
  mailbox->release();
  check::check_all_freed();
}

// A cancelled task is in the mailbox while its strand still has it.
TEST(letters_of_tasks_that_wait_in_strands) {
  Pool pool(options_of(1));
  auto* mailbox = new dspex::Mailbox(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  const HeldStrand strand(pool);
  for (std::size_t round = times(50); round > 0; --round) {
    Gate gate;
    const Held blocking = check::block(pool, gate);
    std::vector<Held> tasks(20);
    for (const Held& task : tasks) {
      CHECK(task->listen(mailbox));
      must_submit(pool, strand, task);
    }
    for (std::size_t i = 0; i < tasks.size(); i += 3) CHECK(tasks[i]->cancel());
    gate.open();
    std::size_t letters = 0;
    for (const std::int64_t until = patience(); letters < tasks.size(); sched_yield()) {
      CHECK_LT(now_ns(), until);
      for (Task* letter = mailbox->take_all(); letter != nullptr; ++letters) {
        Task* next = letter->next_letter;
        letter->release();
        letter = next;
      }
    }
    for (std::size_t i = 0; i < tasks.size(); ++i)
      CHECK_EQ(tasks[i]->phase(), i % 3 == 0 ? Phase::cancelled : Phase::done);
  }
  CHECK(pool.drain(patience()));
  CHECK(mailbox->take_all() == nullptr);
  mailbox->release();
  check::check_all_freed();
}

int main(int argc, char** argv) { return check::main(argc, argv); }
