#include "scorer.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include "../clones.hpp"

namespace dspex {
namespace {

// Vectors spelled out: left to itself the compiler converts the weights one by one.
using Shorts = std::int16_t __attribute__((vector_size(16)));
using WideShorts = std::int16_t __attribute__((vector_size(32)));
using Bytes = std::int8_t __attribute__((vector_size(16)));

// sums[k] += weight * scale * q[k] over Lanes lanes from `at`, which stay in registers for all hits.
template <std::size_t Lanes>
inline __attribute__((always_inline)) void add_i8_lanes(const Hit* hits, std::size_t count, std::size_t at,
                                                        float* sums) {
  constexpr std::size_t n = Lanes / 8;
  Floats own[n];
  std::memcpy(own, sums + at, sizeof own);
  for (std::size_t i = 0; i < count; ++i) {
    float scale;
    std::memcpy(&scale, hits[i].row, 4);
    const float factor = hits[i].weight * scale;
    const std::uint8_t* p = hits[i].row + i8_header + at;
#pragma GCC unroll 4
    for (std::size_t v = 0; v < n; v += 2) {
      Bytes q;
      std::memcpy(&q, p + 8 * v, 16);
      // Doubling the width in each step is what every instruction set has an instruction for.
      const WideShorts wide = __builtin_convertvector(q, WideShorts);
      Shorts half[2];
      std::memcpy(half, &wide, sizeof half);
      own[v] += factor * __builtin_convertvector(__builtin_convertvector(half[0], Ints), Floats);
      own[v + 1] += factor * __builtin_convertvector(__builtin_convertvector(half[1], Ints), Floats);
    }
  }
  std::memcpy(sums + at, own, sizeof own);
}

// Returns the squared norm of what was added. lanes is a multiple of 16.
DSPEX_CLONES float add_i8(const Hit* hits, std::size_t count, std::size_t lanes, float* sums) {
  std::size_t at = 0;
  for (; at + 64 <= lanes; at += 64) add_i8_lanes<64>(hits, count, at, sums);
  if (at + 32 <= lanes) add_i8_lanes<32>(hits, count, at, sums), at += 32;
  if (at < lanes) add_i8_lanes<16>(hits, count, at, sums);
  float norm2 = 0;
  for (std::size_t i = 0; i < count; ++i) {
    float own;
    std::memcpy(&own, hits[i].row + 4, 4);
    norm2 += hits[i].weight * hits[i].weight * own;
  }
  return norm2;
}

template <std::size_t Lanes>
inline float add_f32_fixed(const Hit* hits, std::size_t count, float* __restrict sums) {
  float norm2 = 0;
  for (std::size_t i = 0; i < count; ++i) {
    float row[Lanes];
    std::memcpy(row, hits[i].row, sizeof row);
    norm2 += hits[i].weight * hits[i].weight * row[0];
    for (std::size_t k = 0; k < Lanes; ++k) sums[k] += hits[i].weight * row[k];
  }
  return norm2;
}

DSPEX_CLONES float add_f32(const Hit* hits, std::size_t count, std::size_t lanes, float* __restrict sums) {
  switch (lanes) {
    case 2: return add_f32_fixed<2>(hits, count, sums);
    case 4: return add_f32_fixed<4>(hits, count, sums);
    case 8: return add_f32_fixed<8>(hits, count, sums);
    default: return add_f32_fixed<16>(hits, count, sums);
  }
}

// Collects units and looks them up a block at a time: slots of the index are fetched while tokens are still
// being made, rows of weights while slots are compared. Found or not is kept off the branches.
class UnitBlock {
 public:
  // hits: room for 65 after the first `kept` ones; `limit` is how many of them may be kept.
  UnitBlock(const ModelView& model, std::size_t field, bool stable_text, float* sums, Hit* hits, std::size_t kept,
            std::size_t limit) noexcept
      : kept(kept), model_(model), sums_(sums), hits_(hits), limit_(limit),
        lanes_(row_lanes(model.columns)), stride_(row_stride(model.columns)),
        ngram_salt_(field_salt(Salt::ngram, field)), quantised_(row_format(model.columns) == RowFormat::i8),
        stable_text_(stable_text) {}

  void operator()(const TextUnit& u) noexcept {
    prefetch_slot(u.hash);
    Pending& p = pending_[size_];
    p.hash = u.hash, p.is_word = u.is_word(), p.has_ngrams = u.has_ngrams();
    p.bytes = static_cast<std::uint16_t>(u.bytes), p.chars = static_cast<std::uint16_t>(u.chars);
    p.text = u.text;
    if (!stable_text_ && p.has_ngrams) {
      std::memcpy(texts_[size_], u.text, u.bytes + 1);
      p.text = texts_[size_];
    }
    if (++size_ == capacity) resolve();
  }

