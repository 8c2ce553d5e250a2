// One row from inputs to answer, without a Python object in sight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../model/heads.hpp"
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

  std::size_t sums() const noexcept { return row_lanes(model->columns); }

  // Floats of an answer: [columns] values, [heads] picks (int32), and the confidence.
  std::size_t answer_floats() const noexcept { return model->columns + head_count + 1; }

  // texts: one a text input, in order. dense: the standardised numbers. sums: room for sums() floats.
  // False when the row holds nothing to answer from: no number, and no letter, digit or symbol.
  bool answer(const TextView* texts, std::size_t text_count, const float* dense, float* sums,
              float* out) const noexcept {
    Scorer scorer;
    scorer.begin(model, sums);
    for (std::size_t i = 0; i < text_count; ++i) scorer.add_text(i, texts[i].data, texts[i].size, texts[i].unit);
    if (model->dense_width == 0 && scorer.known_units() + scorer.unknown_units() == 0) return false;
    scorer.finish(dense, out);
    out[model->columns + head_count] =
        answer_heads(heads, head_count, out, reinterpret_cast<std::int32_t*>(out + model->columns));
    return true;
  }
};

}  // namespace dspex
