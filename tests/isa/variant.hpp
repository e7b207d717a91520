// What a linker keeps one of, were it to see it: an inline function, its static, a class's description.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <finegrain/base/isa.hpp>

struct answer {
  char const* compiled_for;
  int calls;
  float sum;
};

// The same name everywhere and another text: what ought not to be written, and what every inline
// function of a library comes to under another -march.
inline char const* compiled_for() {
#if !defined(__x86_64__)
  return "baseline";
#elif defined(FINEGRAIN_HAS_AMX)
  return "x86-64-v4-amx";
#elif defined(__AVX512BF16__)
  return "x86-64-v4-bf16";
#elif defined(__AVX512VNNI__)
  return "x86-64-v4-vnni";
#elif defined(__AVX512F__)
  return "x86-64-v4";
#elif defined(__AVXVNNI__)
  return "x86-64-v3-vnni";
#elif defined(__AVX2__)
  return "x86-64-v3";
#else
  return "x86-64";
#endif
}
inline int count_call() {
  static int calls = 0;
  return ++calls;
}

struct trouble : std::exception {
  char const* what() const noexcept override;  // these two make strong symbols of descriptions
};
struct stage {
  virtual ~stage() = default;
  virtual answer run(int n) = 0;
};
struct summing : stage {
  answer run(int n) override;
};

extern "C" stage* make_stage();
extern "C" finegrain::isa_variant const make_stage_variants[];
