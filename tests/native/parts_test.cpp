// The parts below the pool: stack, histogram, idle set, task, mailbox, strand.
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <vector>

#include "check.hpp"
#include "pool/histogram.hpp"
#include "pool/idle.hpp"
#include "pool/mailbox.hpp"
#include "pool/queue.hpp"
#include "pool/stack.hpp"
#include "pool/strand.hpp"
#include "pool/task.hpp"
#include "pool_tools.hpp"

namespace {

using check::Barrier;
using check::Held;
using check::patience;
using check::Random;
using check::TestTask;
using check::times;
using dspex::BoundedQueue;
using dspex::Histogram;
using dspex::IdleSet;
using dspex::Mailbox;
using dspex::now_ns;
using dspex::Phase;
using dspex::Strand;
using dspex::TakeAllStack;
using dspex::Task;

struct Plate {
  std::size_t owner = 0, number = 0;
  Plate* below = nullptr;
};

}  // namespace

// --- stack

TEST(stack_gives_all_once_and_in_order) {
  TakeAllStack<Plate, &Plate::below> stack;
  CHECK(stack.empty());
  CHECK(stack.take_all() == nullptr);
  const std::size_t each = times(20'000), owners = 3;
  std::vector<Plate> plates(owners * each);
  std::atomic<std::size_t> first_pushes{0};
  std::size_t taken = 0, batches = 0, next[owners] = {};
  check::in_threads(owners + 1, [&](std::size_t i) {
    Random random(i);
    if (i < owners) {
      for (std::size_t number = 0; number < each; ++number) {
        Plate& plate = plates[i * each + number];
        plate.owner = i;
        plate.number = number;
        if (stack.push(&plate)) first_pushes.fetch_add(1, std::memory_order_relaxed);
        random.stall();
      }
      return;
    }
    while (taken < plates.size()) {
      Plate* plate = stack.take_all();
      if (plate == nullptr)
        sched_yield();
      else
        ++batches;
      for (; plate != nullptr; plate = plate->below, ++taken) CHECK_EQ(plate->number, next[plate->owner]++);
      random.stall();
    }
  });
  CHECK(stack.empty());
  CHECK_EQ(first_pushes.load(), batches);  // each batch was announced once
}

// --- histogram

TEST(histogram_buckets_are_narrow) {
  std::vector<std::uint64_t> values;
  for (unsigned bit = 0; bit < 64; ++bit)
    for (std::int64_t off : {-2, -1, 0, 1, 2, 3})
      values.push_back((std::uint64_t{1} << bit) + static_cast<std::uint64_t>(off));
  Random random(1);
  for (int i = 0; i < 10'000; ++i) values.push_back(random() >> random.below(64));
  const std::uint64_t limit = std::uint64_t{1} << Histogram::top_bit;
  for (const std::uint64_t value : values) {
    const std::size_t bucket = Histogram::bucket_of(value);
    CHECK_LT(bucket, std::size_t{Histogram::buckets});
    if (value >= limit) {
      CHECK_EQ(bucket, Histogram::buckets - 1);
      continue;
    }
    const std::uint64_t low = Histogram::lower_bound(bucket), end = Histogram::lower_bound(bucket + 1);
    CHECK_LE(low, value);
    CHECK_LT(value, end);
    CHECK_LE((end - 1 - low) * 16, low);  // whatever stands for the bucket is within 6.25 %
  }
  for (std::size_t bucket = 0; bucket < Histogram::buckets; ++bucket) {
    CHECK_LT(Histogram::lower_bound(bucket), Histogram::lower_bound(bucket + 1));
    CHECK_EQ(Histogram::bucket_of(Histogram::lower_bound(bucket)), bucket);
  }
  CHECK_EQ(Histogram::lower_bound(Histogram::buckets), limit);
}

TEST(histograms_merge_while_one_is_written) {
  Histogram histograms[2];
  const std::size_t each = times(30'000);
  check::in_threads(3, [&](std::size_t i) {
    Random random(i);
    if (i < 2) {
      for (std::size_t n = 0; n < each; ++n) histograms[i].add(random.below(1000));
      return;
    }
    std::uint64_t before = 0;
    for (int look = 0; look < 50; ++look) {
      std::vector<std::uint64_t> counts(Histogram::buckets);
      for (const Histogram& histogram : histograms) histogram.add_to(counts.data());
      std::uint64_t sum = 0;
      for (const std::uint64_t count : counts) sum += count;
      CHECK_LE(before, sum);
      before = sum;
    }
  });
  std::vector<std::uint64_t> counts(Histogram::buckets), expected(Histogram::buckets);
  for (const Histogram& histogram : histograms) histogram.add_to(counts.data());
  for (std::size_t i = 0; i < 2; ++i) {
    Random random(i);
    for (std::size_t n = 0; n < each; ++n) ++expected[Histogram::bucket_of(random.below(1000))];
  }
  CHECK(counts == expected);
}

// --- idle set

TEST(idle_wakes_only_who_is_announced) {
  IdleSet idle;
  CHECK(!idle.wake(3));
  CHECK(!idle.wake_one());
  for (const std::size_t worker : {std::size_t{0}, std::size_t{63}, std::size_t{64}, IdleSet::max_workers - 1}) {
    idle.announce(worker);
    CHECK_EQ(idle.asleep(), 1U);
    CHECK(idle.wake_one());              // its token lies there before it sleeps
    CHECK_EQ(idle.asleep(), 0U);
    CHECK(!idle.wake(worker));           // once
    CHECK(!idle.retract(worker));        // too late
    CHECK(idle.park(worker, patience()));
    CHECK(idle.end_search());            // woken as a searcher, the only one
  }
}

TEST(idle_searcher_spares_a_wake) {
  IdleSet idle;
  idle.announce(1);
  idle.begin_search();
  CHECK(idle.wake_one());
  CHECK_EQ(idle.asleep(), 1U);           // nobody was woken: who searches will find it
  idle.begin_search();
  CHECK(!idle.end_search());
  CHECK(idle.end_search());
  CHECK(idle.wake_one());
  CHECK_EQ(idle.asleep(), 0U);
  idle.take_token(1);
  CHECK(idle.end_search());
}

TEST(idle_park_ends_at_its_deadline) {
  IdleSet idle;
  for (int i = 0; i < 5; ++i) {
    const std::int64_t deadline = now_ns() + 2'000'000;
    idle.announce(7);
    CHECK(!idle.park(7, deadline));
    CHECK_LE(deadline, now_ns());
    CHECK_EQ(idle.asleep(), 0U);
    CHECK(!idle.wake(7));
  }
  idle.announce(7);
  CHECK(!idle.park(7, 0));               // a deadline of long ago
  CHECK(idle.retract(7) == false);
}

// Whoever wakes, and whoever gives up waiting, agree on who was first; no token is lost or left over.
TEST(idle_every_wake_has_one_awakened) {
  IdleSet idle;
  const std::size_t rounds = times(15'000);
  std::atomic<bool> over{false};
  std::atomic<std::size_t> woken{0};
  std::size_t awakened = 0;
  check::in_threads(3, [&](std::size_t i) {
    Random random(i);
    if (i > 0) {
      while (!over.load(std::memory_order_relaxed)) {
        if (idle.wake(70)) woken.fetch_add(1, std::memory_order_relaxed);
        random.stall();
        if (random.one_in(8)) sched_yield();
      }
      return;
    }
    for (std::size_t round = 0; round < rounds; ++round) {
      idle.announce(70);
      random.stall();
      bool token = false;
      switch (random.below(4)) {
        case 0:
          token = !idle.retract(70);
          if (token) idle.take_token(70);
          break;
        case 1:
          token = idle.park(70, patience());
          CHECK(token);
          break;
        default:
          token = idle.park(70, now_ns() + static_cast<std::int64_t>(random.below(20'000)));
      }
      if (!token) continue;
      ++awakened;
      idle.end_search();
    }
    over.store(true, std::memory_order_relaxed);
  });
  CHECK_EQ(woken.load(), awakened);
  CHECK_EQ(idle.asleep(), 0U);
  idle.begin_search();
  CHECK(idle.end_search());  // no searcher was left over
}

// The protocol at the head of idle.hpp, with a counter for the work: nothing is left lying.
TEST(idle_protocol_leaves_no_work_lying) {
  IdleSet idle;
  std::atomic<long> work{0}, worked{0};
  std::atomic<bool> over{false};
  const auto find = [&] {
    long there = work.load(std::memory_order_seq_cst);
    while (there > 0)
      if (work.compare_exchange_weak(there, there - 1)) return true;
    return false;
  };
  const auto worker = [&](std::size_t i) {
    Random random(i);
    const auto found_while_searching = [&] {
      if (idle.end_search() && work.load(std::memory_order_seq_cst) > 0) idle.wake_one();
    };
    const auto search = [&] {
      idle.begin_search();
      for (;;) {
        random.stall();
        if (find()) {
          found_while_searching();
          return true;
        }
        idle.announce(i);
        idle.end_search();
        if (find()) {
          if (!idle.retract(i)) {
            idle.take_token(i);
            found_while_searching();
          } else if (work.load(std::memory_order_seq_cst) > 0) {
            idle.wake_one();
          }
          return true;
        }
        while (!idle.park(i, now_ns() + 50'000'000)) {  // only to see the end of the test
          if (over.load()) return false;
          idle.announce(i);
        }
      }
    };
    while (find() || search()) worked.fetch_add(1);
  };
  const std::size_t rounds = times(4'000);
  check::in_threads(4, [&](std::size_t i) {
    if (i < 3) return worker(i);
    Random random(i);
    long given = 0;
    for (std::size_t round = 0; round < rounds; ++round) {
      for (std::uint64_t n = 1 + random.below(3); n > 0; --n, ++given) {
        work.fetch_add(1, std::memory_order_seq_cst);
        idle.wake_one();
      }
      const std::int64_t until = patience();
      while (worked.load() < given) {
        sched_yield();
        CHECK_LT(now_ns(), until);
      }
    }
    over.store(true);
  });
}

// --- task

namespace {

// The descriptor of a mailbox, and the box itself.
struct Box {
  explicit Box(int descriptor) : fd(descriptor), mailbox(new Mailbox(descriptor)) { CHECK(fd >= 0); }
  Box() : Box(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~Box() { mailbox->release(); }

  // How many wake-ups have come since the last look.
  std::uint64_t wakes() const {
    std::uint64_t count = 0;
    return read(fd, &count, sizeof count) == sizeof count ? count : 0;
  }

  const int fd;
  Mailbox* const mailbox;
};

}  // namespace

TEST(task_ends_once_and_is_freed_once) {
  const std::size_t rounds = times(4'000);
  Box box;
  Barrier barrier(5);
  TestTask* task = nullptr;
  bool begun = false, cancelled = false, listening = false;
  Phase wanted = Phase::done;
  std::size_t of_each[7] = {};
  check::in_threads(5, [&](std::size_t i) {
    Random random(i);
    for (std::size_t round = 0; round < rounds; ++round) {
      if (i == 0) {
        task = new TestTask;
        for (int holder = 1; holder < 5; ++holder) task->retain();
        constexpr Phase ends[] = {Phase::done, Phase::failed, Phase::expired};
        wanted = ends[random.below(3)];
      }
      barrier.meet();
      random.stall();
      switch (i) {
        case 0:  // the worker
          if (wanted == Phase::expired) {
            begun = task->finish_waiting(Phase::expired);
            task->release();
          } else if ((begun = task->begin())) {
            CHECK_EQ(task->phase(), Phase::running);
            random.stall();
            CHECK(!task->begin());
            task->finish_and_release(wanted);
          } else {
            task->release();
          }
          break;
        case 1:
          cancelled = task->cancel();
          task->release();
          break;
        case 2:
          listening = task->listen(box.mailbox);
          CHECK(listening || task->finished());
          task->release();
          break;
        default:
          if (random.one_in(4) && !task->wait(now_ns() + 1'000, 0)) random.stall();
          CHECK(task->wait(patience(), random.one_in(2) ? 2'000 : 0));
          CHECK(task->finished());
          if (i == 4) {
            CHECK(!task->cancel());
            of_each[static_cast<std::size_t>(task->phase())] += 1;
          }
          task->release();
      }
      barrier.meet();
      if (i == 0) {
        CHECK(begun != cancelled);
        if (listening) {
          CHECK_EQ(TestTask::alive.load(), 1);  // the letter's
          CHECK_EQ(box.wakes(), 1U);
          Task* letter = box.mailbox->take_all();
          CHECK(letter == task);
          CHECK_EQ(letter->phase(), begun ? wanted : Phase::cancelled);
          CHECK(letter->next_letter == nullptr);
          letter->release();
        }
        CHECK(box.mailbox->take_all() == nullptr);
        CHECK_EQ(box.wakes(), 0U);
        CHECK_EQ(TestTask::alive.load(), 0);
      }
    }
  });
  for (const Phase phase : {Phase::done, Phase::failed, Phase::cancelled, Phase::expired})
    std::cout << ' ' << of_each[static_cast<std::size_t>(phase)];
}

TEST(task_wait_ends_at_its_deadline) {
  const Held task;
  for (const std::int64_t spin_ns : {0, 50'000}) {
    const std::int64_t deadline = now_ns() + 3'000'000;
    CHECK(!task->wait(deadline, spin_ns));
    CHECK_LE(deadline, now_ns());
    CHECK(!task->wait(0, spin_ns));
  }
  CHECK(!task->spin(300));
  CHECK(task->cancel());
  CHECK(task->wait(0, 0));
  CHECK(task->spin(0));
}

// As a deadline is after a very negative timeout.
TEST(task_wait_before_the_clock_began) {
  const Held task;
  std::atomic<bool> returned{false};
  std::thread helper([&] {
    if (!check::comes_true([&] { return returned.load(); }, now_ns() + 5'000'000'000)) CHECK(!"the wait ends");
  });
  CHECK(!task->wait(-1, 0));
  CHECK(!task->wait(INT64_MIN, 0));
  returned.store(true);
  helper.join();
}

// --- mailbox

TEST(mailbox_wakes_once_for_many) {
  Box box;
  std::vector<Held> tasks(100);
  for (const Held& task : tasks) {
    CHECK(task->listen(box.mailbox));
    CHECK(task->cancel());
  }
  CHECK_EQ(box.wakes(), 1U);
  std::size_t number = 0;
  for (Task* letter = box.mailbox->take_all(); letter != nullptr; ++number) {
    CHECK(letter == tasks[number].get());  // oldest first
    Task* next = letter->next_letter;
    letter->release();
    letter = next;
  }
  CHECK_EQ(number, tasks.size());
  CHECK(!tasks[0]->listen(box.mailbox));  // too late
  CHECK_EQ(box.wakes(), 0U);
}

TEST(mailbox_loses_no_letter) {
  const std::size_t each = times(3'000), posters = 3;
  for (const bool piped : {false, true}) {
    int ends[2] = {-1, -1};
    if (piped) CHECK_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
    {
      Box box(piped ? ends[1] : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
      const int readable = piped ? ends[0] : box.fd;
      std::size_t letters = 0;
      check::in_threads(posters + 1, [&](std::size_t i) {
        Random random(i);
        if (i < posters) {
          for (std::size_t n = 0; n < each; ++n) {
            const Held task;
            CHECK(task->listen(box.mailbox));
            random.stall();
            CHECK(task->begin());
            task.share()->finish_and_release(Phase::done);
          }
          return;
        }
        while (letters < posters * each) {
          pollfd event{readable, POLLIN, 0};
          CHECK_EQ(poll(&event, 1, 30'000), 1);  // else a wake-up was lost
          char bytes[64];
          CHECK(read(readable, bytes, sizeof bytes) > 0);
          for (Task* letter = box.mailbox->take_all(); letter != nullptr; ++letters) {
            CHECK(letter->finished());
            Task* next = letter->next_letter;
            letter->release();
            letter = next;
          }
        }
      });
    }
    if (piped) close(ends[0]);
  }
  check::check_all_freed();
}

TEST(mailbox_with_a_full_pipe_does_not_block) {
  int ends[2];
  CHECK_EQ(pipe2(ends, O_NONBLOCK | O_CLOEXEC), 0);
  const char zeros[4096] = {};
  while (write(ends[1], zeros, sizeof zeros) > 0) {
  }
  while (write(ends[1], zeros, 1) > 0) {
  }
  {
    Box box(ends[1]);
    const Held task;
    CHECK(task->listen(box.mailbox));
    CHECK(task->cancel());
    Task* letter = box.mailbox->take_all();
    CHECK(letter == task.get());
    letter->release();
  }
  CHECK_EQ(fcntl(ends[1], F_GETFD), -1);  // closed with the last reference
  close(ends[0]);
}

// --- strand

// Workers hand a strand on to each other after every task: still one at a time, each submitter's in order.
TEST(strand_keeps_order_wherever_it_runs) {
  constexpr std::size_t submitters = 2, workers = 2, capacity = 16;
  struct Numbered : Task {
    Numbered(std::size_t from, std::size_t number) : from(from), number(number) {}
    void run(dspex::Worker&) override {}
    const std::size_t from, number;
  };
  const std::size_t each = times(10'000);
  auto* strand = new Strand(0);
  BoundedQueue<Strand*> ready(4);
  std::size_t next[submitters] = {}, inside = 0;  // not atomic: only who has the strand touches them
  std::atomic<std::size_t> ended{0}, refused{0};
  check::in_threads(submitters + workers, [&](std::size_t i) {
    Random random(i);
    if (i < submitters) {
      for (std::size_t number = 0; number < each; ++number) {
        auto* task = new Numbered(i, number);
        for (;;) {
          const Strand::Push push = strand->push(task, capacity);
          if (push == Strand::Push::first) {
            strand->retain();
            Strand* scheduled = strand;
            CHECK(ready.try_push(std::move(scheduled)));
          }
          if (push != Strand::Push::full) break;
          refused.fetch_add(1);
          sched_yield();
        }
        CHECK_LE(strand->pending(), capacity + 1);  // one may have made room and not yet be counted off
        random.stall();
      }
      return;
    }
    while (ended.load() < submitters * each) {
      Strand* mine = nullptr;
      if (!ready.try_pop(mine)) {
        sched_yield();
        continue;
      }
      CHECK_EQ(inside++, 0U);
      auto* task = static_cast<Numbered*>(mine->take());
      CHECK_EQ(task->number, next[task->from]++);
      random.stall();
      CHECK(task->begin());
      task->finish_and_release(Phase::done);
      --inside;
      ended.fetch_add(1);
      if (mine->done_one())
        CHECK(ready.try_push(std::move(mine)));
      else
        mine->release();
    }
  });
  CHECK_EQ(strand->pending(), 0U);
  strand->release();
}

TEST(strand_capacity_is_exact) {
  auto* strand = new Strand(0);
  std::vector<Held> tasks(3);
  CHECK(strand->push(tasks[0].share(), 2) == Strand::Push::first);
  CHECK(strand->push(tasks[1].share(), 2) == Strand::Push::queued);
  CHECK(strand->push(tasks[2].get(), 2) == Strand::Push::full);
  for (std::size_t i = 0; i < 2; ++i) {
    Task* task = strand->take();
    CHECK(task == tasks[i].get());
    task->release();
    CHECK_EQ(strand->done_one(), i == 0);
  }
  strand->release();
}

int main(int argc, char** argv) { return check::main(argc, argv); }
