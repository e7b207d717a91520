// Bits and predicates: logic, shifts, fields, comparisons and choices.
// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cmath>

#include "each_lane.hpp"

namespace emulator {
namespace {

u32 reversed(u32 a) {
  u32 d = 0;
  for (int bit = 0; bit < 32; ++bit) d |= (a >> bit & 1) << (31 - bit);
  return d;
}
u32 picked_bytes(u32 a, u32 b, u32 which) {  // prmt: of each nibble, which byte, or its sign
  u64 const all = u64{b} << 32 | a;
  u32 d = 0;
  for (int n = 0; n < 4; ++n) {
    u32 const c = which >> 4 * n & 15;
    u32 const byte = static_cast<u32>(all >> 8 * (c & 7)) & 255;
    d |= (c & 8 ? (byte & 128 ? 255 : 0) : byte) << 8 * n;
  }
  return d;
}
void table_of_three(warp& w, instruction const& i) {  // lop3
  u32 *const d = w.reg<u32>(i.at[0]), *const a = w.reg<u32>(i.at[1]),
             *const b = w.reg<u32>(i.at[2]), *const c = w.reg<u32>(i.at[3]);
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u32 x = 0;
    for (int row = 0; row < 8; ++row)
      if (i.number >> row & 1)
        x |= (row & 4 ? a[l] : ~a[l]) & (row & 2 ? b[l] : ~b[l]) & (row & 1 ? c[l] : ~c[l]);
    d[l] = x;
  }
}
template <class T>
action insert_field() {
  return each_lane([](T from, T into, u32 at, u32 length) {
    constexpr u32 bits = 8 * sizeof(T);
    at &= 255;
    length &= 255;
    if (at >= bits) return into;
    T const mask = (length >= bits ? ~T{0} : (T{1} << length) - 1) << at;
    return (into & ~mask) | (from << at & mask);
  });
}
template <class T>
action extract_field() {
  return each_lane([](T a, u32 at, u32 length) {
    using whole = std::make_unsigned_t<T>;
    constexpr u32 bits = 8 * sizeof(T);
    at &= 255;
    length &= 255;
    whole d = at >= bits ? 0 : static_cast<whole>(a) >> at;
    if (length < bits) d &= length ? (whole{1} << length) - 1 : 0;
    bool const sign = std::is_signed_v<T> && length && length < bits &&
                      (static_cast<whole>(a) >> std::min(at + length - 1, bits - 1) & 1);
    return static_cast<T>(sign ? d | ~whole{0} << length : d);
  });
}

template <class F>
void logic(statement& s, F f) {  // a predicate's 32 bits are one word
  if (s.type() != "pred") {
    s.uniform(of_whole<2>(s.type(), f), 2);
    return;
  }
  s.emit(
      [](warp& w, instruction const& i) {
        w.set_predicate(i.at[0], F{}(w.predicate(i.at[1]), w.predicate(i.at[2])));
      },
      {0, 0});
}

// What holds, and what does not, each joined with a third predicate.
template <class T, class F>
void compare(warp& w, instruction const& i) {
  T const *const a = w.reg<T>(i.at[1]), *const b = w.reg<T>(i.at[2]);
  u32 holds = 0;
  for (int l = 0; l < lanes; ++l) holds |= u32{F{}(a[l], b[l])} << l;
  u32 fails = ~holds;
  if (i.mode) {
    u32 const with = i.inverted ? ~w.predicate(i.at[3]) : w.predicate(i.at[3]);
    for (u32* const x : {&holds, &fails})
      *x = i.mode == 1 ? *x & with : i.mode == 2 ? *x | with : *x ^ with;
  }
  w.set_predicate(i.at[0], holds);
  if (i.at[4]) w.set_predicate(i.at[4], fails);
}
template <class... T, class F>
action compare_of(std::string_view type, F) {
  action found = nullptr;
  ((is_named<T>(type) ? void(found = compare<T, F>) : void()), ...);
  return found;
}
template <class F>  // Ordered comparisons of what is not a number are false, the others true.
action ordered(std::string_view type, F f) {
  return compare_of<u16, s16, u32, s32, u64, s64, f32, f64>(type, f);
}
template <class F>
action unordered(std::string_view type, F) {
  return compare_of<f32, f64>(type, [](auto a, auto b) { return a != a || b != b || F{}(a, b); });
}
action comparison(std::string_view how, std::string_view type) {
  auto const equal = [](auto a, auto b) { return a == b; };
  auto const different = [](auto a, auto b) { return a < b || a > b; };
  auto const less = [](auto a, auto b) { return a < b; };
  auto const less_equal = [](auto a, auto b) { return a <= b; };
  auto const greater = [](auto a, auto b) { return a > b; };
  auto const greater_equal = [](auto a, auto b) { return a >= b; };
  if (how == "eq") return ordered(type, equal);
  if (how == "ne") return ordered(type, different);
  if (how == "lt" || how == "lo") return ordered(type, less);
  if (how == "le" || how == "ls") return ordered(type, less_equal);
  if (how == "gt" || how == "hi") return ordered(type, greater);
  if (how == "ge" || how == "hs") return ordered(type, greater_equal);
  if (how == "equ") return unordered(type, equal);
  if (how == "neu") return unordered(type, different);
  if (how == "ltu") return unordered(type, less);
  if (how == "leu") return unordered(type, less_equal);
  if (how == "gtu") return unordered(type, greater);
  if (how == "geu") return unordered(type, greater_equal);
  if (how == "nan") return unordered(type, [](auto, auto) { return false; });
  if (how == "num")
    return compare_of<f32, f64>(type, [](auto a, auto b) { return a == a && b == b; });
  return nullptr;
}
void decode_setp(statement& s) {
  instruction& i = s.emit(comparison(s.words.at(1), s.type()));
  auto const results = parts(s.operand(0), '|');
  i.at[0] = s.written(results[0]);
  if (results.size() > 1) i.at[4] = s.written(results[1]);
  i.at[1] = s.read(s.operand(1), s.bytes());
  i.at[2] = s.read(s.operand(2), s.bytes());
  i.mode = s.has("and") ? 1 : s.has("or") ? 2 : s.has("xor") ? 3 : 0;
  if (i.mode) i.at[3] = s.predicate(s.operand(3), i.inverted);
}
template <class T>
void choose(warp& w, instruction const& i) {
  T *const d = w.reg<T>(i.at[0]), *const a = w.reg<T>(i.at[1]), *const b = w.reg<T>(i.at[2]);
  u32 const p = i.inverted ? ~w.predicate(i.at[3]) : w.predicate(i.at[3]);
  for (int l = 0; l < lanes; ++l)
    if (w.on(l)) d[l] = p >> l & 1 ? a[l] : b[l];
}
void decode_selp(statement& s) {
  u32 const z = s.bytes();
  instruction& i = s.emit(z == 2 ? choose<u16> : z == 4 ? choose<u32> : choose<u64>, {z, z});
  i.at[3] = s.predicate(s.operand(3), i.inverted);
}
// Shifts further than the width give 0, or the sign.
void decode_shl(statement& s) {
  u32 const z = s.bytes();
  s.emit(z == 2   ? each_lane([](u16 a, u32 n) { return static_cast<u16>(n > 15 ? 0 : a << n); })
         : z == 4 ? each_lane([](u32 a, u32 n) { return n > 31 ? 0 : a << n; })
         : z == 8 ? each_lane([](u64 a, u32 n) { return n > 63 ? 0 : a << n; })
                  : nullptr,
         {z, 4});
}
void decode_shr(statement& s) {
  u32 const z = s.bytes();
  s.emit(s.type()[0] == 's'
             ? z == 2
                   ? each_lane([](s16 a, u32 n) { return static_cast<s16>(a >> std::min(n, 15u)); })
               : z == 4 ? each_lane([](s32 a, u32 n) { return a >> std::min(n, 31u); })
                        : each_lane([](s64 a, u32 n) { return a >> std::min(n, 63u); })
         : z == 2 ? each_lane([](u16 a, u32 n) { return static_cast<u16>(n > 15 ? 0 : a >> n); })
         : z == 4 ? each_lane([](u32 a, u32 n) { return n > 31 ? 0 : a >> n; })
                  : each_lane([](u64 a, u32 n) { return n > 63 ? 0 : a >> n; }),
         {z, 4});
}
void decode_shf(statement& s) {  // of the 64 bits b, a: the upper word to the left, else the lower
  bool const wrap = s.has("wrap");
  if (s.has("l"))
    s.uniform(wrap ? each_lane([](u32 a, u32 b, u32 n) {
                return static_cast<u32>((u64{b} << 32 | a) << (n & 31) >> 32);
              })
                   : each_lane([](u32 a, u32 b, u32 n) {
                       return static_cast<u32>((u64{b} << 32 | a) << std::min(n, 32u) >> 32);
                     }),
              3);
  else
    s.uniform(wrap ? each_lane([](u32 a, u32 b, u32 n) {
                return static_cast<u32>((u64{b} << 32 | a) >> (n & 31));
              })
                   : each_lane([](u32 a, u32 b, u32 n) {
                       return static_cast<u32>((u64{b} << 32 | a) >> std::min(n, 32u));
                     }),
              3);
}

}  // namespace

