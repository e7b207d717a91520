// A user's program that chooses among them.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/isa.hpp>

extern "C" int answer(int x);
extern "C" finegrain::isa_variant const answer_variants[];

int main() { return finegrain::best_isa(answer_variants).as<decltype(answer)>()(21) == 42 ? 0 : 1; }
