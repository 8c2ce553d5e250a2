#include "batch.hpp"

#include <algorithm>

namespace dspex {
namespace {

constexpr std::uint64_t no_more = std::uint64_t{1} << 62;
constexpr std::int64_t linger_ns = 100'000;  // a helper out of work stays that long: calling another takes longer
constexpr std::int64_t spin_ns = 100'000;    // the caller waits for chunks of 15 us: by then their worker has lost its core

// Texts lie anywhere, and the reading thread has just written to their reference counts: they are on their way to
// this core while the rows before them are answered.
constexpr std::size_t ahead = 3;

void prefetch(const TextView* texts, std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t byte = 0; byte < texts[i].bytes() && byte < 4 * cache_line; byte += cache_line)
      __builtin_prefetch(static_cast<const unsigned char*>(texts[i].data) + byte);
}

constexpr std::int64_t lagging_ns = 400'000;

class Helper final : public Task {
 public:
  Helper(Batch* batch, Pool* pool) noexcept : batch_(batch), pool_(pool) { batch->retain(); }

  void run(Worker& worker) override {
    std::int64_t idle_since = 0;
    while (!batch_->ended()) {
      if (batch_->help_once()) {
        idle_since = 0;
      } else {
        const std::int64_t now = now_ns();
        if (idle_since == 0) idle_since = now;
        if (now - idle_since > linger_ns) break;
        spin_yield();
      }
      worker.let_others_run();  // calls do not wait for the rest of a batch
    }
  }

 private:
  ~Helper() override {
    batch_->helper_left();
    batch_->release();
    pool_->give_helper_place();
  }

  Batch* const batch_;
  Pool* const pool_;
};

}  // namespace

Batch::Batch(const Answerer& answerer, std::size_t text_count, std::size_t segment_rows)
    : answerer_(answerer), text_count_(text_count),
      segments_{Segment(answerer, text_count, segment_rows), Segment(answerer, text_count, segment_rows)},
      chunks_(2 * segment_rows) {}

void Batch::begin(std::size_t turn) noexcept {
  segment(turn).rows = segment(turn).chunks = 0;
  segment(turn).done.store(0, std::memory_order_relaxed);
}

void Batch::publish(std::size_t turn, std::size_t first, std::size_t end) noexcept {
  const std::uint64_t chunk = published_.load(std::memory_order_relaxed);
  std::fill(segment(turn).states.begin() + static_cast<std::ptrdiff_t>(first),
            segment(turn).states.begin() + static_cast<std::ptrdiff_t>(end), RowState::open);
  chunks_[chunk % chunks_.size()] = {static_cast<std::uint32_t>(turn), static_cast<std::uint32_t>(first),
                                     static_cast<std::uint32_t>(end)};
  ++segment(turn).chunks;
  published_.store(chunk + 1, std::memory_order_release);  // with the acquire in claim: rows and chunk are there
}

void Batch::call_helpers(Pool& pool, std::size_t helpers) noexcept {
  pool_ = &pool;
  if (helpers_.load(std::memory_order_relaxed) >= helpers || ended() || !pool.help_pays()) return;
  while (helpers_.load(std::memory_order_relaxed) < helpers) {
    if (!pool.take_helper_place()) return;
    Helper* helper = new (std::nothrow) Helper(this, &pool);
    if (helper == nullptr) return pool.give_helper_place();
    helpers_.fetch_add(1, std::memory_order_relaxed);
    if (pool.submit(helper) != Accept::yes) {
      helper->release();
      return;
    }
  }
}

bool Batch::claim(std::uint64_t& chunk) noexcept {
  chunk = claimed_.load(std::memory_order_relaxed);
  while (chunk < published_.load(std::memory_order_acquire))
    if (claimed_.compare_exchange_weak(chunk, chunk + 1, std::memory_order_relaxed)) return true;
  return false;
}