void add_bits(decoders& all) {
  all["and"] = [](statement& s) { logic(s, [](auto a, auto b) { return a & b; }); };
  all["or"] = [](statement& s) { logic(s, [](auto a, auto b) { return a | b; }); };
  all["xor"] = [](statement& s) { logic(s, [](auto a, auto b) { return a ^ b; }); };
  all["not"] = [](statement& s) {
    if (s.type() == "pred")
      s.emit([](warp& w, instruction const& i) { w.set_predicate(i.at[0], ~w.predicate(i.at[1])); },
             {0});
    else
      s.uniform(of_whole<1>(s.type(), [](auto a) { return ~a; }), 1);
  };
  all["shl"] = decode_shl;
  all["shr"] = decode_shr;
  all["shf"] = decode_shf;
  all["prmt"] = [](statement& s) {
    if (s.words.size() != 2) s.refuse();  // only the plain one
    s.emit(each_lane([](u32 a, u32 b, u32 c) { return picked_bytes(a, b, c); }), {4, 4, 4});
  };
  all["lop3"] = [](statement& s) {
    s.emit(table_of_three, {4, 4, 4}).number = integer(s.operand(4));
  };
  all["bfi"] = [](statement& s) {
    u32 const z = s.bytes();
    s.emit(z == 4 ? insert_field<u32>() : insert_field<u64>(), {z, z, 4, 4});
  };
  all["bfe"] = [](statement& s) {
    auto const t = s.type();
    s.emit(t == "u32"   ? extract_field<u32>()
           : t == "s32" ? extract_field<s32>()
           : t == "u64" ? extract_field<u64>()
           : t == "s64" ? extract_field<s64>()
                        : nullptr,
           {s.bytes(), 4, 4});
  };
  all["clz"] = [](statement& s) {
    s.uniform(s.bytes() == 8
                  ? each_lane([](u64 a) { return static_cast<u32>(std::countl_zero(a)); })
                  : each_lane([](u32 a) { return static_cast<u32>(std::countl_zero(a)); }),
              1);
  };
  all["popc"] = [](statement& s) {
    s.uniform(s.bytes() == 8 ? each_lane([](u64 a) { return static_cast<u32>(std::popcount(a)); })
                             : each_lane([](u32 a) { return static_cast<u32>(std::popcount(a)); }),
              1);
  };
  all["brev"] = [](statement& s) {
    s.uniform(s.bytes() == 4 ? each_lane([](u32 a) { return reversed(a); }) : nullptr, 1);
  };
  all["setp"] = decode_setp;
  all["selp"] = decode_selp;
}

}  // namespace emulator
