#include "stack.hpp"

#include <array>

namespace dspex {
namespace {

constexpr int max_rounds = 25;
constexpr double ridge = 1e-6;  // keeps Newton's matrix regular when two models agree exactly

// Solves a x = b in place by Gauss-Jordan with pivoting; b becomes x.
void solve_dense(std::vector<double>& a, std::vector<double>& b) {
  const std::size_t n = b.size();
  for (std::size_t col = 0; col < n; ++col) {
    std::size_t pivot = col;
    for (std::size_t r = col + 1; r < n; ++r)
      if (std::fabs(a[r * n + col]) > std::fabs(a[pivot * n + col])) pivot = r;
    for (std::size_t c = 0; c < n; ++c) std::swap(a[col * n + c], a[pivot * n + c]);
    std::swap(b[col], b[pivot]);
    const double inv = 1 / a[col * n + col];
    for (std::size_t r = 0; r < n; ++r) {
      if (r == col) continue;
      const double factor = a[r * n + col] * inv;
      for (std::size_t c = col; c < n; ++c) a[r * n + c] -= factor * a[col * n + c];
      b[r] -= factor * b[col];
    }
    for (std::size_t c = 0; c < n; ++c) a[col * n + c] *= inv;
    b[col] *= inv;
  }
}

// Newton's method on a convex loss of a few parameters: the models' coefficients, then the bias.
class StackFit {
 public:
  StackFit(HeadKind kind, std::vector<const float*> scores, const float* targets, const float* weights,
           std::size_t rows, std::size_t columns)
      : kind_(kind), scores_(std::move(scores)), targets_(targets), weights_(weights), rows_(rows), columns_(columns),
        size_(scores_.size() + (kind == HeadKind::softmax ? 0 : 1)) {}

  std::vector<double> run() {
    std::vector<double> x(size_, 0.0);
    for (std::size_t b = 0; b < scores_.size(); ++b) x[b] = 1.0 / static_cast<double>(scores_.size());
    double value = evaluate(x);
    for (int round = 0; round < max_rounds; ++round) {
      std::vector<double> step = gradient_, matrix = hessian_;
      for (std::size_t i = 0; i < size_; ++i) matrix[i * size_ + i] += ridge * (1 + matrix[i * size_ + i]);
      solve_dense(matrix, step);
      double scale = 1, next_value = value;
      std::vector<double> next = x;
      for (; scale > 1e-4; scale /= 2) {
        for (std::size_t i = 0; i < size_; ++i) next[i] = x[i] - scale * step[i];
        next_value = evaluate(next);
        if (next_value <= value) break;
      }
      if (scale <= 1e-4) break;
      const double gain = value - next_value;
      x = next, value = next_value;
      if (gain < 1e-7 * (1 + std::fabs(value))) break;
    }
    return x;
  }

 private:
  double evaluate(const std::vector<double>& x) {
    gradient_.assign(size_, 0.0);
    hessian_.assign(size_ * size_, 0.0);
    double loss = 0;
    std::vector<float> p(columns_);
    for (std::size_t row = 0; row < rows_; ++row) {
      if (weights_[row] <= 0) continue;
      for (std::size_t k = 0; k < columns_; ++k) p[k] = static_cast<float>(logit(x, row, k));
      loss += kind_ == HeadKind::softmax ? add_softmax(p, row) : add_columns(p, row);
    }
    return loss;
  }

  double logit(const std::vector<double>& x, std::size_t row, std::size_t k) const {
    double s = scores_.size() < size_ ? x.back() : 0;
    for (std::size_t b = 0; b < scores_.size(); ++b) s += x[b] * scores_[b][row * columns_ + k];
    return s;
  }

  double add_softmax(std::vector<float>& p, std::size_t row) {
    const std::size_t n = scores_.size();
    const double w = weights_[row];
    const float* t = targets_ + row * columns_;
    softmax(p.data(), p.data(), columns_);
    double loss = 0;
    std::vector<double>& mean = mean_;
    mean.assign(n, 0.0);
    for (std::size_t k = 0; k < columns_; ++k) {
      if (t[k] > 0) loss -= w * t[k] * std::log(std::max(p[k], 1e-30f));
      for (std::size_t b = 0; b < n; ++b) {
        const double s = scores_[b][row * columns_ + k];
        gradient_[b] += w * (p[k] - t[k]) * s;
        mean[b] += p[k] * s;
        for (std::size_t c = 0; c <= b; ++c) hessian_[b * size_ + c] += w * p[k] * s * scores_[c][row * columns_ + k];
      }
    }
    for (std::size_t b = 0; b < n; ++b)
      for (std::size_t c = 0; c <= b; ++c) {
        hessian_[b * size_ + c] -= w * mean[b] * mean[c];
        hessian_[c * size_ + b] = hessian_[b * size_ + c];
      }
    return loss;
  }

