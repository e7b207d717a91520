// Laws of base/isa.hpp.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <finegrain/base/isa.hpp>
#include <fstream>
#include <sstream>
#include <string>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {
int one() { return 1; }
template <class F>
void (*untyped(F* f))() {
  return reinterpret_cast<void (*)()>(f);
}
/// FINEGRAIN_ISA as the environment has it while this lives.
struct asking {
  explicit asking(char const* isa) { ::setenv("FINEGRAIN_ISA", isa, 1); }
  ~asking() { ::unsetenv("FINEGRAIN_ISA"); }
};
}  // namespace

TEST_CASE("every machine runs the compiler's own instruction set, and none that has no name") {
  CHECK(fg::runs_isa("baseline"));
  CHECK_FALSE(fg::runs_isa(""));
  CHECK_FALSE(fg::runs_isa("x86-64-v5"));
#if defined(__x86_64__)
  CHECK(fg::runs_isa("x86-64"));
#else
  CHECK_FALSE(fg::runs_isa("x86-64"));
#endif
}

#if defined(__x86_64__) && defined(__linux__)
TEST_CASE("an instruction set runs where the system says that the processor has its features") {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && !line.starts_with("flags")) continue;
  line += ' ';
  auto const all = [&](char const* flags) {
    std::istringstream words(flags);
    for (std::string word; words >> word;)
      if (line.find(' ' + word + ' ') == std::string::npos) return false;
    return true;
  };
  bool const v3 = all("avx avx2 bmi1 bmi2 f16c fma abm movbe");
  bool const v4 = v3 && all("avx512f avx512bw avx512cd avx512dq avx512vl");
  CHECK(fg::runs_isa("x86-64-v3") == v3);
  CHECK(fg::runs_isa("x86-64-v4") == v4);
  CHECK(fg::runs_isa("x86-64-v3-vnni") == (v3 && all("avx_vnni")));
  bool const vnni = v4 && all("avx512_vnni");
  CHECK(fg::runs_isa("x86-64-v4-vnni") == vnni);
  bool const bf16 = vnni && all("avx512_bf16 avx512vbmi");
  CHECK(fg::runs_isa("x86-64-v4-bf16") == bf16);
  bool const amx = bf16 && all("amx_tile amx_bf16 amx_int8") && fg::ask_for_matrix_registers();
  CHECK(fg::runs_isa("x86-64-v4-amx") == amx);
}
#endif

#if defined(__x86_64__)
TEST_CASE("AVX's products of integers and AVX-512's are there without one another") {
  using fg::detail::bits;
  struct features {
    bool avx_vnni = false, avx512 = false, avx512_vnni = false, bf16_and_vbmi = false;
    bool amx = false;
  };
  auto const of = [](features has) {
    auto const cpuid = [=](unsigned leaf, unsigned part) -> fg::detail::cpuid_words {
      bool const has_part = has.avx_vnni || has.bf16_and_vbmi;
      if (leaf == 0) return {7, 0, 0, 0};
      if (leaf == 1) return {0, 0, ~0u, 0};
      if (leaf == 0x80000000) return {0x80000001, 0, 0, 0};
      if (leaf == 0x80000001) return {0, 0, bits(0, 5), 0};
      if (part == 0)
        return {has_part, bits(3, 5, 8) | (has.avx512 ? bits(16, 17, 28, 30, 31) : 0),
                (has.avx512_vnni ? bits(11) : 0) | (has.bf16_and_vbmi ? bits(1) : 0),
                has.amx ? bits(22, 24, 25) : 0};
      if (!has_part) return {~0u, ~0u, ~0u, ~0u};  // what such a machine answers is of another leaf
      return {(has.avx_vnni ? bits(4) : 0) | (has.bf16_and_vbmi ? bits(5) : 0), 0, 0, 0};
    };
    auto const runs = fg::detail::x86_runs(cpuid, [](unsigned) { return true; });
    return std::string(runs.v3 ? "v3" : "") + (runs.v3_vnni ? " v3-vnni" : "") +
           (runs.v4 ? " v4" : "") + (runs.v4_vnni ? " v4-vnni" : "") +
           (runs.v4_bf16 ? " v4-bf16" : "") + (runs.v4_amx ? " v4-amx" : "");
  };
  CHECK(of({}) == "v3");                                                     // Haswell
  CHECK(of({.avx_vnni = true}) == "v3 v3-vnni");                             // Alder Lake
  CHECK(of({.avx512 = true}) == "v3 v4");                                    // Skylake
  CHECK(of({.avx512 = true, .avx512_vnni = true}) == "v3 v4 v4-vnni");       // Ice Lake
  CHECK(of({.avx512 = true, .avx512_vnni = true, .bf16_and_vbmi = true}) ==  // Zen 4
        "v3 v4 v4-vnni v4-bf16");
  CHECK(of({true, true, true, true, false}) == "v3 v3-vnni v4 v4-vnni v4-bf16");  // Zen 5
  CHECK(of({true, true, true, true, true}) == "v3 v3-vnni v4 v4-vnni v4-bf16 v4-amx");
}
#endif

TEST_CASE("the best is the first that runs, and has the function's type again") {
  fg::isa_variant const table[] = {
      {"another machine's", nullptr}, {"baseline", untyped(one)}, {"baseline", nullptr}, {}};
  fg::isa_variant const& best = fg::best_isa(table);
  CHECK(&best == &table[1]);
  CHECK(best.as<decltype(one)>()() == 1);
  asking const nothing("");
  CHECK(&fg::best_isa(table) == &table[1]);
}

TEST_CASE("the environment names another, which must be there and run") {
  fg::isa_variant const table[] = {
      {"baseline", nullptr}, {"x86-64", nullptr}, {"new", nullptr}, {}};
  if (fg::runs_isa("x86-64")) {
    asking const first("x86-64");
    CHECK(&fg::best_isa(table) == &table[1]);
  }
  asking const newer("new");
  CHECK_THROWS_WITH(fg::best_isa(table),
                    "this machine does not run new, which FINEGRAIN_ISA asks for");
  asking const unknown("avx");
  CHECK_THROWS_WITH(
      fg::best_isa(table),
      "FINEGRAIN_ISA asks for avx, and the program was built for: baseline, x86-64, new");
}

TEST_CASE("a program that was built for other machines says so") {
  fg::isa_variant const table[] = {{"new", nullptr}, {"newer", nullptr}, {}};
  CHECK_THROWS_WITH(fg::best_isa(table),
                    "this machine runs nothing that the program was built for: new, newer");
  CHECK_THROWS_AS(fg::best_isa(table + 2), fg::invalid_argument);
}
