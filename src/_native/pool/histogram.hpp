// Counts of durations in log-linear buckets, as HdrHistogram has them: 16 for each power of two, so that a value
// is known to within 6.25 %. Equal layouts everywhere: histograms are merged by adding counts.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace dspex {

class Histogram {
 public:
  static constexpr unsigned sub_bits = 4, sub = 1u << sub_bits, top_bit = 48;
  static constexpr std::size_t buckets = (top_bit - sub_bits + 1) * sub;

  static std::size_t bucket_of(std::uint64_t value) noexcept {
    if (value < sub) return static_cast<std::size_t>(value);
    const unsigned high = static_cast<unsigned>(std::bit_width(value)) - 1;
    if (high >= top_bit) return buckets - 1;
    return (high - sub_bits + 1) * sub + static_cast<std::size_t>((value >> (high - sub_bits)) & (sub - 1));
  }

  // The smallest value of a bucket; that of `buckets` is one past the largest.
  static std::uint64_t lower_bound(std::size_t bucket) noexcept {
    if (bucket < sub) return bucket;
    const unsigned shift = static_cast<unsigned>(bucket / sub) - 1;
    return (std::uint64_t{sub} + bucket % sub) << shift;
  }

  // One writer; any number of readers, who see each count whole.
  void add(std::uint64_t value) noexcept {
    std::atomic<std::uint64_t>& count = counts_[bucket_of(value)];
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }

  void add_to(std::uint64_t* counts) const noexcept {
    for (std::size_t i = 0; i < buckets; ++i) counts[i] += counts_[i].load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<std::uint64_t>, buckets> counts_{};
};

}  // namespace dspex
