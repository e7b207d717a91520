// A learner is its network and trainer, to the bit.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/learner.hpp>
#include <finegrain/reference/reference.hpp>

#include "../catch.hpp"
#include "../folder.hpp"

namespace fg = finegrain;

namespace {
constexpr fg::config moe{.hidden = 8, .width = 4, .routed = 4, .top_k = 2};
struct reader : fg::named {
  static constexpr auto expr =
      fg::embedding<256, 8>{} | fg::residual(fg::mixture<moe>{}) | fg::head<8, 256>{};
};
using network = fg::network<reader, fg::basic_reference<float>>;

fg::windows some() {
  fg::windows w;
  std::string text;
  while (text.size() < 4000) text += "text " + std::to_string(text.size());
  fg::corpus(text).draw(0, 0, 3, 16, w);
  return w;
}
}  // namespace

TEST_CASE("A learner does what its trainer would, and says where tokens went") {
  auto const w = some();
  network net({.deviation = 0.1, .seed = 3});
  fg::trainer train{net, fg::adamw{.lr = 1e-2},
                    fg::training{.routing = {.balance = {.expert = 0.01}}}};
  fg::learner_of<network> learns({.deviation = 0.1, .seed = 3}, {}, {.lr = 1e-2},
                                 {.routing = {.balance = {.expert = 0.01}}});
  for (int step = 0; step < 3; ++step)
    CHECK(learns.step(w).loss == train.step(w.batch(), w.y).loss);
  CHECK(learns.steps() == 3);
  CHECK(learns.evaluate(w) == train.evaluate(w.batch(), w.y));
  REQUIRE(learns.log().layers.size() == 1);
  std::int64_t routed = 0;
  for (std::int64_t n : learns.log().layers[0].load) routed += n;
  CHECK(routed == 2 * 48);
}

TEST_CASE("A learner writes from the end of a text, and goes on from a file") {
  auto const w = some();
  folder const dir;
  fg::learner_of<network> first({.deviation = 0.1}, {}, {}, {}), second({}, {}, {}, {});
  first.step(w);
  first.save(dir / "file");
  second.load(dir / "file");
  std::string a = "xxxxtext", b = "text", c = "text";
  first.write(a, 4, 10, {});
  second.write(b, 4, 10, {});
  second.write(c, 100, 10, {});
  CHECK(a == "xxxx" + b);
  CHECK(b == c);
  CHECK(b.size() == 14);
}

TEST_CASE("A learner is asked under a request, and shows the rows of its routers") {
  auto const w = some();
  network net({.deviation = 0.1, .seed = 3});
  fg::learner_of<network> learns({.deviation = 0.1, .seed = 3}, {}, {}, {});
  double const whole = learns.evaluate(w);
  CHECK(learns.evaluate(w, {.top_k = 1}) != whole);
  std::int64_t routed = 0;
  for (std::int64_t n : learns.log().layers[0].load) routed += n;
  CHECK(routed == 48);
  CHECK(learns.evaluate(w, {.mask_best = 1}) != whole);
  CHECK(learns.evaluate(w) == whole);

  auto const rows = learns.routers();
  REQUIRE(rows.size() == 1);
  REQUIRE(rows[0].size() == 4);
  REQUIRE(rows[0][3].size() == 8);
  CHECK(rows[0][3][5] == net.weight("mixture.router")(3, 5));
}