  void resolve() noexcept {
    std::size_t misses = 0;
    const std::uint32_t words_before = known;
    for (std::size_t i = 0; i < size_; ++i) {
      const bool found = hit(pending_[i].hash, 1.0f);
      known += found & pending_[i].is_word;
      missed_[misses] = static_cast<std::uint8_t>(i);
      misses += !found & pending_[i].is_word;
    }
    known_pairs += static_cast<std::uint32_t>(hit_count_) - (known - words_before);
    units += static_cast<std::uint32_t>(size_);
    add_hits();
    unknown += static_cast<std::uint32_t>(misses);
    for (std::size_t m = 0; m < misses; ++m)
      if (pending_[missed_[m]].has_ngrams) spell(pending_[missed_[m]]);
    size_ = 0;
  }

  float norm2 = 0;
  std::uint32_t known = 0, unknown = 0;  // words
  std::uint32_t known_pairs = 0, units = 0;
  std::size_t kept;

 private:
  static constexpr std::size_t capacity = 64;

  struct Pending {
    std::uint64_t hash;
    const char* text;
    std::uint16_t bytes, chars;
    bool is_word, has_ngrams;
  };

  void prefetch_slot(std::uint64_t hash) const noexcept {
    __builtin_prefetch(model_.index + (hash & (model_.slots - 1)));
  }

  bool hit(std::uint64_t hash, float weight) noexcept {
    const std::uint32_t row = model_.find(hash);
    const bool found = row != no_row;
    const std::uint8_t* p = model_.rows + (found ? row : 0) * stride_;
    for (std::size_t line = 0; line < stride_; line += 64) __builtin_prefetch(p + line);
    hits_[kept + hit_count_] = {p, weight};
    hit_count_ += found;
    return found;
  }

  // An unknown word is the sum of its n-grams.
  void spell(const Pending& word) noexcept {
    const NgramRange range = model_.text.ngrams;
    const float weight = model_.text.ngram_weight(ngram_count(word.chars, range));
    std::uint64_t hashes[capacity];
    std::size_t count = 0;
    const auto look_up = [&] {
      for (std::size_t i = 0; i < count; ++i) hit(hashes[i], weight);
      add_hits();
      count = 0;
    };
    for_each_ngram(word.text, word.bytes, word.chars, range, ngram_salt_,
                   [&](const char*, std::size_t, std::uint64_t hash) {
                     prefetch_slot(hash);
                     hashes[count++] = hash;
                     if (count == capacity) look_up();
                   });
    look_up();
  }

  // Adds the rows that were hit. They stay where they are while there is room.
  void add_hits() noexcept {
    const Hit* fresh = hits_ + kept;
    norm2 += quantised_ ? add_i8(fresh, hit_count_, lanes_, sums_) : add_f32(fresh, hit_count_, lanes_, sums_);
    kept = kept + hit_count_ < limit_ ? kept + hit_count_ : limit_;
    hit_count_ = 0;
  }

  const ModelView& model_;
  float* sums_;
  Hit* hits_;
  std::size_t limit_;
  std::size_t lanes_, stride_, size_ = 0, hit_count_ = 0;
  std::uint64_t ngram_salt_;
  bool quantised_, stable_text_;
  Pending pending_[capacity];
  std::uint8_t missed_[capacity + 1];
  char texts_[capacity][4 * max_token_chars + read_slack];
};

// Where a text's rows and counts go.
struct Sink {
  float* sums;
  Hit* hits;
  std::size_t& kept;
  std::size_t limit;
  Familiar& familiar;
  float& norm2;

