// BoundedQueue: nothing lost, nothing twice, in order, never more than its capacity.
#include "pool/queue.hpp"

#include <atomic>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "check.hpp"

namespace {

using check::Random;
using check::times;
using dspex::BoundedQueue;

constexpr std::size_t capacities[] = {1, 2, 3, 7, 8, 64, 1000};

// Moves only, and is counted: as many are destroyed as were made.
class Parcel {
 public:
  Parcel() noexcept { made.fetch_add(1, std::memory_order_relaxed); }
  Parcel(std::size_t sender, std::size_t number) noexcept : sender(sender), number(number), full(true) {
    made.fetch_add(1, std::memory_order_relaxed);
  }
  Parcel(Parcel&& other) noexcept : sender(other.sender), number(other.number), full(other.full) {
    other.full = false;
    made.fetch_add(1, std::memory_order_relaxed);
  }
  Parcel& operator=(Parcel&& other) noexcept {
    sender = other.sender;
    number = other.number;
    full = std::exchange(other.full, false);
    return *this;
  }
  ~Parcel() { destroyed.fetch_add(1, std::memory_order_relaxed); }

  std::size_t sender = 0, number = 0;
  bool full = false;

  static inline std::atomic<std::uint64_t> made{0}, destroyed{0};
};

void check_none_left() { CHECK_EQ(Parcel::made.load(), Parcel::destroyed.load()); }

// Every parcel of every sender arrives once. The sum of what was certainly pushed less what may have been popped
// never exceeds the capacity.
void exchange(std::size_t capacity, std::size_t senders, std::size_t receivers, std::size_t each) {
  {
    BoundedQueue<Parcel> queue(capacity);
    std::vector<std::atomic<unsigned char>> seen(senders * each);
    std::atomic<std::size_t> received{0};
    std::atomic<std::int64_t> inside{0};
    check::in_threads(senders + receivers, [&](std::size_t i) {
      Random random(i + 100 * capacity);
      if (i < senders) {
        for (std::size_t number = 0; number < each; ++number) {
          Parcel parcel(i, number);
          while (!queue.try_push(std::move(parcel))) {
            CHECK(parcel.full);  // refused: left as it was
            sched_yield();
          }
          CHECK_LE(inside.fetch_add(1) + 1, static_cast<std::int64_t>(capacity));
          random.stall();
        }
        return;
      }
      std::vector<std::size_t> newest(senders, 0);  // per sender, one more than its number
      while (received.load(std::memory_order_relaxed) < seen.size()) {
        Parcel parcel;
        inside.fetch_sub(1);
        if (!queue.try_pop(parcel)) {
          inside.fetch_add(1);
          sched_yield();
          continue;
        }
        CHECK(parcel.full);
        CHECK_EQ(seen[parcel.sender * each + parcel.number].fetch_add(1), 0);
        CHECK_LE(newest[parcel.sender], parcel.number);  // one receiver sees a sender's parcels in order
        newest[parcel.sender] = parcel.number + 1;
        received.fetch_add(1, std::memory_order_relaxed);
        random.stall();
      }
    });
    for (const auto& count : seen) CHECK_EQ(count.load(), 1);
    CHECK_EQ(queue.size(), 0U);
    CHECK_EQ(queue.pushed(), seen.size());
    CHECK_EQ(queue.popped(), seen.size());
  }
  check_none_left();
}

}  // namespace

TEST(every_element_arrives_once) {
  for (const std::size_t capacity : capacities)
    for (std::size_t senders = 1; senders <= 3; ++senders)
      for (std::size_t receivers = 1; receivers <= 3; ++receivers) exchange(capacity, senders, receivers, times(600));
}

TEST(one_receiver_sees_each_senders_order) {
  for (const std::size_t capacity : capacities) {
    BoundedQueue<std::uint64_t> queue(capacity);
    const std::size_t each = times(5000);
    check::in_threads(3, [&](std::size_t i) {
      Random random(i);
      if (i < 2) {
        for (std::uint64_t number = 0; number < each; ++number) {
          while (!queue.try_push(number << 1 | i)) sched_yield();
          random.stall();
        }
      } else {
        std::uint64_t next[2] = {0, 0};
        while (next[0] + next[1] < 2 * each) {
          std::uint64_t element = 0;
          if (queue.try_pop(element))
            CHECK_EQ(element >> 1, next[element & 1]++);
          else
            sched_yield();
        }
      }
    });
  }
}

