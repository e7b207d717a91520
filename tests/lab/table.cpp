// One table in four forms.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/table.hpp>

#include "../catch.hpp"
#include "wellformed.hpp"

namespace fg = finegrain;

namespace {
fg::table example() {
  fg::table t({"model", "bits/byte"});
  t.add({"1+7/63", "2.50 ± 0.01"});
  t.add({"a|b_c", "3,\"x\""});
  return t;
}
}  // namespace

TEST_CASE("Markdown aligns columns by what a reader sees, and escapes bars") {
  CHECK(example().markdown() ==
        "| model  |   bits/byte |\n"
        "| ------ | ----------: |\n"
        "| 1+7/63 | 2.50 ± 0.01 |\n"
        "| a\\|b_c |       3,\"x\" |\n");
}

TEST_CASE("Markdown shows cells that have tags, backslashes and line ends as they are") {
  fg::table t({"model", "bits"});
  t.add({"frozen<int4>", "a\rb"});
  t.add({"a\\|b", "1\n2"});
  CHECK(t.markdown() ==
        "| model         | bits |\n"
        "| ------------- | ---: |\n"
        "| frozen\\<int4> |  a b |\n"
        "| a\\\\\\|b        |  1 2 |\n");
}

TEST_CASE("LaTeX escapes what it would read as commands") {
  CHECK(example().latex() ==
        "\\begin{tabular}{lr}\n\\toprule\nmodel & bits/byte \\\\\n\\midrule\n"
        "1+7/63 & 2.50 $\\pm$ 0.01 \\\\\na|b\\_c & 3,\"x\" \\\\\n\\bottomrule\n\\end{tabular}\n");
}

TEST_CASE("HTML has a head and a body, and escapes what it would read as tags") {
  fg::table t({"a", "b < c"});
  t.add({"x & y", "1"});
  CHECK(t.html() ==
        "<table>\n<thead>\n<tr><th>a</th><th>b &lt; c</th></tr>\n</thead>\n<tbody>\n"
        "<tr><td>x &amp; y</td><td>1</td></tr>\n</tbody>\n</table>\n");
}

TEST_CASE("HTML has no byte that is no character, and no control") {
  fg::table t({"a\x01", "M\xfcller"});
  t.add({"two\nlines", "\xc3"});
  std::string const html = t.html();
  CHECK(wellformed(html) == "");
  for (char const* words : {"<th>a</th><th>M\xef\xbf\xbdller</th>", "<td>two lines</td>"})
    CHECK_THAT(html, ContainsSubstring(words));
}

TEST_CASE("A caption stands below in Markdown and HTML, and nowhere else") {
  fg::table t({"model", "bits"}, "bits: a < b");
  t.add({"x", "1"});
  CHECK(t.markdown() == "| model | bits |\n| ----- | ---: |\n| x     |    1 |\n\nbits: a < b\n");
  CHECK_THAT(t.html(), ContainsSubstring("<table>\n<caption>bits: a &lt; b</caption>\n<thead>\n"));
  for (std::string const& cells : {t.plain(), t.csv(), t.latex()})
    CHECK(cells.find("a < b") == std::string::npos);
}

TEST_CASE("CSV quotes commas and quotes") {
  CHECK(example().csv() == "model,bits/byte\n1+7/63,2.50 ± 0.01\na|b_c,\"3,\"\"x\"\"\"\n");
}

TEST_CASE("Lines of the plain form end in no blanks") {
  fg::table t({"model", "bits"});
  t.add({"gzip", ""});
  CHECK(t.plain() == "model  bits\n-----  ----\ngzip\n");
}

TEST_CASE("A row of another length is refused") {
  auto t = example();
  CHECK_THROWS_AS(t.add({"one"}), fg::invalid_argument);
}