// A claimed chunk is counted as done in any case: should the thread die in it, its rows stay open and the caller
// answers them.
class Batch::Claim {
 public:
  Claim(Batch& batch, std::uint64_t number) noexcept
      : batch_(batch), chunk_(batch.chunks_[number % batch.chunks_.size()]) {}
  ~Claim() { batch_.chunk_done(batch_.segment(chunk_.turn)); }
  const Chunk& chunk() const noexcept { return chunk_; }

 private:
  Batch& batch_;
  const Chunk chunk_;
};

bool Batch::help_once() noexcept {
  std::uint64_t number;
  if (!claim(number)) return false;
  const Claim claimed(*this, number);
  answer(claimed.chunk());
  helped_.fetch_add(claimed.chunk().end - claimed.chunk().first, std::memory_order_relaxed);
  return true;
}

void Batch::answer(const Chunk& chunk) noexcept {
  constexpr std::size_t on_stack = 1024;
  float stack_sums[on_stack];
  std::unique_ptr<float[]> heap_sums;
  float* sums = stack_sums;
  if (answerer_.sums() > on_stack) {
    heap_sums.reset(new (std::nothrow) float[answerer_.sums()]);
    sums = heap_sums.get();
    if (sums == nullptr) return;  // the rows stay open
  }
  Segment& segment = this->segment(chunk.turn);
  const std::size_t width = answerer_.model->dense_width, floats = answerer_.answer_floats();
  for (std::size_t row = chunk.first; row < chunk.end; ++row) {
    if (row + ahead < chunk.end) prefetch(segment.texts.data() + (row + ahead) * text_count_, text_count_);
    if (cancelled_.load(std::memory_order_relaxed)) return;
    const bool answered = answerer_.answer(segment.texts.data() + row * text_count_, text_count_,
                                           segment.dense.data() + row * width, sums,
                                           segment.answers.get() + row * floats);
    segment.states[row] = answered ? RowState::answered : RowState::empty;
  }
}

// Either the caller sees the count when it looks once more before it sleeps, or we see that it sleeps.
void Batch::chunk_done(Segment& segment) noexcept {
  // The segment is the caller's again as soon as its last chunk is counted: the batch itself stays.
  Word& done = segment.done;
  done.fetch_add(1, std::memory_order_seq_cst);  // also release, with the acquire in finish: the answers are there
  done_.fetch_add(1, std::memory_order_release);
  if (sleeping_.load(std::memory_order_seq_cst)) futex_wake(done, 1);
}

bool Batch::finish(std::size_t turn, std::int64_t until) noexcept {
  Segment& segment = this->segment(turn);
  const auto all_done = [&] { return segment.done.load(std::memory_order_acquire) == segment.chunks; };
  std::int64_t idle_since = 0;
  while (!all_done()) {
    const std::int64_t now = now_ns();
    if (now >= until) return false;
    std::uint64_t number;
    if (claim(number)) {
      const Claim claimed(*this, number);
      answer(claimed.chunk());
      idle_since = 0;
    } else if (idle_since == 0) {
      idle_since = now;
    } else if (now - idle_since < spin_ns) {
      spin_yield();
    } else {
      if (pool_ != nullptr && now - idle_since > lagging_ns) {
        end();  // the helpers leave; the caller goes on alone
        pool_->help_cost(now - idle_since);
      }
      sleeping_.store(true, std::memory_order_seq_cst);
      const std::uint32_t seen = segment.done.load(std::memory_order_seq_cst);
      if (seen != segment.chunks) futex_wait(segment.done, seen, std::min(until, now + lagging_ns));
      sleeping_.store(false, std::memory_order_relaxed);
    }
  }
  return true;
}

void Batch::cancel() noexcept {
  cancelled_.store(true, std::memory_order_relaxed);
  end();
  // From here on claim fails; what was claimed before is waited for.
  const std::uint64_t claimed = claimed_.exchange(no_more, std::memory_order_acq_rel);
  if (claimed >= no_more) return;
  while (done_.load(std::memory_order_acquire) != claimed) {
    Word alarm{0};
    futex_wait(alarm, 0, now_ns() + 10'000);
  }
}

}  // namespace dspex
