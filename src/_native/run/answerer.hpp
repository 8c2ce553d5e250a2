// One row from inputs to answer, without a Python object in sight.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../model/gate.hpp"
#include "../model/heads.hpp"
#include "../model/math.hpp"
#include "../model/scorer.hpp"

namespace dspex {

// A text where it lies: code points of 1, 2 or 4 bytes, as Python keeps them.
struct TextView {
  const void* data;
  std::size_t size;  // code points
  std::uint32_t unit;

  std::size_t bytes() const noexcept { return size * unit; }
};

struct Answerer {
  const ModelView* model = nullptr;
  const AnswerHead* heads = nullptr;
  std::size_t head_count = 0;
  const float* gate = nullptr;  // [heads, gate_floats], or none
  float floor = -std::numeric_limits<float>::infinity();  // familiarity below which the score is 0
  float* features = nullptr;    // where a gate's features go too, [heads, gate_features]; for those who ask why

  std::size_t sums() const noexcept { return row_lanes(model->columns); }

  // Floats of an answer: [columns] values, [heads] picks (int32), the confidence, the score (2: none), the
  // familiarity (infinite: no gate).
  std::size_t answer_floats() const noexcept { return model->columns + head_count + 3; }

  // texts: one a text input, in order. dense: the standardised numbers. sums: room for sums() floats.
  // False when the row holds nothing to answer from: no number, and no letter, digit or symbol.
  bool answer(const TextView* texts, std::size_t text_count, const float* dense, float* sums,
              float* out) const noexcept {
    Scorer scorer;
    scorer.begin(model, sums, gate != nullptr);
    for (std::size_t i = 0; i < text_count; ++i) scorer.add_text(i, texts[i].data, texts[i].size, texts[i].unit);
    if (model->dense_width == 0 && !scorer.any_units()) return false;
    scorer.finish(dense, out);
    float* sure = out + model->columns + head_count;
    auto* picks = reinterpret_cast<std::int32_t*>(out + model->columns);
    if (gate != nullptr) {
      answer_gated(scorer, out, picks, sure);
    } else {
      sure[0] = sure[1] = answer_heads(heads, head_count, out, picks);
      sure[2] = std::numeric_limits<float>::infinity();
    }
    return true;
  }

 private:
  // sure: the least confidence, score and familiarity of the heads.
  void answer_gated(const Scorer& scorer, float* values, std::int32_t* picks, float* sure) const noexcept {
    float odds = std::numeric_limits<float>::infinity();
    sure[0] = 2, sure[2] = odds;
    for (std::size_t h = 0; h < head_count; ++h) {
      const AnswerHead& head = heads[h];
      const Standing at = standing(head, values + head.first);
      const float own = answer_head(head, &at, values + head.first, picks[h]);
      float seen[gate_features];
      const Evidence evidence = scorer.evidence(head.first + at.column, at.sign);
      const float z = gate_log_odds(gate + h * gate_floats, at, own, evidence, scorer.familiar(), seen);
      odds = std::min(odds, z);
      sure[2] = std::min(sure[2], familiarity(head, at, z));
      if (features != nullptr) std::copy_n(seen, gate_features, features + h * gate_features);
      sure[0] = std::min(sure[0], own);
    }
    sure[1] = sure[2] < floor ? 0 : sigmoid(odds);
  }
};

}  // namespace dspex
