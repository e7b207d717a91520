// Laws of expr/node.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/expr/algebra.hpp>
#include <string>
#include <vector>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

struct plain : fg::stage<8, 4> {};

template <int D>
struct weighted : fg::stage<D> {
  static constexpr char const* name = "weighted";
  template <class T>
  struct weights {
    fg::matrix<T> matrix;  // (2, D)
    fg::stack<T> many;     // 3 x (D, D)
    template <class Bind>
    constexpr explicit weights(Bind& bind)
        : matrix(bind.matrix("matrix", 2, D, fg::role::projection)),
          many(bind.stack("many.*.part", 3, D, D, fg::role::projection, 1)) {}
  };
};

/// A user's block: a name for readers, not for weights.
struct block : fg::named {
  static constexpr auto expr = fg::residual(weighted<8>{}) | plain{};
};
/// A name that weights carry, too.
struct titled : fg::named {
  static constexpr char const* name = "titled";
  static constexpr auto expr = block{};
};

/// A `Bind` that writes down what it is told.
struct recorder {
  std::vector<std::string> calls;
  void enter(char const* name) { calls.push_back(std::string("enter ") + name); }
  void enter_next(char const* name) { calls.push_back(std::string("next ") + name); }
  void leave() { calls.push_back("leave"); }
  fg::matrix<float> matrix(char const* name, std::int64_t rows, std::int64_t cols, fg::role) {
    calls.push_back(name);
    return {nullptr, rows, cols};
  }
  fg::stack<float> stack(char const* name, std::int64_t count, std::int64_t rows, std::int64_t cols,
                         fg::role, std::int64_t) {
    calls.push_back(name);
    return {nullptr, count, rows, cols};
  }
};

}  // namespace

TEST_CASE("an expression is an empty type that derives from node") {
  CHECK(fg::Expr<plain>);
  CHECK(fg::Expr<block>);
  CHECK_FALSE(fg::Expr<int>);
  CHECK(fg::Named<block>);
  CHECK_FALSE(fg::Named<plain>);
}

TEST_CASE("a stage without weights of its own has none, costs nothing and keeps nothing") {
  recorder bind;
  static_cast<void>(fg::weights<plain, float>(bind));
  CHECK(bind.calls.empty());
  CHECK(plain::extra_flops(100) == 0);
  CHECK(plain::cache == 0);
}

TEST_CASE("a name is as wide as the expression it stands for") {
  CHECK(fg::in_width<plain>() == 8);
  CHECK(fg::out_width<plain>() == 4);
  CHECK(fg::in_width<titled>() == 8);
  CHECK(fg::out_width<titled>() == 4);
}

TEST_CASE("a stage binds its weights in the order in which it names them, with their shapes") {
  recorder bind;
  fg::weights<weighted<5>, float> const w(bind);
  CHECK(bind.calls == std::vector<std::string>{"matrix", "many.*.part"});
  CHECK(w.matrix.rows == 2);
  CHECK(w.matrix.cols == 5);
  CHECK(w.many.count == 3);
  CHECK(w.many.rows == 5);
}

TEST_CASE("a part's weights stand under its name; a block without one adds nothing to the path") {
  recorder bind;
  static_cast<void>(fg::bind_part<titled, float>(bind));
  CHECK(bind.calls == std::vector<std::string>{"enter titled", "enter weighted", "matrix",
                                               "many.*.part", "leave", "enter stage", "leave",
                                               "leave"});
}