TEST(capacity_is_exact) {
  for (const std::size_t capacity : capacities) {
    BoundedQueue<Parcel> queue(capacity);
    CHECK_EQ(queue.capacity(), capacity);
    std::size_t in = 0, out = 0;
    for (std::size_t lap = 0; lap < 3 * capacity + 5 && lap < 40; ++lap) {  // full at every place of the ring
      while (queue.size() < capacity) {
        CHECK(queue.try_push(Parcel(0, in)));
        ++in;
      }
      Parcel refused(7, 8);
      CHECK(!queue.try_push(std::move(refused)));
      CHECK(refused.full && refused.sender == 7 && refused.number == 8);
      for (std::size_t i = 0; i <= lap % capacity; ++i) {
        Parcel parcel;
        CHECK(queue.has_next());
        CHECK(queue.try_pop(parcel));
        CHECK_EQ(parcel.number, out++);
      }
    }
    Parcel parcel;
    while (queue.try_pop(parcel)) CHECK_EQ(parcel.number, out++);
    CHECK_EQ(in, out);
    CHECK(!queue.has_next());
  }
  check_none_left();
}

// The place of an element is free once the function that takes it has returned, not before.
TEST(an_element_being_taken_keeps_its_place) {
  for (const std::size_t capacity : capacities) {
    BoundedQueue<Parcel> queue(capacity);
    for (std::size_t i = 0; i < capacity; ++i) CHECK(queue.try_push(Parcel(0, i)));
    CHECK(queue.take([&](Parcel& parcel) noexcept {
      CHECK_EQ(parcel.number, 0U);
      CHECK(!queue.try_push(Parcel(0, capacity)));
    }));
    CHECK(queue.try_push(Parcel(0, capacity)));
  }
  check_none_left();
}

TEST(elements_left_behind_are_destroyed) {
  for (const std::size_t capacity : capacities)
    for (std::size_t left = 0; left <= capacity; left = 2 * left + 1) {
      {
        BoundedQueue<Parcel> queue(capacity);
        for (std::size_t i = 0; i < capacity / 2; ++i) {  // not from the ring's first place on
          Parcel parcel(0, i);
          CHECK(queue.try_push(std::move(parcel)));
          CHECK(queue.try_pop(parcel));
        }
        for (std::size_t i = 0; i < left; ++i) CHECK(queue.try_push(Parcel(0, i)));
        CHECK_EQ(Parcel::made.load() - Parcel::destroyed.load(), left);
      }
      check_none_left();
    }
}

TEST(capacities_that_cannot_be) {
  CHECK_THROWS(std::invalid_argument, BoundedQueue<int>(0));
  CHECK_THROWS(std::bad_alloc, BoundedQueue<int>((std::size_t{1} << 40) + 1));
  CHECK_THROWS(std::bad_alloc, BoundedQueue<int>(std::numeric_limits<std::size_t>::max()));
}

TEST(elements_keep_their_alignment) {
  struct alignas(128) Wide {
    std::uint64_t value;
  };
  BoundedQueue<Wide> queue(3);
  for (std::uint64_t i = 0; i < 20; ++i) {
    CHECK(queue.try_push(Wide{i}));
    CHECK(queue.take([i](Wide& wide) noexcept {
      CHECK_EQ(reinterpret_cast<std::uintptr_t>(&wide) % 128, 0U);
      CHECK_EQ(wide.value, i);
    }));
  }
}

// "Push, then look at the flag" and "set the flag, then look for elements" never both miss (see idle.hpp), neither
// by try_pop nor by has_next.
TEST(push_and_look_do_not_both_miss) {
  for (const bool peek : {false, true}) {
    BoundedQueue<int> queue(8);
    std::atomic<int> flag{0};
    std::atomic<std::size_t> at[2] = {0, 0};
    bool saw[2] = {false, false};
    const std::size_t rounds = times(60'000);
    check::in_threads(2, [&](std::size_t i) {
      Random random(i);
      const auto meet = [&](std::size_t step) {  // both leave it as close to each other as can be
        at[i].store(step, std::memory_order_release);
        for (unsigned looks = 0; at[1 - i].load(std::memory_order_acquire) < step; ++looks)
          if (looks > 300) sched_yield();
      };
      for (std::size_t round = 0; round < rounds; ++round) {
        const std::uint64_t delay = random.below(20);
        meet(2 * round + 1);
        for (std::uint64_t n = 0; n < delay; ++n) asm volatile("");
        if (i == 0) {
          queue.try_push(1);
          saw[0] = flag.load(std::memory_order_seq_cst) == 1;
        } else {
          flag.store(1, std::memory_order_seq_cst);
          int element = 0;
          saw[1] = peek ? queue.has_next() : queue.try_pop(element);
        }
        meet(2 * round + 2);
        if (i == 1) continue;
        CHECK(saw[0] || saw[1]);
        int element = 0;
        while (queue.try_pop(element)) {
        }
        flag.store(0, std::memory_order_relaxed);
      }
    });
  }
}

int main(int argc, char** argv) { return check::main(argc, argv); }
