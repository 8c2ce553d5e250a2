// A finished model as it lies in memory or in a mapped file: an index from hashes to rows of weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "../text/features.hpp"

namespace dspex {

// Open addressing: a unit's hash picks the slot (low bits) and the tag (high bits) that tells it apart.
struct IndexEntry {
  std::uint32_t tag;
  std::uint32_t row;  // no_row: empty
};

inline constexpr std::uint32_t no_row = ~0u;

// Rows of quantised weights: float scale, float norm2, then one int8 a column; columns after the last are 0.
// Rows of float weights: float norm2, then one float a column.
enum class RowFormat : std::uint32_t { f32, i8 };

inline constexpr std::size_t max_f32_columns = 15;  // norm and weights in one cache line
inline constexpr std::size_t i8_header = 8;

constexpr RowFormat row_format(std::size_t columns) noexcept {
  return columns <= max_f32_columns ? RowFormat::f32 : RowFormat::i8;
}

// Weights of an i8 row, in whole vectors.
constexpr std::size_t i8_lanes(std::size_t columns) noexcept { return (columns + 15) / 16 * 16; }

// Bytes from one row to the next. f32 rows are a power of two, so that none straddles a cache line.
constexpr std::size_t row_stride(std::size_t columns) noexcept {
  if (row_format(columns) == RowFormat::i8) return (i8_header + i8_lanes(columns) + 31) / 32 * 32;
  std::size_t stride = 8;
  while (stride < 4 * (1 + columns)) stride *= 2;
  return stride;
}

// Accumulators a call needs: the weights of a row, and for f32 rows the norm before them.
constexpr std::size_t row_lanes(std::size_t columns) noexcept {
  return row_format(columns) == RowFormat::i8 ? i8_lanes(columns) : row_stride(columns) / 4;
}

struct ModelView {
  const IndexEntry* index = nullptr;
  std::size_t slots = 0;             // a power of two, with at least one empty slot
  const std::uint8_t* rows = nullptr;
  std::size_t row_count = 0;
  std::size_t columns = 0;
  const float* bias = nullptr;       // [columns]
  const float* dense = nullptr;      // [dense_width, columns]
  std::size_t dense_width = 0;
  TextOptions text;

  std::uint32_t find(std::uint64_t hash) const noexcept {
    const auto tag = static_cast<std::uint32_t>(hash >> 32);
    for (std::size_t i = hash & (slots - 1);; i = (i + 1) & (slots - 1)) {
      const IndexEntry e = index[i];
      if (e.tag == tag || e.row == no_row) return e.row;
    }
  }

  // What a file could get wrong about the index; everything else is fixed by the arrays' sizes.
  void validate() const {
    if (slots == 0 || (slots & (slots - 1)) != 0) throw std::invalid_argument("the index size is not a power of two");
    std::size_t used = 0;
    bool in_range = true;
    for (std::size_t i = 0; i < slots; ++i) {
      used += index[i].row != no_row;
      in_range &= index[i].row == no_row || index[i].row < row_count;
    }
    if (!in_range) throw std::invalid_argument("the index names a row that does not exist");
    if (used == slots) throw std::invalid_argument("the index has no empty slot");
    validate_rows();
  }

 private:
  // Rows carry floats among their bytes: none may be NaN, infinite or so large that sums could become it, and
  // no norm negative.
  void validate_rows() const {
    const std::size_t stride = row_stride(columns);
    const bool quantised = row_format(columns) == RowFormat::i8;
    const std::size_t floats = quantised ? 2 : 1 + columns, norm = quantised ? 1 : 0;
    constexpr std::uint32_t too_large = (50 + 127) << 23;  // the bits of 2^50
    bool good = true;
    for (std::size_t i = 0; i < row_count; ++i)
      for (std::size_t j = 0; j < floats; ++j) {
        std::uint32_t bits;
        std::memcpy(&bits, rows + i * stride + 4 * j, 4);
        good &= (bits & 0x7FFFFFFFu) < too_large && !(j == norm && bits >> 31 != 0);
      }
    if (!good) throw std::invalid_argument("a row of weights is not finite or far too large");
  }
};

}  // namespace dspex
