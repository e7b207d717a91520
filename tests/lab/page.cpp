// A report as Markdown and as HTML.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/grid.hpp>
#include <finegrain/lab/page.hpp>

#include "../catch.hpp"
#include "../folder.hpp"
#include "wellformed.hpp"

namespace fg = finegrain;

namespace {
fg::page example() {
  fg::page more("");
  fg::table t({"model", "a < b"});
  t.add({"x & y", "1"});
  more.add(t, "numbers");
  fg::page page("Shared & routed");
  page.text("Is 1 < 2?");
  page.heading("Numbers");
  page.add(more);
  page.picture(fg::picture::draw_grids("", "", {{"a", {{1}}}}, 0, 1), "cells", "One <cell>");
  return page;
}
}  // namespace

TEST_CASE("A page is Markdown that points to its pictures") {
  CHECK(example().markdown() ==
        "# Shared & routed\n\nIs 1 < 2?\n\n## Numbers\n\n| model | a \\< b |\n"
        "| ----- | -----: |\n| x & y |      1 |\n\n![One <cell>](cells.svg)\n");
}

TEST_CASE("A page is HTML with its pictures inside, and needs no other file") {
  std::string const html = example().html();
  CHECK(wellformed(html.substr(html.find("<html"))) == "");
  for (char const* words : {"<h1>Shared &amp; routed</h1>", "<p>Is 1 &lt; 2?</p>",
                            "<td>x &amp; y</td>", "<svg ", "<title>1.00</title>"})
    CHECK_THAT(html, ContainsSubstring(words));
  for (char const* word : {"src=", "href=", "id="}) CHECK(html.find(word) == html.npos);
}

TEST_CASE("Lines of a text are words apart in HTML, and names of pictures may have spaces") {
  fg::page page("Two\nlines");
  page.text("one\ntwo\tthree");
  page.picture("<svg/>", "seed by seed", "");
  CHECK_THAT(page.html(), ContainsSubstring("<p>one two three</p>"));
  CHECK_THAT(page.html(), ContainsSubstring("<h1>Two lines</h1>"));
  CHECK_THAT(page.markdown(), ContainsSubstring("![](<seed by seed.svg>)"));
}

TEST_CASE("A page is written as files") {
  folder const dir;
  example().write(dir.path);
  CHECK(contents(dir / "README.md") == example().markdown());
  CHECK(contents(dir / "index.html") == example().html());
  CHECK(contents(dir / "numbers.csv") == "model,a < b\nx & y,1\n");
  CHECK(wellformed(contents(dir / "cells.svg")) == "");
  example().write(dir / "new/folder");
  CHECK(contents(dir / "new/folder/README.md") == example().markdown());
  CHECK_THROWS_AS(example().write(dir / "README.md"), fg::file_error);
}
