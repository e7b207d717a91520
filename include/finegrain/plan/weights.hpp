// Weights in memory: one array of numbers, cut into an expression's named weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "../base/number.hpp"
#include "../expr/cost.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// One weight matrix: its path, shape, purpose, and where it starts in the array of weights.
struct weight_entry {
  std::string name;  // "layers.0.mixture.experts.3.gate"
  std::int64_t rows = 0, cols = 0, offset = 0;
  finegrain::role role = role::projection;
};

namespace detail {

/// Every weight starts on a cache line, whatever T: 64 numbers of one byte or more.
constexpr std::int64_t padded(std::int64_t numbers) { return (numbers + 63) / 64 * 64; }

/// Whether rounding to 16 bits would undo what a weight is for: the small steps of a selection bias,
/// the high experts of a table. Behind its numbers there is room for as many again, in which plans of
/// 16 bits keep what rounding left of them: see `summed`.
constexpr bool has_rest(role r) { return r == role::selection_bias || r == role::table; }
/// Whether a weight in numbers of type T is a sum of two.
template <class T>
constexpr bool in_two(role r) {
  return sizeof(T) == 2 && has_rest(r);
}
/// Numbers that a weight takes in the array.
constexpr std::int64_t stored_size(std::int64_t numbers, role r) {
  return padded(numbers) * (has_rest(r) ? 2 : 1);
}
/// A weight of `count` numbers from `first` on, with what rounding left of them.
template <class T>
summed<T> with_rest(T const* first, std::int64_t count) {
  return {first, first ? first + padded(count) : nullptr};
}

/// A `Bind` that cuts views out of one array, or only measures it when there is none. One copy of what
/// every weight calls: inlined, that is most of what a config adds to a program.
template <class T>
class weight_binder {
 public:
  constexpr explicit weight_binder(T* data = nullptr) : data_(data) {}
  constexpr void enter(char const*) {}
  constexpr void enter_next(char const*) {}
  constexpr void leave() {}
  FINEGRAIN_ONE_COPY constexpr finegrain::matrix<T> matrix(char const*, std::int64_t rows,
                                                           std::int64_t cols, role r) {
    return {take(stored_size(rows * cols, r)), rows, cols};
  }
  FINEGRAIN_ONE_COPY constexpr finegrain::stack<T> stack(char const*, std::int64_t count,
                                                         std::int64_t rows, std::int64_t cols, role,
                                                         std::int64_t) {
    return {take(padded(count * rows * cols)), count, rows, cols};
  }
  constexpr std::int64_t size() const { return used_; }

 private:
  constexpr T* take(std::int64_t places) {
    std::int64_t const at = used_;
    used_ += places;
    return data_ ? data_ + at : nullptr;
  }
  T* data_;
  std::int64_t used_ = 0;
};

/// A `Bind` that writes down names, in the order and at the offsets of weight_binder.
FINEGRAIN_LAZY class weight_lister {
 public:
  std::vector<weight_entry> entries;

  weight_lister() = default;
  FINEGRAIN_ONE_COPY ~weight_lister() = default;

  /// A part is called part, part_2, part_3, ...: another may be called so by itself.
  void enter(char const* part) {
    auto const numbered = [part](int n) {
      return n == 1 ? std::string(part) : std::string(part) + "_" + std::to_string(n);
    };
    int n = count(&named_part::part, part) + 1;
    while (count(&named_part::name, numbered(n)) > 0) ++n;
    push(part, numbered(n));
  }
  void enter_next(char const* part) {
    push(part, std::string(part) + "." + std::to_string(count(&named_part::part, part)));
  }
  void leave() {
    path_.resize(scopes_.back().length);
    parts_.resize(scopes_.back().parts);
    scopes_.pop_back();
  }
  /// Where it is: "layers.0.mixture".
  std::string path() const { return path_.substr(0, path_.size() - (path_.empty() ? 0 : 1)); }
  FINEGRAIN_ONE_COPY finegrain::matrix<char> matrix(char const* name, std::int64_t rows,
                                                    std::int64_t cols, role r) {
    if (rows * cols > 0) entries.push_back({path_ + name, rows, cols, offset_, r});
    offset_ += stored_size(rows * cols, r);
    return {};
  }
  finegrain::stack<char> stack(char const* name, std::int64_t n, std::int64_t rows,
                               std::int64_t cols, role r, std::int64_t) {
    std::string const pattern = name;
    auto const star = pattern.find('*');
    for (std::int64_t i = 0; i < n; ++i)
      entries.push_back(
          {path_ + pattern.substr(0, star) + std::to_string(i) + pattern.substr(star + 1), rows,
           cols, offset_ + i * rows * cols, r});
    offset_ += padded(n * rows * cols);
    return {};
  }

 private:
  struct named_part {
    std::string part, name;
  };
  /// How many parts the innermost scope has had with this.
  int count(std::string named_part::*what, std::string const& is) const {
    int earlier = 0;
    for (std::size_t i = scopes_.empty() ? 0 : scopes_.back().parts; i < parts_.size(); ++i)
      earlier += parts_[i].*what == is;
    return earlier;
  }
  void push(char const* part, std::string const& name) {
    parts_.push_back({part, name});
    scopes_.push_back({path_.size(), parts_.size()});
    path_ += name + ".";
  }

  struct scope {
    std::size_t length, parts;  // of path_ and parts_ outside of it
  };
  std::string path_;
  std::vector<scope> scopes_;      // that are open
  std::vector<named_part> parts_;  // that they have had, one scope's behind another's
  std::int64_t offset_ = 0;
};

/// A weight that is called as an earlier one is gets a number, as parts do: the second of two blends'
/// `mix`, or what a stage `layers.0` has beside a repeat's. (By sorting: there may be 100,000.)
FINEGRAIN_LAZY void tell_apart(std::vector<weight_entry>& entries) {
  std::vector<weight_entry*> sorted, again;
  for (weight_entry& w : entries) sorted.push_back(&w);
  std::sort(sorted.begin(), sorted.end(), [](weight_entry const* a, weight_entry const* b) {
    int const order = a->name.compare(b->name);
    return order < 0 || (order == 0 && a < b);
  });
  for (std::size_t i = 1; i < sorted.size(); ++i)
    if (sorted[i]->name == sorted[i - 1]->name) again.push_back(sorted[i]);
  for (weight_entry* w : again) {
    std::string numbered;
    auto const is_taken = [&](weight_entry const& other) { return other.name == numbered; };
    int n = 2;
    do numbered = w->name + "_" + std::to_string(n++);
    while (std::any_of(entries.begin(), entries.end(), is_taken));
    w->name = numbered;
  }
}

}  // namespace detail

/// Numbers in the array that holds an expression's weights: parameters, fixed ones, and padding.
template <Expr E>
constexpr std::int64_t weights_size() {
  detail::weight_binder<char> bind;
  static_cast<void>(weights<E, char>(bind));
  return bind.size();
}

/// Views of an expression's weights in an array of weights_size<E>() numbers.
template <Expr E, class T>
constexpr weights<E, T> bind_weights(T* data) {
  detail::weight_binder<T> bind(data);
  return weights<E, T>(bind);
}

/// Name, shape and place of every weight matrix, in the array's order.
template <Expr E>
std::vector<weight_entry> list_weights() {
  detail::weight_lister<> list;
  static_cast<void>(weights<E, char>(list));
  detail::tell_apart(list.entries);
  return std::move(list.entries);
}

}  // namespace finegrain::inline FINEGRAIN_ABI