  void add(const UnitBlock& block) const noexcept {
    const std::uint32_t words = block.known + block.unknown;
    familiar.known_words += static_cast<float>(block.known);
    familiar.unknown_words += static_cast<float>(block.unknown);
    familiar.known_pairs += static_cast<float>(block.known_pairs);
    familiar.unknown_pairs += static_cast<float>(block.units - words - block.known_pairs);
    norm2 += block.norm2;
    kept = block.kept;
  }
};

// The usual text, for every instruction set.
DSPEX_CLONES bool add_ascii_text(const ModelView& model, const Sink& sink, std::size_t field,
                                 const std::uint8_t* text, std::size_t size) {
  AsciiText ascii;
  if (!ascii.read(text, size)) return false;
  UnitBlock block(model, field, true, sink.sums, sink.hits, sink.kept, sink.limit);
  UnitMaker maker(field, model.text, block);
  ascii.tokens(maker);
  block.resolve();
  sink.add(block);
  return true;
}

void add_any_text(const ModelView& model, const Sink& sink, std::size_t field, const void* text, std::size_t size,
                  unsigned unit_bytes) {
  UnitBlock block(model, field, false, sink.sums, sink.hits, sink.kept, sink.limit);
  for_each_unit(text, size, unit_bytes, field, model.text, block);
  block.resolve();
  sink.add(block);
}

}  // namespace

void Scorer::begin(const ModelView* model, float* sums, bool keep) noexcept {
  model_ = model, sums_ = sums, keep_ = keep, familiar_ = {}, norm2_ = 0, kept_ = 0;
  std::fill_n(sums_, row_lanes(model->columns), 0.0f);
}

void Scorer::add_text(std::size_t field, const void* text, std::size_t size, unsigned unit_bytes) noexcept {
  const Sink sink{sums_, hits_, kept_, keep_ ? gate_hits : 0, familiar_, norm2_};
  if (unit_bytes != 1 || !add_ascii_text(*model_, sink, field, static_cast<const std::uint8_t*>(text), size))
    add_any_text(*model_, sink, field, text, size, unit_bytes);
}

void Scorer::finish(const float* dense, float* logits) noexcept {
  const ModelView& model = *model_;
  const float inv = norm2_ > 0 ? 1 / std::sqrt(norm2_) : 0;
  const float* sums = sums_ + (row_format(model.columns) == RowFormat::f32 ? 1 : 0);
  const std::size_t columns = model.columns;
  for (std::size_t k = 0; k < columns; ++k) logits[k] = sums[k] * inv + model.bias[k];
  for (std::size_t d = 0; d < model.dense_width; ++d)
    for (std::size_t k = 0; k < columns; ++k) logits[k] += dense[d] * model.dense[d * columns + k];
}

Evidence Scorer::evidence(std::size_t column, float sign) const noexcept {
  float w[gate_hits];
  if (row_format(model_->columns) == RowFormat::i8) {
    const std::size_t at = i8_header + column;
    for (std::size_t i = 0; i < kept_; ++i) {
      float scale;
      std::memcpy(&scale, hits_[i].row, 4);
      w[i] = hits_[i].weight * scale * static_cast<float>(static_cast<std::int8_t>(hits_[i].row[at]));
    }
  } else {
    const std::size_t at = 4 + 4 * column;
    for (std::size_t i = 0; i < kept_; ++i) {
      std::memcpy(&w[i], hits_[i].row + at, 4);
      w[i] *= hits_[i].weight;
    }
  }
  for (std::size_t i = kept_; i % 8 != 0; ++i) w[i] = 0;
  const float inv = norm2_ > 0 ? 1 / std::sqrt(norm2_) : 0;
  return evidence_of(w, kept_, sign * inv);
}

float unpack_row(const ModelView& model, std::uint32_t row, float factor, float* out) {
  const std::uint8_t* p = model.rows + row * row_stride(model.columns);
  float header[2];
  std::memcpy(header, p, 8);
  if (row_format(model.columns) == RowFormat::i8) {
    const auto* q = reinterpret_cast<const std::int8_t*>(p + i8_header);
    for (std::size_t k = 0; k < model.columns; ++k) out[k] = factor * header[0] * static_cast<float>(q[k]);
    return factor * factor * header[1];
  }
  std::memcpy(out, p + 4, 4 * model.columns);
  for (std::size_t k = 0; k < model.columns; ++k) out[k] *= factor;
  return factor * factor * header[0];
}

void visit_contributions(const ModelView& model, std::size_t field, const void* text, std::size_t size,
                         unsigned unit_bytes, bool unfold, ContributionSink sink, void* context) {
  std::vector<float> weights(model.columns);
  std::string word, previous, before;
  const auto emit = [&](std::uint64_t hash, float factor, std::string_view own, std::string_view first,
                        std::uint32_t kind) {
    const std::uint32_t row = model.find(hash);
    if (row == no_row) return false;
    const float norm2 = unpack_row(model, row, factor, weights.data());
    sink(context, {own.data(), own.size(), first.data(), first.size(), field, kind, weights.data(), norm2, row});
    return true;
  };
  auto on_unit = [&](const TextUnit& u) {
    if (!u.is_word()) {
      const bool skip = u.kind == TextUnit::Kind::skip;
      emit(u.hash, 1.0f, word, skip ? before : previous, skip ? 2 : 1);
      return;
    }
    before = std::move(previous), previous = std::move(word);
    word.assign(u.text, u.bytes);
    if ((emit(u.hash, 1.0f, word, {}, 0) && !unfold) || !u.has_ngrams()) return;
    const float weight = model.text.ngram_weight(ngram_count(u.chars, model.text.ngrams));
    for_each_ngram(u.text, u.bytes, u.chars, model.text.ngrams, field_salt(Salt::ngram, field),
                   [&](const char* p, std::size_t n, std::uint64_t hash) { emit(hash, weight, {p, n}, {}, 3); });
  };
  for_each_unit(text, size, unit_bytes, field, model.text, on_unit);
}

}  // namespace dspex
