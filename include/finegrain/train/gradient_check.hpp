// check_gradients: a network's backward pass against differences of its forward pass.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "../model/network.hpp"
#include "loss.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// How gradients are checked.
struct gradient_options {
  double eps = 1e-5;       // half the difference's step; errors of rounding and curvature meet here
  std::uint64_t seed = 0;  // of the linear function of y, where no loss is given
  std::int64_t every = 1;  // checks every so many-th number of a matrix: for large networks
};

/// What was compared, and the worst of it.
struct gradient_report {
  std::int64_t partials = 0;  // compared
  std::int64_t skipped = 0;   // not compared: the function jumps within eps, so it has none there
  double worst = 0;  // largest relative error; infinite where backward left NaN, and with a finding
  std::string where;                    // the number that has it: "mixture.router[17]", or "x[3]"
  double gradient = 0, difference = 0;  // of that number: backward's, and the measured one
  std::string finding;  // what backward does wrong when it is told to add, or a loss, in a sentence
};

namespace detail {

/// The loss direction . y, whose gradient is the direction.
struct linear_loss {
  buffer<double> direction;  // (T, out)
  template <class X>
  double operator()(X const&, std::int64_t first, matrix<double const> y, matrix<double> dy) const {
    double total = 0;
    for (std::int64_t t = 0; t < y.rows; ++t)
      for (std::int64_t c = 0; c < y.cols; ++c) {
        double const of = direction[(first + t) * y.cols + c];
        total += of * y(t, c);
        if (dy.data) dy(t, c) = of;
      }
    return total;
  }
};

/// A network under a loss plus the balance losses, on weights and an x that can be moved. Memory
/// starts as NaN: a pass that reads, or leaves, what nobody wrote shows.
template <Expr E, class X, Loss<X> L>
struct gradient_probe {
  static_assert(std::is_same_v<typename X::scalar, double>,
                "check_gradients: differences need an executor of double");
  using plan = finegrain::plan<X, E>;
  static constexpr int in = in_width<E>(), out = out_width<E>();

  gradient_probe(network<E, X>& net, batch const& b, matrix<double const> given, L const& of)
      : net(net),
        of(of),
        b(b),
        log(network<E, X>::make_log()),
        e(net.extent_of(b.tokens, true)),
        x(numbers(b.tokens * in)),
        y(numbers(b.tokens * out)),
        dy(numbers(b.tokens * out)),
        dx(numbers(b.tokens * in)),
        dw(numbers(weights_size<E>())),
        saved_memory(numbers(saved_bytes<X, E>(e) / 8)),
        scratch_memory(numbers(scratch_bytes<X, E>(e) / 8)) {
    check_call<X>(form_of<E, X>, b, given, view(y, out), true);
    this->b.log = &log;
    for (std::int64_t t = 0; t < given.rows; ++t) std::copy_n(given.row(t), in, x.begin() + t * in);
  }

  double loss() {
    log.next = 0;
    b.taken = 0;
    plan::forward(pass(), net.weights(), saved(), view(x, in), view(y, out));
    return log.balance_loss() + of(on(), 0, outputs(), matrix<double>());
  }
  /// The loss where a number is another, which afterwards, or where the loss throws, is as it was.
  double loss_at(double& number, double other) {
    struct restored {
      double& number;
      double const was = number;
      ~restored() { number = was; }
    } const here{number};
    number = other;
    return loss();
  }
  /// The loss of tokens [first, end) of the last forward, and dy of them.
  double ask(std::int64_t first, std::int64_t end) {
    matrix<double> const made = view(dy, out).middle_rows(first, end - first);
    clear_rows(on(), made);
    return made.rows == 0 ? 0 : of(on(), first, outputs().middle_rows(first, made.rows), made);
  }
  void gradients(finegrain::gradients mode) {
    std::fill(scratch_memory.begin(), scratch_memory.end(), nan);
    std::fill(dx.begin(), dx.end(), nan);
    auto p = pass();
    p.gradients = mode;
    plan::backward(p, net.weights(), saved(), view(x, in), view(dy, out),
                   bind_weights<E, double>(dw.data()), view(dx, in));
  }

