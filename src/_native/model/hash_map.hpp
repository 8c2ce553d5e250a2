// Open addressing from 64-bit hashes to dense ids, and a bit filter. For building models, not for calls.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace dspex {

// Numbers distinct hashes 0, 1, 2, ... in the order of their first insertion.
class HashMap {
 public:
  static constexpr std::uint32_t none = ~0u;

  std::uint32_t find(std::uint64_t hash) const noexcept {
    if (slots_.empty()) return none;
    for (std::size_t i = hash & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].id == none || slots_[i].hash == hash) return slots_[i].id;
    }
  }

  // The hash's id, and whether it is new.
  std::pair<std::uint32_t, bool> insert(std::uint64_t hash) {
    if (slots_.empty() || 3 * (size_ + 1) > 2 * slots_.size()) grow();
    for (std::size_t i = hash & mask_;; i = (i + 1) & mask_) {
      if (slots_[i].id == none) {
        slots_[i] = {hash, size_};
        return {size_++, true};
      }
      if (slots_[i].hash == hash) return {slots_[i].id, false};
    }
  }

  std::uint32_t size() const noexcept { return size_; }

  template <class Visit>
  void for_each(Visit&& visit) const {
    for (const Slot& s : slots_)
      if (s.id != none) visit(s.hash, s.id);
  }

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::uint32_t id = none;
  };

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 1024 : slots_.size() * 2);
    old.swap(slots_);
    mask_ = slots_.size() - 1;
    for (const Slot& s : old) {
      if (s.id == none) continue;
      std::size_t i = s.hash & mask_;
      while (slots_[i].id != none) i = (i + 1) & mask_;
      slots_[i] = s;
    }
  }

  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  std::uint32_t size_ = 0;
};

// One bit per hash, 16 MiB once used: a rare false "met before" only lets one rare unit in early.
class BitFilter {
 public:
  bool test_and_set(std::uint64_t hash) {
    if (bits_.empty()) bits_.resize(std::size_t{1} << 21);
    std::uint64_t& word = bits_[(hash >> 6) & (bits_.size() - 1)];
    const std::uint64_t bit = std::uint64_t{1} << (hash & 63);
    const bool was_set = (word & bit) != 0;
    word |= bit;
    return was_set;
  }

 private:
  std::vector<std::uint64_t> bits_;
};

}  // namespace dspex
