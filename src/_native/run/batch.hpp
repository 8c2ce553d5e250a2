// Many rows of one program on all cores. The caller reads rows and publishes them in chunks of about equal cost;
// helpers on the pool, and the caller itself, claim chunks and answer them.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../pool/pool.hpp"
#include "answerer.hpp"

namespace dspex {

enum class RowState : std::uint8_t { open, answered, empty };  // empty: nothing to answer from

// The inputs of some rows and their answers. Two of them take turns: while the caller makes Python objects of the
// results of one, and then reads rows into it again, the other is answered.
struct Segment {
  Segment(const Answerer& answerer, std::size_t text_count, std::size_t rows)
      : texts(rows * text_count), dense(rows * answerer.model->dense_width),
        answers(new float[rows * answerer.answer_floats()]), states(rows), capacity(rows) {}

  std::vector<TextView> texts;            // [rows, text inputs]
  std::vector<float> dense;               // [rows, dense width]
  std::unique_ptr<float[]> answers;       // [rows, answer floats]
  std::vector<RowState> states;
  std::size_t capacity, rows = 0;
  std::uint32_t chunks = 0;               // published
  Word done{0};                           // of these
};

class Batch {
 public:
  // Throws std::bad_alloc.
  Batch(const Answerer& answerer, std::size_t text_count, std::size_t segment_rows);

  void retain() noexcept { refs_.fetch_add(1, std::memory_order_relaxed); }
  void release() noexcept {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;  // as in Task::release
  }

  // --- the caller

  Segment& segment(std::size_t turn) noexcept { return segments_[turn % 2]; }
  // Makes the segment ready to be read into; that of two turns ago has been answered.
  void begin(std::size_t turn) noexcept;
  // Rows [first, end) of the segment of this turn are there to be answered.
  void publish(std::size_t turn, std::size_t first, std::size_t end) noexcept;
  // Asks for helpers until there are `helpers` of them; a full pool gives none, and the caller does it all.
  void call_helpers(Pool& pool, std::size_t helpers) noexcept;
  // Answers chunks, of whichever segment, until that of this turn has been answered, or the clock (now_ns) is past
  // `until`. Whether it has been answered.
  bool finish(std::size_t turn, std::int64_t until) noexcept;
  // No chunk is begun any more; returns when those begun have ended.
  void cancel() noexcept;
  // Helpers may go.
  void end() noexcept { ended_.store(true, std::memory_order_release); }

  // --- helpers

  bool help_once() noexcept;              // answers one chunk; false: none to claim
  bool ended() const noexcept { return ended_.load(std::memory_order_acquire); }
  void helper_left() noexcept { helpers_.fetch_sub(1, std::memory_order_relaxed); }

  std::size_t helped() const noexcept { return helped_.load(std::memory_order_relaxed); }

 private:
  struct Chunk {
    std::uint32_t turn, first, end;
  };
  class Claim;
  ~Batch() = default;

  bool claim(std::uint64_t& chunk) noexcept;
  void answer(const Chunk& chunk) noexcept;
  void chunk_done(Segment& segment) noexcept;

  const Answerer answerer_;
  const std::size_t text_count_;
  Segment segments_[2];
  std::vector<Chunk> chunks_;             // a ring: the chunks of two segments at most are in use
  std::atomic<std::uint32_t> refs_{1};
  Pool* pool_ = nullptr;                  // where the helpers are from
  std::atomic<std::size_t> helpers_{0}, helped_{0};
  std::atomic<bool> ended_{false}, cancelled_{false};
  alignas(cache_line) std::atomic<std::uint64_t> published_{0};
  alignas(cache_line) std::atomic<std::uint64_t> claimed_{0};
  alignas(cache_line) std::atomic<std::uint64_t> done_{0};
  std::atomic<bool> sleeping_{false};     // the caller
};

}  // namespace dspex