  network<E, X>& net;
  L const& of;
  batch b;
  routing_log log;
  extent e;
  buffer<double> x, y, dy, dx, dw;

 private:
  static constexpr double nan = std::numeric_limits<double>::quiet_NaN();

  static buffer<double> numbers(std::int64_t count) {
    buffer<double> made(count);
    std::fill(made.begin(), made.end(), nan);
    return made;
  }
  matrix<double> view(buffer<double> const& m, int width) const {
    return {m.data(), b.tokens, width};
  }
  matrix<double const> outputs() const { return view(y, out); }
  X const& on() const { return net.on(); }
  typename plan::saved saved() const {
    arena memory(reinterpret_cast<std::byte*>(saved_memory.data()), saved_memory.size() * 8);
    return typename plan::saved(memory, e);
  }
  finegrain::pass<X> pass() {
    return {net.on(), b,
            arena(reinterpret_cast<std::byte*>(scratch_memory.data()), scratch_memory.size() * 8),
            e};
  }

  buffer<double> saved_memory, scratch_memory;
};

/// What is wrong with a loss of the whole batch, the last forward's, beside those of its halves: then
/// there is a finding. What is not finite differences show. Leaves the whole's gradient in dy.
template <class Probe>
gradient_report halves_of(Probe& probe) {
  std::int64_t const T = probe.b.tokens, half = T / 2;
  double const a = probe.ask(0, half), b = probe.ask(half, T);
  std::vector<double> const parts(probe.dy.begin(), probe.dy.end());
  double const whole = probe.ask(0, T);
  auto const close = [](double x, double y, double size) {  // as far as they are finite
    return !(std::abs(x - y) > 1e-9 * std::max(1.0, size));
  };
  bool same = close(a + b, whole, std::abs(a) + std::abs(b));
  for (std::int64_t i = 0; i < probe.dy.size(); ++i) {
    double const now = probe.dy[i], before = parts[static_cast<std::size_t>(i)];
    same &= close(now, before, std::abs(now));
  }
  gradient_report report;
  if (same) return report;
  report.worst = std::numeric_limits<double>::infinity();
  report.where = "loss";
  report.finding =
      "the loss of all tokens is not the sum of its halves': the tokens of y are first, first + 1, "
      "... of the batch";
  return report;
}

/// Gradients held against what they ought to be, one after the other.
FINEGRAIN_LAZY struct gradient_comparison {
  double size;  // the least that errors are relative to
  gradient_report report = {};

  /// A gradient, and the loss's differences to the left and to the right of its number.
  void differences(std::string const& name, std::int64_t i, double gradient, double left,
                   double right) {
    double const difference = (left + right) / 2, scale = std::max(size, std::abs(gradient));
    if (std::abs(right - left) > 0.01 * std::max(size, std::abs(difference))) {
      ++report.skipped;
      return;
    }
    ++report.partials;
    double error = std::abs(difference - gradient) / scale;
    if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
    if (error > report.worst || report.where.empty()) note(name, i, error, gradient, difference);
  }
  /// A gradient that backward left when it was told to add, and what was due: the first that is wrong.
  void sum(std::string const& name, std::int64_t i, double left, double due, char const* rule) {
    if (!report.finding.empty() || std::abs(left - due) <= 1e-9 * std::max(size, std::abs(due)))
      return;
    note(name, i, std::numeric_limits<double>::infinity(), left, due);
    char numbers[64];
    std::snprintf(numbers, sizeof numbers, "%g where %g was due", left, due);
    report.finding = "told to add to the gradients of weights that it had made, backward left in " +
                     report.where + " " + numbers + rule;
  }

 private:
  void note(std::string const& name, std::int64_t i, double error, double gradient,
            double difference) {
    report.worst = error;
    report.where = name + "[" + std::to_string(i) + "]";
    report.gradient = gradient;
    report.difference = difference;
  }
};

}  // namespace detail

