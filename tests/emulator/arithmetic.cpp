// Arithmetic: whole numbers, with carries, and real ones, with each way of rounding.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>

#include "each_lane.hpp"
#include "real.hpp"

namespace emulator {
namespace {

using s128 = __int128;
using u128 = unsigned __int128;

f32 flushed(f32 x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
// What an approximation of f64 keeps: the upper half.
f64 upper(f64 x) { return std::bit_cast<f64>(std::bit_cast<u64>(x) & 0xffffffff00000000); }

// d = a + b (- b) with bits that go in and out of a lane's carry.
template <class F>
void carried(warp& w, instruction const& i, F sum) {
  bool const in = i.mode & 1, out = i.mode & 2;
  u32 *const d = w.reg<u32>(i.at[0]), *const a = w.reg<u32>(i.at[1]),
             *const b = w.reg<u32>(i.at[2]), *const c = w.reg<u32>(i.at[3]);
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u64 const s = sum(a[l], b[l], c[l], u64{in ? w.carry >> l & 1 : 0});
    d[l] = static_cast<u32>(s);
    if (out) w.carry = (w.carry & ~(1u << l)) | static_cast<u32>(s >> 32 & 1) << l;
  }
}
void add_carried(warp& w, instruction const& i) {
  carried(w, i, [](u32 a, u32 b, u32, u64 carry) { return u64{a} + b + carry; });
}
void subtract_carried(warp& w, instruction const& i) {
  carried(w, i, [](u32 a, u32 b, u32, u64 borrow) { return u64{a} - b - borrow; });
}
void multiply_low_carried(warp& w, instruction const& i) {
  carried(w, i, [](u32 a, u32 b, u32 c, u64 carry) { return u64{a * b} + c + carry; });
}
void multiply_high_carried(warp& w, instruction const& i) {
  carried(w, i, [](u32 a, u32 b, u32 c, u64 carry) { return (u64{a} * b >> 32) + c + carry; });
}
bool carries(statement& s, char const* with, action run, int count) {
  bool const in = s.name() == with, out = s.has("cc");
  if (!in && !out) return false;
  if (s.bytes() != 4) s.refuse();
  s.uniform(run, count).mode = static_cast<u8>(in | out << 1);
  return true;
}
// Of f32, with another rounding than to the nearest, sums and products of two summands are right
// as two numbers of f64: the nearest, and what it leaves.
template <rounding R>
action add_rounded() {
  return each_lane([](f32 a, f32 b) { return rounded<R>(f64{a}, f64{b}); });
}
template <rounding R>
action multiply_add_rounded() {
  return each_lane([](f32 a, f32 b, f32 c) { return rounded<R>(f64{a} * f64{b}, f64{c}); });
}
bool rounds(statement const& s) { return s.has("rz") || s.has("rm") || s.has("rp"); }

void decode_add(statement& s) {
  if (carries(s, "addc", add_carried, 2)) return;
  if (s.has("sat")) s.refuse();
  if (!rounds(s)) {
    s.uniform(of_any<2>(s.type(), [](auto a, auto b) { return a + b; }), 2);
  } else {
    if (s.type() != "f32") s.refuse();
    s.uniform(s.has("rz")   ? add_rounded<rounding::to_zero>()
              : s.has("rm") ? add_rounded<rounding::down>()
                            : add_rounded<rounding::up>(),
              2);
  }
}
void decode_sub(statement& s) {
  if (carries(s, "subc", subtract_carried, 2)) return;
  if (s.has("sat") || rounds(s)) s.refuse();
  s.uniform(of_any<2>(s.type(), [](auto a, auto b) { return a - b; }), 2);
}
void decode_mul(statement& s) {
  auto const t = s.type();
  u32 const z = s.bytes();
  if (s.has("wide"))
    s.emit(t == "s32"   ? each_lane([](s32 a, s32 b) { return s64{a} * b; })
           : t == "u32" ? each_lane([](u32 a, u32 b) { return u64{a} * b; })
           : t == "s16" ? each_lane([](s16 a, s16 b) { return s32{a} * b; })
           : t == "u16" ? each_lane([](u16 a, u16 b) { return u32{a} * b; })
                        : nullptr,
           {z, z});
  else if (s.has("hi"))
    s.uniform(
        t == "s32"   ? each_lane([](s32 a, s32 b) { return static_cast<s32>(s64{a} * b >> 32); })
        : t == "u32" ? each_lane([](u32 a, u32 b) { return static_cast<u32>(u64{a} * b >> 32); })
        : t == "s64" ? each_lane([](s64 a, s64 b) { return static_cast<s64>(s128{a} * b >> 64); })
        : t == "u64" ? each_lane([](u64 a, u64 b) { return static_cast<u64>(u128{a} * b >> 64); })
                     : nullptr,
        2);
  else if (s.has("sat") || rounds(s))
    s.refuse();
  else
    s.uniform(of_any<2>(t, [](auto a, auto b) { return a * b; }), 2);
}
void decode_mad(statement& s) {
  auto const t = s.type();
  if (carries(s, "madc", s.has("hi") ? multiply_high_carried : multiply_low_carried, 3)) return;
  if (s.has("wide"))
    s.emit(t == "s32"   ? each_lane([](s32 a, s32 b, s64 c) { return s64{a} * b + c; })
           : t == "u32" ? each_lane([](u32 a, u32 b, u64 c) { return u64{a} * b + c; })
                        : nullptr,
           {4, 4, 8});
  else if (s.has("lo"))
    s.uniform(of_whole<3>(t, [](auto a, auto b, auto c) { return a * b + c; }), 3);
  else
    s.refuse();
}
void decode_fma(statement& s) {
  auto const t = s.type();
  if (s.has("sat") || s.has("relu")) s.refuse();
  if (t == "f64" && !rounds(s))
    s.uniform(each_lane([](f64 a, f64 b, f64 c) { return std::fma(a, b, c); }), 3);
  else if (t == "bf16x2")
    s.uniform(each_lane([](u32 a, u32 b, u32 c) {
                u32 d = 0;
                for (int half = 0; half < 32; half += 16) {
                  auto const of = [&](u32 x) { return from_bf16(static_cast<u16>(x >> half)); };
                  f32 const odd = rounded<rounding::to_odd>(f64{of(a)} * f64{of(b)}, f64{of(c)});
                  d |= u32{to_bf16(odd)} << half;
                }
                return d;
              }),
              3);
  else if (t != "f32")
    s.refuse();
  else
    s.uniform(s.has("rz")   ? multiply_add_rounded<rounding::to_zero>()
              : s.has("rm") ? multiply_add_rounded<rounding::down>()
              : s.has("rp") ? multiply_add_rounded<rounding::up>()
                            : each_lane([](f32 a, f32 b, f32 c) { return std::fma(a, b, c); }),
              3);
}
template <class F>
void smaller_or_larger(statement& s, F) {
  auto const t = s.type();
  if (s.has("ftz") || s.has("xorsign")) s.refuse();
  action run = of_whole<2>(t, [](auto a, auto b) { return F{}(a, b) ? a : b; });
  if (!run)
    run = s.has("NaN") ? of_real<2>(t,
                                    [](auto a, auto b) {
                                      return a != a ? a : b != b ? b : F{}(a, b) ? a : b;
                                    })
                       : of_real<2>(t, [](auto a, auto b) {
                           return a != a ? b : b != b ? a : F{}(a, b) ? a : b;
                         });
  s.uniform(run, 2);
}

}  // namespace

void add_arithmetic(decoders& all) {
  all["add"] = all["addc"] = decode_add;
  all["sub"] = all["subc"] = decode_sub;
  all["mul"] = decode_mul;
  all["mad"] = all["madc"] = decode_mad;
  all["fma"] = decode_fma;
  all["min"] = [](statement& s) { smaller_or_larger(s, [](auto a, auto b) { return a < b; }); };
  all["max"] = [](statement& s) { smaller_or_larger(s, [](auto a, auto b) { return a > b; }); };
  all["div"] = [](statement& s) {
    action const real = of_real<2>(s.type(), [](auto a, auto b) { return a / b; });
    s.uniform(real ? real : of_whole<2>(s.type(), [](auto a, auto b) { return b ? a / b : -1; }),
              2);
  };
  all["rem"] = [](statement& s) {
    s.uniform(of_whole<2>(s.type(), [](auto a, auto b) { return b ? a % b : a; }), 2);
  };
  all["neg"] = [](statement& s) { s.uniform(of_any<1>(s.type(), [](auto a) { return -a; }), 1); };
  all["abs"] = [](statement& s) {
    s.uniform(of_type<1, f32, f64, s32, s64>(s.type(), [](auto a) { return std::abs(a); }), 1);
  };
  all["copysign"] = [](statement& s) {
    s.uniform(of_real<2>(s.type(), [](auto a, auto b) { return std::copysign(b, a); }), 2);
  };
  all["sqrt"] = [](statement& s) {
    s.uniform(of_real<1>(s.type(), [](auto a) { return std::sqrt(a); }), 1);
  };
  all["rcp"] = [](statement& s) {
    s.uniform(s.type() == "f64" && s.has("approx") ? each_lane([](f64 a) { return upper(1 / a); })
              : s.has("ftz") ? each_lane([](f32 a) { return flushed(1 / flushed(a)); })
                             : of_real<1>(s.type(), [](auto a) { return 1 / a; }),
              1);
  };
  all["rsqrt"] = [](statement& s) {
    s.uniform(s.type() == "f64"
                  ? each_lane([](f64 a) { return upper(1 / std::sqrt(a)); })
                  : each_lane([](f32 a) { return static_cast<f32>(1 / std::sqrt(f64{a})); }),
              1);
  };
  all["ex2"] = [](statement& s) {
    if (s.type() != "f32") s.refuse();
    s.uniform(s.has("ftz") ? each_lane([](f32 a) { return flushed(std::exp2(flushed(a))); })
                           : each_lane([](f32 a) { return std::exp2(a); }),
              1);
  };
}

}  // namespace emulator
