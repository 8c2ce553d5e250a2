// What the worker pool costs, in C++ alone: hand-offs beside a bare pair of threads, throughput, its queue beside
// others in the same loop, and overload. Prints a line of JSON for each peer and round; native_pool.py sums up.
//
// Arguments: handoff, queues, throughput, overload (none: all), --rounds=N, --scale=F for the length of a block.
#include <climits>
#include <cmath>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "measure.hpp"
#include "pool/futex.hpp"
#include "pool/pool.hpp"
#include "pool/queue.hpp"
#include "pool/stack.hpp"

#if __has_include(<concurrentqueue/concurrentqueue.h>)
#include <concurrentqueue/concurrentqueue.h>
#define WITH_MOODYCAMEL
#elif __has_include(<concurrentqueue/moodycamel/concurrentqueue.h>)
#include <concurrentqueue/moodycamel/concurrentqueue.h>
#define WITH_MOODYCAMEL
#endif
#if __has_include(<rigtorp/MPMCQueue.h>)
#include <rigtorp/MPMCQueue.h>
#define WITH_RIGTORP
#endif

namespace {

using dspex::Accept;
using dspex::cache_line;
using dspex::never;
using dspex::now_ns;
using dspex::Pool;
using dspex::PoolOptions;
using dspex::Task;
using dspex::Word;
using dspex::Worker;
using measure::Line;
using measure::Patience;

std::size_t rounds = 7;
double scale = 1;

std::size_t scaled(double count) { return static_cast<std::size_t>(std::max(1.0, count * scale)); }

// --- hand-off

// The tightest hand-over there is that can sleep: one word, one exchange, a system call only for a sleeper.
template <bool Pause>
class alignas(cache_line) Signal {
 public:
  void post() noexcept {
    if (word_.exchange(set, std::memory_order_release) == sleeper) dspex::futex_wake(word_, 1);
  }

