// Moves and conversions: between types, parts of registers, and address spaces.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstring>
#include <limits>

#include "each_lane.hpp"
#include "real.hpp"

namespace emulator {
namespace {

struct half {
  u16 bits;
};
struct brain {
  u16 bits;
};
enum class to_whole { exact, nearest, zero, down, up };

u64 loaded(warp& w, u32 at, u32 bytes, int lane) {
  return bytes == 2   ? w.reg<u16>(at)[lane]
         : bytes == 4 ? w.reg<u32>(at)[lane]
                      : w.reg<u64>(at)[lane];
}
void stored(warp& w, u32 at, u32 bytes, int lane, u64 x) {
  if (bytes == 2)
    w.reg<u16>(at)[lane] = static_cast<u16>(x);
  else if (bytes == 4)
    w.reg<u32>(at)[lane] = static_cast<u32>(x);
  else
    w.reg<u64>(at)[lane] = x;
}

template <class S>
S whole_number(S x, to_whole how) {
  return how == to_whole::nearest ? std::nearbyint(x)
         : how == to_whole::zero  ? std::trunc(x)
         : how == to_whole::down  ? std::floor(x)
         : how == to_whole::up    ? std::ceil(x)
                                  : x;
}
template <class D, class S>
D converted(S a, to_whole how) {
  if constexpr (std::is_same_v<S, half>) {
    return converted<D>(from_half(a.bits), how);
  } else if constexpr (std::is_same_v<S, brain>) {
    return converted<D>(from_bf16(a.bits), how);
  } else if constexpr (std::is_same_v<D, half>) {
    return {to_half(static_cast<f32>(a))};
  } else if constexpr (std::is_same_v<D, brain>) {
    return {to_bf16(static_cast<f32>(a))};
  } else if constexpr (std::is_floating_point_v<S> && std::is_integral_v<D>) {  // saturates
    using limits = std::numeric_limits<D>;
    S const x = whole_number(a, how);
    constexpr S end = static_cast<S>(limits::max() / 2 + 1) * 2;  // the largest is no number of S
    return x != x                               ? D{0}
           : x <= static_cast<S>(limits::min()) ? limits::min()
           : x >= end                           ? limits::max()
                                                : static_cast<D>(x);
  } else if constexpr (std::is_same_v<S, D> && std::is_floating_point_v<S>) {
    return whole_number(a, how);
  } else {
    return static_cast<D>(a);
  }
}
template <class D, class S>
void convert(warp& w, instruction const& i) {  // size: of the result's register, count: the other's
  auto const how = static_cast<to_whole>(i.mode);
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u64 const raw = loaded(w, i.at[1], i.count, l);
    S s;
    std::memcpy(&s, &raw, sizeof s);
    D const d = converted<D>(s, how);
    u64 out = 0;
    if constexpr (std::is_integral_v<D>)
      out = static_cast<u64>(d);  // signs extend
    else
      std::memcpy(&out, &d, sizeof d);
    stored(w, i.at[0], i.size, l, out);
  }
}
template <class T>
bool is_called(std::string_view type) {
  if constexpr (std::is_same_v<T, half>)
    return type == "f16";
  else if constexpr (std::is_same_v<T, brain>)
    return type == "bf16";
  else
    return is_named<T>(type);
}
template <class D, class... S>
action conversion_from(std::string_view s) {
  action found = nullptr;
  ((is_called<S>(s) ? void(found = convert<D, S>) : void()), ...);
  return found;
}
template <class... D>
action conversion(std::string_view d, std::string_view s) {
  action found = nullptr;
  ((is_called<D>(d)
        ? void(found =
                   conversion_from<D, u8, s8, u16, s16, u32, s32, u64, s64, f32, f64, half, brain>(
                       s))
        : void()),
   ...);
  return found;
}
void decode_cvt(statement& s) {
  auto const from = s.type(), to = s.words.at(s.words.size() - 2);
  if (s.has("rz") || s.has("rm") || s.has("rp") || s.has("relu")) s.refuse();
  if (to == "bf16x2" || to == "f16x2") {
    if (from != "f32") s.refuse();
    s.emit(to == "f16x2"
               ? each_lane([](f32 a, f32 b) { return u32{to_half(a)} << 16 | to_half(b); })
               : each_lane([](f32 a, f32 b) { return u32{to_bf16(a)} << 16 | to_bf16(b); }),
           {4, 4});
  } else if (to == "e4m3x2") {
    if (from != "f32" || !s.has("satfinite")) s.refuse();
    s.emit(each_lane([](f32 a, f32 b) { return static_cast<u16>(to_e4m3(a) << 8 | to_e4m3(b)); }),
           {4, 4});
  } else if (s.has("sat")) {
    if (to != "f32" || from != "f32") s.refuse();
    s.uniform(each_lane([](f32 a) { return a > 0 ? (a > 1 ? 1.0f : a) : 0.0f; }), 1);
  } else {
    instruction& i =
        s.emit(conversion<u8, s8, u16, s16, u32, s32, u64, s64, f32, f64, half, brain>(to, from));
    i.mode = static_cast<u8>(s.has("rni")   ? to_whole::nearest
                             : s.has("rzi") ? to_whole::zero
                             : s.has("rmi") ? to_whole::down
                             : s.has("rpi") ? to_whole::up
                                            : to_whole::exact);
    i.at[0] = s.written(s.operand(0));
    i.at[1] = s.read(s.operand(1), *size_of(from));
    i.size = static_cast<u8>(s.register_bytes(s.operand(0), 4));
    i.count = static_cast<u8>(s.register_bytes(s.operand(1), *size_of(from)));
  }
}

template <class Part, class Whole>
void join(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u64 x = 0;
    for (u32 n = 0; n < i.count; ++n) x |= u64{w.reg<Part>(i.at[1 + n])[l]} << 8 * sizeof(Part) * n;
    w.reg<Whole>(i.at[0])[l] = static_cast<Whole>(x);
  }
}
template <class Part, class Whole>
void divide(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u64 const x = w.reg<Whole>(i.at[8])[l];
    for (u32 n = 0; n < i.count; ++n)
      if (i.at[n]) w.reg<Part>(i.at[n])[l] = static_cast<Part>(x >> 8 * sizeof(Part) * n);
  }
}
void decode_mov(statement& s) {
  if (s.type() == "pred") {
    s.emit([](warp& w, instruction const& i) { w.set_predicate(i.at[0], w.predicate(i.at[1])); },
           {0});
    return;
  }
  u32 const z = s.bytes();
  bool const from = s.operand(1).starts_with('{'), to = s.operand(0).starts_with('{');
  if (!from && !to) {
    s.uniform(z == 2   ? each_lane([](u16 a) { return a; })
              : z == 4 ? each_lane([](u32 a) { return a; })
                       : each_lane([](u64 a) { return a; }),
              1);
    return;
  }
  auto const pieces = statement::vector(s.operand(from));
  u32 const part = z / static_cast<u32>(pieces.size());
  bool const words = z == 8 && part == 4, halves = z == 4 && part == 2,
             quarters = z == 8 && part == 2;
  instruction& i = from ? s.emit(words      ? join<u32, u64>
                                 : halves   ? join<u16, u32>
                                 : quarters ? join<u16, u64>
                                            : nullptr)
                        : s.emit(words      ? divide<u32, u64>
                                 : halves   ? divide<u16, u32>
                                 : quarters ? divide<u16, u64>
                                            : nullptr);
  i.count = static_cast<u8>(pieces.size());
  if (from)
    i.at[0] = s.written(s.operand(0));
  else
    i.at[8] = s.read(s.operand(1), z);
  for (std::size_t n = 0; n < pieces.size(); ++n)
    i.at[from + n] = from ? s.read(pieces[n], part) : s.written(pieces[n]);
}

