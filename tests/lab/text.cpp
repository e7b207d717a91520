// Numbers as people and files read them.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/lab/text.hpp>
#include <limits>
#include <set>

#include "../catch.hpp"

namespace text = finegrain::text;

TEST_CASE("Numbers are rounded to what is asked") {
  CHECK(text::fixed(2.499, 2) == "2.50");
  CHECK(text::fixed(-0.5, 0) == "-0");
  CHECK(text::fixed(std::numeric_limits<double>::quiet_NaN(), 2) == "nan");
  CHECK(text::fixed(1e300, 2) == "1e+300");
  CHECK(text::fixed(1.5e-70, 71) == "1.5e-70");  // longer than what it is written to
  CHECK(text::fixed(1e29, 40) == "1e+29");
  CHECK(text::significant(1.54e-9, 2) == "1.5e-09");
  CHECK(text::significant(1250.25, 6) == "1250.25");
  CHECK(text::shortest(0.1) == "0.1");
  CHECK(text::shortest(-std::nan("")) == "nan");
  CHECK(text::rounded(-0.0) == "0");
  CHECK(text::rounded(842) == "842");
  CHECK(text::rounded(999.6) == "1.00 k");
  CHECK(text::rounded(1571000) == "1.57 M");
  CHECK(text::rounded(12.34e9) == "12.3 G");
}

TEST_CASE("Times are said in two units") {
  CHECK(text::duration(-1) == "0 s");
  CHECK(text::duration(59.4) == "59 s");
  CHECK(text::duration(65) == "1 min 05 s");
  CHECK(text::duration(2 * 3600 + 61) == "2 h 01 min");
}

TEST_CASE("Fingerprints of texts differ") {
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(text::fingerprint("seed " + std::to_string(i)));
  CHECK(seen.size() == 1000);
  CHECK(text::hex(0x0123456789abcdef) == "0123456789abcdef");
}

TEST_CASE("Width counts characters, not bytes") {
  CHECK(text::width("") == 0);
  CHECK(text::width("abc") == 3);
  CHECK(text::width("±×α") == 3);
}

TEST_CASE("Shortened numbers end in no zero behind a point") {
  CHECK(text::shortened(5000) == "5 k");
  CHECK(text::shortened(10000) == "10 k");
  CHECK(text::shortened(100e6) == "100 M");
  CHECK(text::shortened(2500) == "2.5 k");
  CHECK(text::shortened(1.4) == "1.4");
  CHECK(text::shortened(1.25) == "1.25");
  CHECK(text::shortened(10) == "10");
  CHECK(text::shortened(0) == "0");
  CHECK(text::shortened(-2.0) == "-2");
}

TEST_CASE("Words that are no UTF-8, or none of XML's characters, are shown as such") {
  for (char const* words :
       {"1 + 7/63", "±0.1 µs", "\xed\x9f\xbf\xee\x80\x80", "\xf4\x8f\xbf\xbf", "\x7f"})
    CHECK(text::escaped(words) == words);
  std::string const none = "\xef\xbf\xbd";
  CHECK(text::escaped("M\xfcller") == "M" + none + "ller");
  CHECK(text::escaped("\xc3") == none);
  CHECK(text::escaped("\xe2\x82<") == none + none + "&lt;");
  CHECK(text::escaped("\xc0\xaf") == none + none);                        // overlong
  CHECK(text::escaped("\xed\xa0\x80") == none + none + none);             // half a surrogate pair
  CHECK(text::escaped("\xf4\x90\x80\x80") == none + none + none + none);  // above U+10FFFF
  CHECK(text::escaped("\xef\xbf\xbe\xef\xbf\xbf a") == none + none + " a");
}
