// One name for what the tests use of Catch2, version 2 or 3.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif

namespace matchers = Catch::Matchers;

#if defined(CATCH_VERSION_MAJOR) && CATCH_VERSION_MAJOR >= 3
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
#else
using Catch::Detail::Approx;
inline auto ContainsSubstring(std::string const& text) { return Catch::Matchers::Contains(text); }
#endif
using Catch::Matchers::WithinAbs;
using Catch::Matchers::WithinRel;

#ifndef SKIP  // Catch2 below 3.3: the test passes, with a warning that says why it did nothing
#define SKIP(why)               \
  do {                          \
    WARN("skipped: " << (why)); \
    return;                     \
  } while (false)
#endif