  double add_columns(const std::vector<float>& s, std::size_t row) {
    const std::size_t n = scores_.size();
    const double w = weights_[row];
    double loss = 0;
    for (std::size_t k = 0; k < columns_; ++k) {
      const double t = targets_[row * columns_ + k];
      double residual, curvature;
      if (kind_ == HeadKind::sigmoid) {
        const double p = 1 / (1 + std::exp(-static_cast<double>(s[k])));
        loss -= w * (t * std::log(std::max(p, 1e-30)) + (1 - t) * std::log(std::max(1 - p, 1e-30)));
        residual = p - t, curvature = p * (1 - p);
      } else {
        residual = s[k] - t, curvature = 1;
        loss += 0.5 * w * residual * residual;
      }
      const auto x = [&](std::size_t i) { return i < n ? scores_[i][row * columns_ + k] : 1.0f; };
      for (std::size_t b = 0; b < size_; ++b) {
        gradient_[b] += w * residual * x(b);
        for (std::size_t c = 0; c < size_; ++c) hessian_[b * size_ + c] += w * curvature * x(b) * x(c);
      }
    }
    return loss;
  }

  HeadKind kind_;
  std::vector<const float*> scores_;
  const float* targets_;
  const float* weights_;
  std::size_t rows_, columns_, size_;
  std::vector<double> gradient_, hessian_, mean_;
};

}  // namespace

namespace {

// Held-out scores that are no better than chance, or too few, can ask for a slope of zero or less. The model
// is then kept, barely sure of itself: its ranking of the classes is all there is.
constexpr double least_slope = 0.05;

// One pseudo-row of error among all: where every held-out row is right, the best slope would be infinite
// (Platt, 1999, for the same reason).
std::vector<float> smoothed(HeadKind kind, const float* targets, std::size_t rows, std::size_t columns) {
  std::vector<float> out(targets, targets + rows * columns);
  if (kind == HeadKind::number) return out;
  const float share = 1.0f / static_cast<float>(rows + 2);
  const float even = kind == HeadKind::softmax ? 1.0f / static_cast<float>(columns) : 0.5f;
  for (float& t : out) t += share * (even - t);
  return out;
}

// Slope of one model's scores, and the bias that goes with it.
std::vector<double> fit_slope(HeadKind kind, const float* scores, const float* targets, const float* weights,
                              std::size_t rows, std::size_t columns) {
  std::vector<double> x = StackFit(kind, {scores}, targets, weights, rows, columns).run();
  if (x[0] >= least_slope) return x;
  x[0] = least_slope;
  if (kind == HeadKind::softmax) return x;
  // The bias belonged to the slope that was refused: the best one for this slope, by bisection of the mean.
  double low = -30, high = 30;
  for (int step = 0; step < 60; ++step) {
    x[1] = (low + high) / 2;
    double excess = 0;
    for (std::size_t i = 0; i < rows * columns; ++i) {
      const double s = x[0] * scores[i] + x[1];
      excess += weights[i / columns] * ((kind == HeadKind::sigmoid ? 1 / (1 + std::exp(-s)) : s) - targets[i]);
    }
    (excess > 0 ? high : low) = x[1];
  }
  return x;
}

}  // namespace

Stack fit_stack(HeadKind kind, std::span<const float* const> scores, const float* targets, const float* weights,
                std::size_t rows, std::size_t columns) {
  const std::vector<float> soft = smoothed(kind, targets, rows, columns);
  const auto fit = [&](const float* s) { return fit_slope(kind, s, soft.data(), weights, rows, columns); };
  Stack stack;
  std::vector<float> average(rows * columns, 0.0f);
  for (const float* s : scores) {
    const double share = fit(s)[0] / static_cast<double>(scores.size());
    stack.coefficient.push_back(share);
    for (std::size_t i = 0; i < average.size(); ++i) average[i] += static_cast<float>(share) * s[i];
  }
  const std::vector<double> last = fit(average.data());
  for (double& c : stack.coefficient) c *= last[0];
  if (kind != HeadKind::softmax) stack.bias = last.back();
  return stack;
}

}  // namespace dspex