  void wait(std::int64_t spin_ns) noexcept {
    if (spin_ns > 0) {
      const std::int64_t until = now_ns() + spin_ns;
      do {
        for (int look = 0; look < 200; ++look) {
          if (word_.load(std::memory_order_acquire) == set) return word_.store(0, std::memory_order_relaxed);
          if (Pause) dspex::spin_pause();
        }
      } while (now_ns() < until);
    }
    std::uint32_t none = 0;
    word_.compare_exchange_strong(none, sleeper, std::memory_order_acquire);
    while (word_.load(std::memory_order_acquire) == sleeper) dspex::futex_wait(word_, sleeper, never);
    word_.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint32_t set = 1, sleeper = 2;
  Word word_{0};
};

template <bool Pause>
measure::Blocks ping_pong(std::size_t blocks, std::int64_t spin_ns, bool pinned) {
  Signal<Pause> there, back;
  std::atomic<bool> over{false};
  std::thread other([&] {
    std::unique_ptr<measure::OnCore> core;
    if (pinned) core = std::make_unique<measure::OnCore>(0);
    for (;;) {
      there.wait(spin_ns);
      if (over.load(std::memory_order_relaxed)) return;
      back.post();
    }
  });
  std::unique_ptr<measure::OnCore> core;
  if (pinned) core = std::make_unique<measure::OnCore>(1);
  const measure::Blocks found = measure::time_blocks(blocks, [&] {
    there.post();
    back.wait(spin_ns);
  });
  over.store(true);
  there.post();
  other.join();
  return found;
}

class NoTask : public Task {
 public:
  void run(Worker&) override {}
};

measure::Blocks hand_off(std::size_t blocks, std::int64_t spin_ns, bool pinned) {
  PoolOptions options;
  options.spin_ns = spin_ns;
  options.pin = pinned;
  Pool pool(options);
  std::unique_ptr<measure::OnCore> core;
  if (pinned) core = std::make_unique<measure::OnCore>(1);
  return measure::time_blocks(blocks, [&] {
    auto* task = new NoTask;
    task->retain();
    if (pool.submit(task) != Accept::yes) std::abort();
    task->wait(never, spin_ns);
    task->release();
  });
}

void hand_offs() {
  struct Mode {
    const char* name;
    std::int64_t spin_ns;
    bool pinned;
    double blocks;
  };
  const Mode modes[] = {
      {"spinning", 20'000, true, 200}, {"parking", 0, true, 10}, {"parking, any core", 0, false, 10}};
  const auto report = [](const char* peer, const Mode& mode, std::size_t round, measure::Blocks found) {
    Line("handoff").text("peer", peer).text("mode", mode.name).number("round", static_cast<double>(round))
        .number("p50_ns", found.p50).number("mean_ns", found.mean).print();
  };
  // Short rounds, and more of them: how long a line takes from core to core changes with the machine's mood.
  for (std::size_t round = 0; round < 6 * rounds; ++round)
    for (const Mode& mode : modes) {
      const std::size_t blocks = scaled(mode.blocks);
      for (std::size_t turn = 0; turn < 3; ++turn) switch ((turn + round) % 3) {
        case 0: report("pool", mode, round, hand_off(blocks, mode.spin_ns, mode.pinned)); break;
        case 1: report("bare", mode, round, ping_pong<false>(blocks, mode.spin_ns, mode.pinned)); break;
        default:
          if (mode.spin_ns > 0)
            report("bare, pausing", mode, round, ping_pong<true>(blocks, mode.spin_ns, mode.pinned));
      }
    }
}

// --- the queue beside others

// Each has try_push and try_pop of a thread's own view of it.
class Ours {
 public:
  Ours(std::size_t capacity, std::size_t) : queue_(capacity) {}
  struct View {
    explicit View(Ours& ours) : queue(ours.queue_) {}
    bool try_push(void* element) { return queue.try_push(std::move(element)); }
    bool try_pop(void*& element) { return queue.try_pop(element); }
    dspex::BoundedQueue<void*>& queue;
  };
  using Producer = View;
  using Consumer = View;

 private:
  dspex::BoundedQueue<void*> queue_;
};

#ifdef WITH_MOODYCAMEL
// Plain, with room for the capacity; or with the tokens its manual advises, and without bounds: a token keeps what
// room it has had to itself, so that one producer could take it all.
template <bool Tokens>
class Moodycamel {
  using Queue = moodycamel::ConcurrentQueue<void*>;

 public:
  Moodycamel(std::size_t capacity, std::size_t producers)
      : queue_(capacity, Tokens ? producers : 0, Tokens ? 0 : producers) {}
  struct Plain {
    explicit Plain(Moodycamel& moodycamel) : queue(moodycamel.queue_) {}
    bool try_push(void* element) { return queue.try_enqueue(element); }
    bool try_pop(void*& element) { return queue.try_dequeue(element); }
    Queue& queue;
  };
  struct ProducerWithToken {
    explicit ProducerWithToken(Moodycamel& moodycamel) : queue(moodycamel.queue_), token(queue) {}
    bool try_push(void* element) { return queue.enqueue(token, element); }
    Queue& queue;
    moodycamel::ProducerToken token;
  };
  struct ConsumerWithToken {
    explicit ConsumerWithToken(Moodycamel& moodycamel) : queue(moodycamel.queue_), token(queue) {}
    bool try_pop(void*& element) { return queue.try_dequeue(token, element); }
    Queue& queue;
    moodycamel::ConsumerToken token;
  };
  using Producer = std::conditional_t<Tokens, ProducerWithToken, Plain>;
  using Consumer = std::conditional_t<Tokens, ConsumerWithToken, Plain>;

 private:
  Queue queue_;
};
#endif

#ifdef WITH_RIGTORP
class Rigtorp {
 public:
  Rigtorp(std::size_t capacity, std::size_t) : queue_(capacity) {}
  struct View {
    explicit View(Rigtorp& rigtorp) : queue(rigtorp.queue_) {}
    bool try_push(void* element) { return queue.try_push(element); }
    bool try_pop(void*& element) { return queue.try_pop(element); }
    rigtorp::MPMCQueue<void*>& queue;
  };
  using Producer = View;
  using Consumer = View;

 private:
  rigtorp::MPMCQueue<void*> queue_;
};
#endif

// Nanoseconds for each element that goes from a producer to a consumer.
template <class Queue>
double through(std::size_t capacity, std::size_t producers, std::size_t consumers, std::size_t each) {
  Queue queue(capacity, producers);
  std::atomic<std::size_t> left{producers * each};
  const std::int64_t ns = measure::ns_of_threads(producers + consumers, [&](std::size_t i) {
    Patience patience;
    int work = 0;
    if (i < producers) {
      typename Queue::Producer producer(queue);
      for (std::size_t n = 0; n < each; ++n, patience.reset())
        while (!producer.try_push(&work)) patience.wait();
      // The elements point to here.
      for (; left.load(std::memory_order_relaxed) > 0; sched_yield()) {
      }
      return;
    }
    typename Queue::Consumer consumer(queue);
    for (std::size_t taken = 0;;) {
      void* element = nullptr;
      if (consumer.try_pop(element)) {
        asm volatile("" : : "r"(element) : "memory");
        ++taken;
        patience.reset();
        continue;
      }
      if (taken != 0) left.fetch_sub(std::exchange(taken, 0), std::memory_order_relaxed);
      if (left.load(std::memory_order_relaxed) == 0) return;
      patience.wait();
    }
  });
  return static_cast<double>(ns) / static_cast<double>(producers * each);
}

void queues() {
  using Run = double (*)(std::size_t, std::size_t, std::size_t, std::size_t);
  const std::vector<std::pair<const char*, Run>> peers = {
      {"ours", through<Ours>},
#ifdef WITH_MOODYCAMEL
      {"moodycamel", through<Moodycamel<false>>},
      {"moodycamel, tokens, unbounded", through<Moodycamel<true>>},
#endif
#ifdef WITH_RIGTORP
      {"rigtorp", through<Rigtorp>},
#endif
  };
  for (std::size_t round = 0; round < rounds; ++round)
    for (const std::size_t producers : {1, 2, 4})
      for (const std::size_t consumers : {1, 2})
        for (const std::size_t capacity : {64, 256, 1024, 4096, 16384, 65536})
          for (std::size_t turn = 0; turn < peers.size(); ++turn) {
            const auto& [name, run] = peers[(turn + round) % peers.size()];
            const double ns = run(capacity, producers, consumers, scaled(1e6) / producers);
            Line("queues").text("peer", name).number("producers", static_cast<double>(producers))
                .number("consumers", static_cast<double>(consumers))
                .number("capacity", static_cast<double>(capacity)).number("round", static_cast<double>(round))
                .number("ns", ns).print();
          }
}

// --- throughput of the pool

// Memory of ended tasks, which a worker gives back to the producer it came from: no allocator in the way.
struct Shelf;
struct Place {
  Place* next;
  Shelf* shelf;
};
struct Shelf {
  dspex::TakeAllStack<Place, &Place::next> back;
  Place* own = nullptr;

  void* take(std::size_t size) {
    if (own == nullptr) own = back.take_all();
    if (own == nullptr) {
      own = static_cast<Place*>(::operator new(sizeof(Place) + size));
      *own = {nullptr, this};
    }
    return std::exchange(own, own->next) + 1;
  }
  ~Shelf() {
    for (Place* list : {own, back.take_all()})
      while (list != nullptr) ::operator delete(std::exchange(list, list->next));
  }
};

class RecycledTask : public Task {
 public:
  void run(Worker&) override {}
  static void* operator new(std::size_t size, Shelf& shelf) { return shelf.take(size); }
  static void operator delete(void* place) {
    auto* front = static_cast<Place*>(place) - 1;
    front->shelf->back.push(front);
  }
  static void operator delete(void* place, Shelf&) { operator delete(place); }
};

double through_pool(std::size_t capacity, std::size_t producers, std::size_t workers, std::size_t each) {
  std::vector<Shelf> shelves(producers);
  PoolOptions options;
  options.size = options.max_size = workers;
  options.capacity = capacity;
  Pool pool(options);
  const std::int64_t begin = now_ns();
  measure::ns_of_threads(producers, [&](std::size_t i) {
    Patience patience;
    for (std::size_t n = 0; n < each; ++n, patience.reset()) {
      auto* task = new (shelves[i]) RecycledTask;
      while (pool.submit(task) != Accept::yes) patience.wait();
    }
  });
  pool.drain(never);
  const auto ns = static_cast<double>(now_ns() - begin);
  pool.stop();
  return ns / static_cast<double>(producers * each);
}

void throughput() {
  for (std::size_t round = 0; round < rounds; ++round)
    for (const std::size_t producers : {1, 2, 4})
      for (const std::size_t workers : {1, 2})
        for (const std::size_t capacity : {64, 256, 1024, 4096, 16384, 65536}) {
          const double ns = through_pool(capacity, producers, workers, scaled(3e5) / producers);
          Line("throughput").text("peer", "pool").number("producers", static_cast<double>(producers))
              .number("consumers", static_cast<double>(workers)).number("capacity", static_cast<double>(capacity))
              .number("round", static_cast<double>(round)).number("ns", ns).print();
        }
}

// --- overload

class BusyTask : public Task {
 public:
  explicit BusyTask(std::int64_t ns) : ns_(ns) { submitted = dspex::ticks(); }
  void run(Worker&) override {
    for (const std::int64_t until = now_ns() + ns_; now_ns() < until;) {
    }
  }

 private:
  const std::int64_t ns_;
};

double quantile_us(const std::vector<std::uint64_t>& counts, double share, double ns_per_tick) {
  std::uint64_t sum = 0, passed = 0;
  for (const std::uint64_t count : counts) sum += count;
  for (std::size_t bucket = 0; bucket < counts.size(); ++bucket) {
    passed += counts[bucket];
    if (static_cast<double>(passed) >= share * static_cast<double>(sum))
      return static_cast<double>(dspex::Histogram::lower_bound(bucket)) * ns_per_tick / 1e3;
  }
  return 0;
}

// Offers tasks at random times, so many times what one worker can do; what finds no room is refused. `load` of 0:
// as many as there is room for, which tells the peak.
void offer(std::size_t capacity, double load, std::size_t round) {
  constexpr std::int64_t task_ns = 50'000;
  const auto seconds = 0.25 * scale;
  PoolOptions options;
  options.capacity = capacity;
  options.pin = true;
  Pool pool(options);
  const measure::OnCore core(1);
  std::uint64_t random = 88172645463325252u + round, rejected = 0;
  const std::int64_t begin = now_ns(), end = begin + static_cast<std::int64_t>(seconds * 1e9);
  for (double next = static_cast<double>(begin);;) {
    std::int64_t now;
    while ((now = now_ns()) < static_cast<std::int64_t>(next) && now < end) dspex::spin_pause();
    if (now >= end) break;
    auto* task = new BusyTask(task_ns);
    if (pool.submit(task) != Accept::yes) {
      task->release();
      ++rejected;
      if (load == 0) dspex::spin_pause();
    }
    if (load == 0) continue;
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    next -= std::log((static_cast<double>(random >> 11) + 1) * 0x1p-53) * task_ns / load;
  }
  const dspex::PoolStats stats = pool.stats();
  const double elapsed = static_cast<double>(now_ns() - begin) / 1e9;
  Line("overload").text("peer", load == 0 ? "peak" : "offered").number("load", load)
      .number("capacity", static_cast<double>(capacity)).number("round", static_cast<double>(round))
      .number("per_s", static_cast<double>(stats.counts.done) / elapsed)
      .number("rejected", static_cast<double>(rejected))
      .number("wait_p50_us", quantile_us(stats.wait, 0.5, stats.ns_per_tick))
      .number("wait_p99_us", quantile_us(stats.wait, 0.99, stats.ns_per_tick)).print();
}

void overload() {
  for (std::size_t round = 0; round < rounds; ++round)
    for (const std::size_t capacity : {16, 64, 1024})
      for (const double load : {0.0, 0.5, 0.9, 2.0}) offer(capacity, load, round);
}

}  // namespace

int main(int argc, char** argv) {
  rounds = static_cast<std::size_t>(measure::option(argc, argv, "rounds", 7));
  scale = measure::option(argc, argv, "scale", 1);
  if (measure::asked(argc, argv, "handoff")) hand_offs();
  if (measure::asked(argc, argv, "queues")) queues();
  if (measure::asked(argc, argv, "throughput")) throughput();
  if (measure::asked(argc, argv, "overload")) overload();
}