// Generic addresses are addresses of this process; those of a space begin where that does.
template <space Space, bool ToGeneric>
void move_address(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u64 const begin = reinterpret_cast<u64>(Space == space::shared      ? w.in->shared
                                            : Space == space::local     ? w.local_of(l)
                                            : Space == space::parameter ? w.in->parameters
                                                                        : nullptr);
    u64 const a = loaded(w, i.at[1], i.count, l);
    stored(w, i.at[0], i.size, l, ToGeneric ? a + begin : a - begin);
  }
}
void decode_cvta(statement& s) {
  bool const to = s.has("to");
  space const where = s.where();
  instruction& i =
      s.emit(where == space::shared
                 ? to ? move_address<space::shared, false> : move_address<space::shared, true>
             : where == space::local
                 ? to ? move_address<space::local, false> : move_address<space::local, true>
             : where == space::parameter
                 ? to ? move_address<space::parameter, false> : move_address<space::parameter, true>
                 : move_address<space::global, true>);
  i.at[0] = s.written(s.operand(0));
  i.at[1] = s.read(s.operand(1), 8);
  i.size = static_cast<u8>(s.register_bytes(s.operand(0), 8));
  i.count = static_cast<u8>(s.register_bytes(s.operand(1), 8));
}

}  // namespace

void add_conversions(decoders& all) {
  all["mov"] = decode_mov;
  all["cvt"] = decode_cvt;
  all["cvta"] = decode_cvta;
}

}  // namespace emulator
