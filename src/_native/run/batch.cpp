#include "batch.hpp"

#include <algorithm>

namespace dspex {
namespace {

constexpr std::uint64_t no_more = std::uint64_t{1} << 62;
constexpr std::int64_t linger_ns = 100'000;  // a helper out of work stays that long: calling another takes longer
constexpr std::int64_t spin_ns = 20'000;

class Helper final : public Task {
 public:
  explicit Helper(Batch* batch) noexcept : batch_(batch) { batch->retain(); }

  void run(Worker& worker) override {
    std::int64_t idle_since = 0;
    while (!batch_->finished()) {
      if (batch_->help_once()) {
        idle_since = 0;
      } else {
        const std::int64_t now = now_ns();
        if (idle_since == 0) idle_since = now;
        if (now - idle_since > linger_ns) break;
        spin_pause();
      }
      worker.let_others_run();  // calls do not wait for the rest of a batch
    }
  }

 private:
  ~Helper() override {
    batch_->helper_left();
    batch_->release();
  }

  Batch* const batch_;
};

}  // namespace

Batch::Batch(const Answerer& answerer, std::size_t text_count, std::size_t segment_rows)
    : answerer_(answerer), text_count_(text_count),
      segments_{Segment(answerer, text_count, segment_rows), Segment(answerer, text_count, segment_rows)},
      chunks_(2 * segment_rows) {}

void Batch::publish(std::size_t turn, std::size_t first, std::size_t end) noexcept {
  const std::uint64_t chunk = published_.load(std::memory_order_relaxed);
  std::fill(segment(turn).states.begin() + static_cast<std::ptrdiff_t>(first),
            segment(turn).states.begin() + static_cast<std::ptrdiff_t>(end), RowState::open);
  chunks_[chunk % chunks_.size()] = {static_cast<std::uint32_t>(turn), static_cast<std::uint32_t>(first),
                                     static_cast<std::uint32_t>(end)};
  published_.store(chunk + 1, std::memory_order_release);  // with the acquire in claim: rows and chunk are there
}

void Batch::call_helpers(Pool& pool, std::size_t helpers) noexcept {
  while (helpers_.load(std::memory_order_relaxed) < helpers) {
    Helper* helper = new (std::nothrow) Helper(this);
    if (helper == nullptr) return;
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
  explicit Claim(Batch& batch) noexcept : batch_(batch) {}
  ~Claim() { batch_.chunk_done(); }

 private:
  Batch& batch_;
};

bool Batch::help_once() noexcept {
  std::uint64_t chunk;
  if (!claim(chunk)) return false;
  const Claim claimed(*this);
  const Chunk& mine = chunks_[chunk % chunks_.size()];
  answer(mine);
  helped_.fetch_add(mine.end - mine.first, std::memory_order_relaxed);
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
    if (cancelled_.load(std::memory_order_relaxed)) return;
    const bool answered = answerer_.answer(segment.texts.data() + row * text_count_, text_count_,
                                           segment.dense.data() + row * width, sums,
                                           segment.answers.get() + row * floats);
    segment.states[row] = answered ? RowState::answered : RowState::empty;
  }
}

// Either the caller sees the count when it looks once more before it sleeps, or we see that it sleeps.
void Batch::chunk_done() noexcept {
  done_.fetch_add(1, std::memory_order_seq_cst);  // also release, with the acquire in work: the answers are there
  if (sleeping_.load(std::memory_order_seq_cst) != 0) futex_wake(done_, 1);
}

bool Batch::work(std::int64_t until) noexcept {
  std::uint64_t chunk;
  while (claim(chunk)) {
    const Claim claimed(*this);
    answer(chunks_[chunk % chunks_.size()]);
    if (now_ns() >= until) break;
  }
  const std::uint64_t published = published_.load(std::memory_order_relaxed);
  if (claimed_.load(std::memory_order_relaxed) < published) return false;
  const auto all = static_cast<std::uint32_t>(published);
  for (const std::int64_t spin_until = now_ns() + spin_ns; now_ns() < spin_until;) {
    if (done_.load(std::memory_order_acquire) == all) return true;
    spin_pause();
  }
  sleeping_.store(1, std::memory_order_seq_cst);
  bool done = false;
  for (std::uint32_t seen; !(done = (seen = done_.load(std::memory_order_seq_cst)) == all);)
    if (!futex_wait(done_, seen, until)) break;
  sleeping_.store(0, std::memory_order_relaxed);
  return done || done_.load(std::memory_order_acquire) == all;
}

void Batch::cancel() noexcept {
  cancelled_.store(true, std::memory_order_relaxed);
  finish();
  // From here on claim fails; what was claimed before is waited for.
  const std::uint64_t claimed = claimed_.exchange(no_more, std::memory_order_seq_cst);
  if (claimed >= no_more) return;
  while (done_.load(std::memory_order_acquire) != static_cast<std::uint32_t>(claimed)) {
    Word alarm{0};
    futex_wait(alarm, 0, now_ns() + 10'000);
  }
}

}  // namespace dspex
