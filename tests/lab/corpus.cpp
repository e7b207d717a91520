// Windows of a text: deterministic, apart, and complete; and what a text's statistics allow.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <finegrain/lab/corpus.hpp>
#include <fstream>
#include <set>

#include "../catch.hpp"
#include "../folder.hpp"

namespace fg = finegrain;

namespace {
std::string noise(std::size_t n) {
  std::string text(n, ' ');
  for (std::size_t i = 0; i < n; ++i) text[i] = static_cast<char>(fg::random_word(5, i));
  return text;
}
}  // namespace

TEST_CASE("A window's targets are its bytes, one further") {
  fg::corpus const text(noise(40000));
  fg::windows w;
  text.draw(1, 2, 5, 16, w);
  REQUIRE(w.x.size() == 80);
  CHECK(w.starts == std::vector<std::int64_t>{0, 16, 32, 48, 64, 80});
  CHECK(w.batch().sequences() == 5);
  for (std::size_t i = 0; i < 80; ++i)
    if (i % 16 != 15) CHECK(w.y[i] == w.x[i + 1]);
}

TEST_CASE("A text of token ids is cut and drawn from as one of bytes is") {
  std::string const a = noise(40000), b = noise(30000);
  auto const ids_of = [](std::string const& text) {
    std::vector<std::int32_t> ids;  // beyond what a byte holds
    for (char c : text) ids.push_back(1000 + static_cast<unsigned char>(c));
    return ids;
  };
  auto const ids = ids_of(a), others = ids_of(b);
  auto const same = [](fg::corpus const& bytes, fg::corpus const& tokens) {
    CHECK(bytes.size() == tokens.size());
    CHECK(bytes.domains() == tokens.domains());
    CHECK(bytes.validation_windows(16) == tokens.validation_windows(16));
    fg::windows w, v;
    auto const check = [&] {
      REQUIRE(w.x.size() == v.x.size());
      for (std::size_t i = 0; i < w.x.size(); ++i) {
        CHECK(v.x[i] == w.x[i] + 1000);
        CHECK(v.y[i] == w.y[i] + 1000);
      }
      CHECK(w.domains == v.domains);
    };
    bytes.draw(1, 2, 5, 16, w), tokens.draw(1, 2, 5, 16, v);
    check();
    bytes.validate(1, 3, 8, 16, w), tokens.validate(1, 3, 8, 16, v);
    check();
  };
  fg::corpus const text(ids, 1256);
  same(fg::corpus(a), text);
  same(fg::corpus::mixture({"a", "b"}, {a, b}),
       fg::corpus::mixture({"a", "b"}, {ids, others}, 1256));
  CHECK(text.vocabulary() == 1256);
  CHECK(text.unit() == std::string("token"));
  CHECK(text.fingerprint() == fg::corpus(ids, 2000).fingerprint());
  CHECK(text.fingerprint() != fg::corpus(others, 1256).fingerprint());
  CHECK_THROWS_WITH(fg::corpus({3, 1256, 4}, 1256),
                    "token 1 of a text has the id 1256, of a vocabulary of 1256");
  CHECK_THROWS_AS(fg::corpus({-1}, 1256), fg::invalid_argument);
}

TEST_CASE("The same seed and step draw the same windows, whatever came before") {
  fg::corpus const text(noise(40000));
  fg::windows a, b, c;
  text.draw(7, 3, 4, 32, a);
  text.draw(7, 2, 9, 8, b);
  text.draw(7, 3, 4, 32, b);
  CHECK(a.x == b.x);
  CHECK(a.y == b.y);
  text.draw(7, 4, 4, 32, c);
  CHECK(a.x != c.x);
  text.draw(8, 3, 4, 32, c);
  CHECK(a.x != c.x);
}

TEST_CASE("A mixture has equal parts of its texts, and windows say which they are of") {
  std::string const a(5000, 'a'), b(20000, 'b');
  fg::corpus const text = fg::corpus::mixture({"A", "B"}, {a, b});
  CHECK(text.domains() == std::vector<std::string>{"A", "B"});
  CHECK(std::count(text.text().begin(), text.text().end(), 'a') == 5000);
  CHECK(text.size() == 10000);
  fg::windows w;
  std::set<int> seen;
  auto const check = [&] {
    REQUIRE(w.domains.size() + 1 == w.starts.size());
    for (std::size_t i = 0; i < w.domains.size(); ++i) {
      seen.insert(w.domains[i]);
      for (std::int64_t at = w.starts[i]; at < w.starts[i + 1]; ++at)
        CHECK(w.x[static_cast<std::size_t>(at)] == 'a' + w.domains[i]);
    }
  };
  text.draw(0, 0, 12, 8, w);
  check();
  CHECK(seen.size() == 2);
  text.validate(0, 10, 20, 8, w);
  check();
  CHECK(w.domains == std::vector<int>(10, 0));
  text.validate(10, 10, 20, 8, w);
  CHECK(w.domains == std::vector<int>(10, 1));
}

