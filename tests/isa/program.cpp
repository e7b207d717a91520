// Every variant that this machine runs is its own, and its exceptions and types are the program's.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <cstring>
#include <memory>

#include "variant.hpp"

namespace fg = finegrain;

static int failed = 0;
static void check(bool holds, char const* law, char const* isa) {
  if (!holds) ++failed, std::printf("%s: not so: %s\n", isa, law);
}

int main() {
  for (int i = 0; i < 10; ++i) count_call();  // the program's static
  int ran = 0;
  for (fg::isa_variant const* v = make_stage_variants; v->isa; ++v) {
    if (!fg::runs_isa(v->isa)) continue;
    ++ran;
    std::unique_ptr<stage> const s(v->as<decltype(make_stage)>()());
    answer const a = s->run(1000), b = s->run(3);
    check(!std::strcmp(a.compiled_for, v->isa), "its inline functions are its own", v->isa);
    check(a.calls == 1 && b.calls == 2, "its statics are its own", v->isa);
    check(a.sum == 1500 && b.sum == 4.5F, "it computes", v->isa);
    check(dynamic_cast<summing*>(s.get()) != nullptr, "its types are the program's", v->isa);
    bool caught = false;
    try {
      s->run(-1);
    } catch (trouble const& e) {
      caught = !std::strcmp(e.what(), v->isa);
    } catch (...) {
    }
    check(caught, "its exceptions are the program's", v->isa);
  }
  check(ran > 0, "one of them runs", "this machine");
  check(!std::strcmp(compiled_for(), make_stage_variants[0].isa) ==
            (make_stage_variants[1].isa == nullptr),
        "the program is the plainest", "the program");
  return failed;
}
