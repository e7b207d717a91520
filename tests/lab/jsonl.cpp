// Records survive the trip through a file, and a file survives a torn line.
// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <finegrain/lab/jsonl.hpp>

#include "../catch.hpp"
#include "../folder.hpp"

namespace fg = finegrain;

TEST_CASE("A record reads back with the same bits") {
  fg::record r;
  r.set("text", "a \"quoted\" \\ back\nslash\tand \x01 ±").set("third", 1.0 / 3);
  r.set("tiny", 5e-324).set("large", -1.7976931348623157e308).set("nan", std::nan(""));
  r.set("list", std::vector<double>{1, 0.1, -2.5e-7}).set("none", std::vector<double>{});
  auto const back = fg::record::parse(r.line());
  REQUIRE(back);
  CHECK(*back == r);
  CHECK(back->text("text") == r.text("text"));
  CHECK(back->number("third") == 1.0 / 3);
  CHECK(back->number("tiny") == 5e-324);
  CHECK(std::isnan(back->number("nan")));
  CHECK(back->numbers("list") == std::vector<double>{1, 0.1, -2.5e-7});
  CHECK(back->numbers("none").empty());
  CHECK(back->has("none"));
  CHECK_FALSE(back->has("other"));
}

TEST_CASE("What is no record is not read") {
  for (char const* line : {"", "{", "}", "[]", "{\"a\"}", "{\"a\":}", "{\"a\": 1", "{\"a\": 1}x",
                           "{\"a\": [1,]}", "{\"a\": \"b}", "{\"a\": {}}", "{a: 1}", "{\"a\": 1,}",
                           "{\"a\": \"\\u12\"}", "{\"a\": \"\\"}) {
    CAPTURE(line);
    CHECK_FALSE(fg::record::parse(line));
  }
}

TEST_CASE("Every truncation of a log loses its last line only") {
  folder const dir;
  std::string const path = dir / "log.jsonl";
  {
    fg::record_log log(path);
    for (double i : {1.0, 2.0, 3.0}) log.append(fg::record().set("i", i).set("name", "x"));
  }
  std::string const whole = contents(path);
  for (std::size_t length = 0; length <= whole.size(); ++length) {
    put(path, whole.substr(0, length));
    auto const lines = static_cast<std::size_t>(
        std::count(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length), '\n'));
    fg::record_log log(path);
    REQUIRE(log.records().size() == lines);
    log.append(fg::record().set("i", 9.0));
    auto const kept = whole.find_last_of('\n', length - 1);
    REQUIRE(contents(path) ==
            whole.substr(0, length == 0 || kept == whole.npos ? 0 : kept + 1) + "{\"i\": 9}\n");
  }
}

TEST_CASE("When the disk is full, a log has the records that it had") {
  folder const dir;
  std::string const path = dir / "log.jsonl";
  fg::record_log log(path);
  log.append(fg::record().set("i", 1.0));
  std::string const whole = contents(path);
  auto const handler = ::signal(SIGXFSZ, SIG_IGN);
  rlimit usual;
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &usual) == 0);
  for (rlim_t room = 0; room < whole.size(); ++room) {
    std::string reason;
    rlimit const full{whole.size() + room, usual.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &full) == 0);
    try {
      log.append(fg::record().set("i", 2.0));
    } catch (fg::file_error const& e) {
      reason = e.what();
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &usual) == 0);
    CAPTURE(room);
    CHECK_THAT(reason, ContainsSubstring("cannot write") && ContainsSubstring("File too large"));
    CHECK(contents(path) == whole);
    CHECK(log.records().size() == 1);
  }
  ::signal(SIGXFSZ, handler);
  log.append(fg::record().set("i", 3.0));
  CHECK(contents(path) == whole + "{\"i\": 3}\n");
}

TEST_CASE("What was appended is what a later reader gets, of numbers that JSON does not have too") {
  folder const dir;
  double const infinite = std::numeric_limits<double>::infinity();
  fg::record r;
  r.set("run", "a").set("worst", infinite).set("lost", -std::nan(""));
  r.set("list", std::vector<double>{1, -infinite});
  fg::record_log log(dir / "log.jsonl");
  log.append(r);
  fg::record const& now = log.records().back();
  CHECK(std::isnan(now.number("worst")));
  CHECK(std::isnan(now.numbers("list")[1]));
  CHECK_FALSE(std::signbit(now.number("lost")));
  CHECK(now == *fg::record::parse(r.line()));
}

TEST_CASE("A broken line before the last names its file and line") {
  folder const dir;
  std::string const path = dir / "log.jsonl";
  std::string const broken = "{\"a\": 1}\n{\"a\": \n{\"a\": 3}\n";
  put(path, broken);
  CHECK_THROWS_WITH(fg::record_log(path), ContainsSubstring("log.jsonl:2: "));
  CHECK(contents(path) == broken);
}

TEST_CASE("What is no file is no log, and is not read") {
  folder const dir;
  REQUIRE(::mkfifo((dir / "pipe").c_str(), 0600) == 0);
  for (std::string const& path : {dir / "pipe", std::string("/dev/full")})
    CHECK_THROWS_WITH(fg::record_log(path), ContainsSubstring("not a file: " + path));
}

TEST_CASE("A log belongs to one writer at a time") {
  folder const dir;
  std::string const path = dir / "log.jsonl";
  fg::record_log const first(path);
  CHECK_THROWS_WITH(fg::record_log(path),
                    ContainsSubstring("another process, or another study in this one"));
}
