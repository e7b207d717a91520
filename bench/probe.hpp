// What this machine can do at most, measured beside whatever is being judged.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <finegrain/cpu/amx_tile.hpp>
#include <finegrain/cpu/executor.hpp>
#include <finegrain/cpu/simd.hpp>
#include <memory>
#include <new>
#include <vector>

namespace bench {

namespace fg = finegrain;

inline double seconds_of(auto&& f) {
  auto const start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Keeps a result that nobody reads.
inline void keep(float value) { asm volatile("" : : "m"(value)); }

/// Memory on large pages where the system gives them: what streams fastest.
class large_memory {
 public:
  large_memory() = default;
  explicit large_memory(std::int64_t bytes) : bytes_((bytes + page - 1) / page * page) {
    if (bytes_ == 0) return;
    memory_.reset(std::aligned_alloc(page, static_cast<std::size_t>(bytes_)));
    if (!memory_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    ::madvise(memory_.get(), static_cast<std::size_t>(bytes_), MADV_HUGEPAGE);
#endif
  }
  std::byte* data() const { return static_cast<std::byte*>(memory_.get()); }
  float* floats() const { return static_cast<float*>(memory_.get()); }
  std::int64_t bytes() const { return bytes_; }

 private:
  struct release {
    void operator()(void* p) const { std::free(p); }
  };
  static constexpr std::int64_t page = 2 << 20;
  std::int64_t bytes_ = 0;
  std::unique_ptr<void, release> memory_;
};

// A loop of one instruction on independent sums, as many as hide its latency (20 with 32 registers,
// 12 with 16). It is one block of assembler: compilers move such sums to the stack.
#if defined(__AVX512F__)
#define BENCH_SUMS "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19"
#define BENCH_REGISTER "%%zmm"
#define BENCH_SOURCE "%%zmm31"
#define BENCH_CLEAR "vpxord"
inline constexpr int sums = 20, register_bytes = 64;
#elif defined(__AVX2__) && defined(__FMA__)
#define BENCH_SUMS "0,1,2,3,4,5,6,7,8,9,10,11"
#define BENCH_REGISTER "%%ymm"
#define BENCH_SOURCE "%%ymm15"
#define BENCH_CLEAR "vpxor"
inline constexpr int sums = 12, register_bytes = 32;
#endif

#if defined(BENCH_SUMS)
#if defined(__AVX512F__)
#define BENCH_UPPER , "xmm16", "xmm17", "xmm18", "xmm19", "xmm31"
#else
#define BENCH_UPPER
#endif
#define BENCH_LOOP(NAME, INSTRUCTION, CLEAR)                                                     \
  inline void NAME(std::int64_t steps, int const& operand) {                                     \
    asm volatile("vpbroadcastd %1, " BENCH_SOURCE                                                \
                 "\n\t"                                                                          \
                 ".irp i," BENCH_SUMS "\n\t" CLEAR " " BENCH_REGISTER "\\i, " BENCH_REGISTER     \
                 "\\i, " BENCH_REGISTER                                                          \
                 "\\i\n\t.endr\n\t"                                                              \
                 ".p2align 5\n"                                                                  \
                 "1:\n\t"                                                                        \
                 ".irp i," BENCH_SUMS "\n\t" INSTRUCTION " " BENCH_SOURCE ", " BENCH_SOURCE      \
                 ", " BENCH_REGISTER                                                             \
                 "\\i\n\t.endr\n\t"                                                              \
                 "dec %0\n\t"                                                                    \
                 "jnz 1b"                                                                        \
                 : "+r"(steps)                                                                   \
                 : "m"(operand)                                                                  \
                 : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                   "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15" BENCH_UPPER);    \
  }
BENCH_LOOP(f32_loop, "vfmadd231ps", BENCH_CLEAR)
#if defined(FINEGRAIN_HAS_AMX)
#define BENCH_BF16 (4 * 2 * 16 * 16 * 32)
#elif defined(__AVX512BF16__)
BENCH_LOOP(bf16_loop, "vdpbf16ps", BENCH_CLEAR)
#define BENCH_BF16 (2 * sums * register_bytes / 2)
#endif
#if defined(FINEGRAIN_HAS_AMX)
#define BENCH_INT8 (2 * BENCH_BF16)
#elif defined(FINEGRAIN_BYTE_PRODUCTS)
BENCH_LOOP(int8_loop, FINEGRAIN_BYTE_PRODUCTS, BENCH_CLEAR)
#define BENCH_INT8 (2 * sums * register_bytes)
#endif
#undef BENCH_LOOP
#endif

#if defined(FINEGRAIN_HAS_AMX)
/// Four sums of registers for matrices, which hide its latency; of zeros, which take as long.
inline void bf16_loop(std::int64_t steps, int const&) {
  fg::simd::amx_tile const tile(32);
  for (; steps > 0; --steps) {
    fg::amx::add_product<0, 4, 6>();
    fg::amx::add_product<1, 4, 7>();
    fg::amx::add_product<2, 5, 6>();
    fg::amx::add_product<3, 5, 7>();
  }
}
/// The same of bytes.
inline void int8_loop(std::int64_t steps, int const&) {
  fg::simd::amx_tile const tile(32);
  for (; steps > 0; --steps) {
    fg::amx::add_bytes<0, 4, 6>();
    fg::amx::add_bytes<1, 4, 7>();
    fg::amx::add_bytes<2, 5, 6>();
    fg::amx::add_bytes<3, 5, 7>();
  }
}
#endif

/// Operations a second of a loop on all threads for about 10 ms; one step of the loop
/// does `operations`.
template <class Loop>
double rate_of(fg::cpu const& on, Loop&& loop, int operations, int operand) {
  constexpr double wanted = 0.01;
  constexpr std::int64_t steps = 1 << 16;
  std::atomic<std::int64_t> done = 0;
  double const seconds = seconds_of([&] {
    on.threads(on.threads.workers(), [&](std::int64_t, int) {
      for (double mine = 0; mine < wanted; done += steps)
        mine += seconds_of([&] { loop(steps, operand); });
    });
  });
  return double(done) * operations / seconds;
}

#if defined(BENCH_SUMS)
/// Multiply-adds in registers: floating-point operations a second.
inline double peak_flops(fg::cpu const& on) {
  return rate_of(on, f32_loop, 2 * sums * register_bytes / 4, 0x3a83126f);  // 0.001
}
#else
inline double peak_flops(fg::cpu const& on) {
  using namespace fg::simd;
  constexpr int chains = 12;
  auto const loop = [](std::int64_t steps, int) {
    vec sum[chains] = {};
    vec const a = broadcast(0.999999f), b = broadcast(1e-6f);
    for (; steps > 0; --steps) {
      FINEGRAIN_UNROLL
      for (int i = 0; i < chains; ++i) sum[i] = sum[i] * a + b;
    }
    for (int i = 1; i < chains; ++i) sum[0] += sum[i];
    keep(total(sum[0]));
  };
  return rate_of(on, loop, 2 * chains * lanes, 0);
}
#endif

/// The same for products of bf16 summed in f32; 0 where no instruction does it.
inline double peak_bf16([[maybe_unused]] fg::cpu const& on) {
#if defined(BENCH_BF16)
  return rate_of(on, bf16_loop, BENCH_BF16, 0x3f803f80);
#else
  return 0;
#endif
}
/// The same for products of bytes summed in 32 bits.
inline double peak_int8([[maybe_unused]] fg::cpu const& on) {
#if defined(BENCH_INT8)
  return rate_of(on, int8_loop, BENCH_INT8, 0x01010101);
#else
  return 0;
#endif
}

/// Reads `bytes` of memory once, all threads, 8 sums each: bytes a second.
inline double read_rate(fg::cpu const& on, float const* memory, std::int64_t bytes) {
  using namespace fg::simd;
  constexpr std::int64_t piece = 1 << 20;  // numbers a task
  std::int64_t const tasks = bytes / 4 / piece;
  double const seconds = seconds_of([&] {
    on.threads(tasks, [&](std::int64_t task, int) {
      float const* const from = memory + task * piece;
      vec sum[8] = {};
      for (std::int64_t i = 0; i < piece; i += 8 * lanes) {
        FINEGRAIN_UNROLL
        for (int j = 0; j < 8; ++j) sum[j] += load(from + i + j * lanes);
      }
      for (int j = 1; j < 8; ++j) sum[0] += sum[j];
      keep(total(sum[0]));
    });
  });
  return static_cast<double>(tasks * piece * 4) / seconds;
}

/// Operations a second of each kind, and bytes a second from memory. 0: there is no such limit.
struct limits {
  double f32 = 0, bf16 = 0, int8 = 0, read = 0;
};

/// Measures the limits again and again; memory is read in slices of a buffer far above any cache.
class machine {
 public:
  explicit machine(fg::cpu const& on) : on_(on), memory_(total) {
    on_.threads(total >> 21, [&](std::int64_t i, int) {
      std::fill_n(memory_.floats() + (i << 19), std::int64_t{1} << 19, 1.0f);
    });
  }
  /// Reads twice what the last cache holds, or all of the buffer, so that little else is left there:
  /// contenders that share weights would find what the one before had to read from memory.
  void forget() {
    static std::int64_t const cache = ::sysconf(_SC_LEVEL3_CACHE_SIZE);
    for (std::int64_t read = 0; read < std::min(2 * cache, total); read += slice) {
      place_ = (place_ + slice) % total;
      keep(static_cast<float>(read_rate(on_, memory_.floats() + place_ / 4, slice)));
    }
  }
  limits measure() {
    place_ = (place_ + slice) % total;
    return {peak_flops(on_), peak_bf16(on_), peak_int8(on_),
            read_rate(on_, memory_.floats() + place_ / 4, slice)};
  }

 private:
  static constexpr std::int64_t total = std::int64_t{1} << 30, slice = total / 4;
  fg::cpu const& on_;
  large_memory memory_;
  std::int64_t place_ = 0;
};

}  // namespace bench