TEST_CASE("A mixture takes its part from all over a long text") {
  std::string longer(16000, 'x');
  for (std::size_t i = 0; i < longer.size(); ++i) longer[i] = static_cast<char>('a' + i / 2000);
  std::string const brief(1600, 's');
  auto const mixed = fg::corpus::mixture({"short", "long"}, {brief, longer});
  std::set<char> const seen(mixed.text().begin() + 1600, mixed.text().end());
  CHECK(seen.size() == 8);
  CHECK_THROWS_AS(fg::corpus::mixture({"a", "b", "c"}, {brief, brief, brief}),
                  fg::invalid_argument);
  CHECK_THROWS_AS(fg::corpus::mixture({"a"}, {brief, brief}), fg::invalid_argument);
  CHECK_THROWS_AS(fg::corpus::mixture({}, {}), fg::invalid_argument);
}

TEST_CASE("No byte is both trained on and validated with") {
  std::string text(16 * 1600, 'v');  // 't' where a training window can reach
  for (std::size_t s = 0; s < 16; ++s)
    for (std::size_t i = 0; i < 1500; ++i) text[s * 1600 + i] = 't';
  fg::corpus const marked(text);
  fg::windows w;
  std::set<std::int32_t> seen;
  for (std::int64_t step = 0; step < 200; ++step) {
    marked.draw(0, step, 8, 64, w);
    seen.insert(w.x.begin(), w.x.end());
    seen.insert(w.y.begin(), w.y.end());
  }
  CHECK(seen == std::set<std::int32_t>{'t'});
  marked.validate(0, marked.validation_windows(30), marked.validation_windows(30), 30, w);
  seen = {w.x.begin(), w.x.end()};
  seen.insert(w.y.begin(), w.y.end());
  CHECK(seen == std::set<std::int32_t>{'v'});
}

TEST_CASE("All validation windows together do not overlap, and a part is spread over the text") {
  std::string text(16 * 1600, '-');
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i / 1600);
  fg::corpus const corpus(text);
  std::int64_t const all = corpus.validation_windows(30);
  CHECK(all == 16 * 3);
  fg::windows w, first, rest;
  corpus.validate(0, 16, 16, 30, w);
  CHECK(std::set<std::int32_t>(w.x.begin(), w.x.end()).size() == 16);
  corpus.validate(0, 5, all, 30, first);
  corpus.validate(5, all - 5, all, 30, rest);
  corpus.validate(0, all, all, 30, w);
  first.x.insert(first.x.end(), rest.x.begin(), rest.x.end());
  CHECK(first.x == w.x);
  CHECK_THROWS_AS(corpus.validate(0, all + 1, all + 1, 30, w), fg::invalid_argument);
}

TEST_CASE("A text that is too short is refused with the numbers") {
  fg::windows w;
  fg::corpus const text(std::string(1000, 'x'));
  CHECK_THROWS_WITH(text.draw(0, 0, 1, 64, w),
                    ContainsSubstring("1000") && ContainsSubstring("64"));
  CHECK_THROWS_WITH(
      text.validation_windows(16),
      "a text of 1000 bytes is too short for windows of 16 and the byte after: of each "
      "of its 16 stretches 3 are for validation");
  CHECK_THROWS_WITH(text.draw(0, 0, 1, 0, w), ContainsSubstring("at least one byte, not of 0"));
  CHECK_THROWS_AS(text.draw(0, 0, -1, 16, w), fg::invalid_argument);
  CHECK_THROWS_AS(fg::corpus("").validation_windows(1), fg::invalid_argument);
}

TEST_CASE("Entropies of texts that can be worked out by hand") {
  CHECK(fg::order1_entropy("") == 0);
  CHECK(fg::order1_entropy("aaaa") == 0);
  CHECK(fg::order1_entropy("abababab") == Approx(0).margin(1e-12));
  CHECK(fg::order1_entropy("aabaab"
                           "aabaab"
                           "a") == Approx(8 * 1.0 / 12));  // after a: a or b
}

TEST_CASE("Files are read one after the other, and compressed if the machine can") {
  folder const dir;
  std::string const odd = dir / "it's a file", other = dir / "b";
  std::ofstream(odd) << std::string(5000, 'a');
  std::ofstream(other) << std::string(3000, 'b');
  auto const text = fg::corpus::read({odd, other});
  CHECK(text.size() == 8000);
  CHECK(text.text().substr(4999, 2) == "ab");
  if (auto const bits = fg::compressed_bits(text, "gzip")) CHECK((*bits > 0 && *bits < 0.2));
  {
    struct back {  // whatever is thrown
      std::filesystem::path before = std::filesystem::current_path();
      ~back() { std::filesystem::current_path(before); }
    } const later;
    std::filesystem::current_path(std::filesystem::path(odd).parent_path());
    std::ofstream("-n") << std::string(3000, 'b');  // no option of a program that reads it
    CHECK(fg::compressed_bits(fg::corpus::read({"-n"}), "gzip") ==
          fg::compressed_bits(fg::corpus::read({"b"}), "gzip"));
  }
  CHECK_FALSE(fg::compressed_bits(text, "no-such-program"));
  CHECK_FALSE(fg::compressed_bits(fg::corpus("text"), "gzip"));
  CHECK_THROWS_WITH(fg::corpus::read({dir / "absent"}),
                    ContainsSubstring("absent: No such file or directory"));
  CHECK(fg::corpus::first_of({{dir / "absent"}, {odd, other}, {odd}}).size() == 8000);
  CHECK_THROWS_AS(fg::corpus::first_of({{dir / "absent"}}), fg::file_error);
}