/// Compares every gradient of backward (of each weight, and of x where it is numbers) with a
/// central difference of forward, under a loss, such as a trainer takes (train/objective.hpp), over
/// an executor of double. The balance losses that the batch asks for are added to it. An error is
/// relative to the largest of the gradient itself, any gradient of x (of any weight where x is ids),
/// and 0.01. A right backward of a block stays below 1e-7; through many layers the function bends
/// more, and a smaller eps is the better one.
///
/// Where a token's choice of experts is so close that it flips within eps, the loss has no
/// derivative: differences to the left and to the right disagree. Such numbers are skipped.
///
/// The loss is asked for all tokens, and for the batch's halves, of which it must be the sum. Then
/// backward is run once more and told to add, as in a step of several batches: gradients of
/// weights must be twice what they were, but for rounding, and that of x what it was.
template <Expr E, class X, Loss<X> L>
gradient_report check_gradients(network<E, X>& net, batch const& b, matrix<double const> x,
                                L const& loss_of, gradient_options const& how = {}) {
  if (how.every < 1 || !(how.eps > 0))
    throw invalid_argument("check_gradients needs eps > 0 and every of at least 1");
  detail::gradient_probe<E, X, L> probe(net, b, x, loss_of);
  double const loss = probe.loss();
  if (gradient_report const wrong = detail::halves_of(probe); !wrong.finding.empty()) return wrong;
  probe.gradients(gradients::overwrite);

  double size = 0.01;
  for (double g : net.in == ids ? probe.dw : probe.dx)
    if (std::abs(g) > size) size = std::abs(g);

  detail::gradient_comparison<> found{size};
  auto const compare = [&](std::string const& name, double* numbers, double const* gradients,
                           std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += how.every) {
      double const right = (probe.loss_at(numbers[i], numbers[i] + how.eps) - loss) / how.eps;
      double const left = (loss - probe.loss_at(numbers[i], numbers[i] - how.eps)) / how.eps;
      found.differences(name, i, gradients[i], left, right);
    }
  };
  for (auto const& entry : net.entries())
    compare(entry.name, net.parameters().data() + entry.offset, probe.dw.data() + entry.offset,
            entry.rows * entry.cols);
  compare("x", probe.x.data(), probe.dx.data(), probe.x.size());
  if (std::isinf(found.report.worst)) return found.report;

  std::vector<double> const dw(probe.dw.begin(), probe.dw.end()),
      dx(probe.dx.begin(), probe.dx.end());
  probe.loss();
  probe.gradients(gradients::accumulate);
  for (auto const& entry : net.entries())
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i)
      found.sum(entry.name, i, probe.dw[entry.offset + i],
                2 * dw[static_cast<std::size_t>(entry.offset + i)],
                ", twice the gradient: pass.gradients says whether to add");
  for (std::int64_t i = 0; i < probe.dx.size(); ++i)
    found.sum("x", i, probe.dx[i], dx[static_cast<std::size_t>(i)],
              ": what is for x is written, not added");
  return found.report;
}

template <Expr E, class X, class L>
requires(!Loss<L, X>) gradient_report
    check_gradients(network<E, X>&, batch const&, matrix<double const>, L const&,
                    gradient_options const& = {}) {
  static_assert(detail::never<L>,
                "check_gradients: a loss is called, const, with (X const& on, std::int64_t first, "
                "matrix<S const> y, matrix<S> dy), and returns a sum");
  return {};
}
/// The same under a random linear function of y.
template <Expr E, class X>
gradient_report check_gradients(network<E, X>& net, batch const& b, matrix<double const> x,
                                gradient_options const& how = {}) {
  detail::linear_loss loss{buffer<double>(b.tokens * net.out)};
  for (std::int64_t i = 0; i < loss.direction.size(); ++i)
    loss.direction[i] = random_normal(how.seed, static_cast<std::uint64_t>(i));
  return check_gradients(net, b, x, loss, how);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
