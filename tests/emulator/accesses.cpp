// Loads, stores and atomic operations.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "ptx.hpp"

namespace emulator {
namespace {

// A load of numbers T into registers R, as many as there are operands; what is signed extends.
template <class R, class T>
void load(warp& w, instruction const& i) {
  u32 const mask = w.now.mask;
  places const from =
      reach_all(w, i, mask, i.where, addresses_of(w, i), i.count * u32{sizeof(T)}, access::read);
  for (u32 n = 0; n < i.count; ++n) {
    R* const to = w.reg<R>(i.at[n]);
    for (u32 l = 0; l < lanes; ++l) {
      if (!(mask >> l & 1)) continue;
      T x;
      std::memcpy(&x, from[l] + n * sizeof(T), sizeof(T));
      to[l] = static_cast<R>(x);
    }
  }
}
// An argument is the same for all lanes that ask for the same, as they nearly always do.
template <class R, class T>
void load_argument(warp& w, instruction const& i) {
  addresses const from = addresses_of(w, i);
  for (u32 n = 0; n < i.count; ++n) {
    R x{};
    u64 have = ~u64{0};
    for (int l = 0; l < lanes; ++l) {
      if (!w.on(l)) continue;
      if (u64 const at = from[static_cast<u32>(l)] + n * sizeof(T); at != have) {
        if (at + sizeof(T) > w.of->parameter_bytes) fail(w, i, "reads beyond arguments", l);
        T read;
        std::memcpy(&read, w.in->parameters + at, sizeof(T));
        x = static_cast<R>(read);
        have = at;
      }
      w.reg<R>(i.at[n])[l] = x;
    }
  }
}
template <class R, class T>
void store(warp& w, instruction const& i) {
  u32 const mask = w.now.mask;
  places const to =
      reach_all(w, i, mask, i.where, addresses_of(w, i), i.count * u32{sizeof(T)}, access::write);
  for (u32 n = 0; n < i.count; ++n) {
    R const* const from = w.reg<R>(i.at[n]);
    for (u32 l = 0; l < lanes; ++l) {
      if (!(mask >> l & 1)) continue;
      auto const x = static_cast<T>(from[l]);
      std::memcpy(to[l] + n * sizeof(T), &x, sizeof(T));
    }
  }
}

enum class how { load, argument, store };
template <class R, class T>
action one(how what) {
  return what == how::load ? load<R, T> : what == how::store ? store<R, T> : load_argument<R, T>;
}
template <class T>
action with_register(how what, u32 bytes) {
  return bytes == 2   ? one<u16, T>(what)
         : bytes == 4 ? one<u32, T>(what)
         : bytes == 8 ? one<u64, T>(what)
                      : nullptr;
}
action with_types(how what, std::string_view type, u32 bytes) {
  u32 const z = size_of(type).value_or(0);
  bool const is_signed = type[0] == 's';
  return z == 1   ? is_signed ? with_register<s8>(what, bytes) : with_register<u8>(what, bytes)
           : z == 2 ? is_signed ? with_register<s16>(what, bytes) : with_register<u16>(what, bytes)
           : z == 4 ? is_signed ? with_register<s32>(what, bytes) : with_register<u32>(what, bytes)
           : z == 8 ? with_register<u64>(what, bytes)
                  : nullptr;
}
ordering order_of(statement const& s, ordering otherwise) {
  return s.has("acquire") || s.has("release") || s.has("acq_rel") ? ordering::fenced
         : s.has("volatile") || s.has("relaxed")                  ? ordering::relaxed
                                                                  : otherwise;
}
void decode_access(statement& s, bool is_store) {
  u32 const z = s.bytes();
  auto const numbers = statement::vector(s.operand(is_store));
  instruction address;
  address.where = s.where();
  s.address(address, s.operand(!is_store), 8);
  // A constant that is stored as one byte stands in two.
  u32 const bytes = s.register_bytes(numbers[0], std::max(z, 2u));
  how const what = is_store                            ? how::store
                   : address.where == space::parameter ? how::argument
                                                       : how::load;
  instruction& i = s.emit(with_types(what, s.type(), bytes));
  i.where = address.where;
  i.order = order_of(s, ordering::plain);
  i.number = address.number;
  i.wide = address.wide;
  i.at[8] = address.at[8];
  i.count = static_cast<u8>(numbers.size());
  for (std::size_t n = 0; n < numbers.size(); ++n)
    i.at[n] = is_store ? s.read(numbers[n], bytes) : s.written(numbers[n]);
}

// Lanes one after another: their order is not told to anyone on a device either.
template <class T, class F>
void update(warp& w, instruction const& i) {
  for (int l = 0; l < lanes; ++l) {
    if (!w.on(l)) continue;
    u8* const p = reach(w, i, l, i.where, address_of(w, i, l), sizeof(T), access::update);
    T old;
    std::memcpy(&old, p, sizeof old);
    auto const made =
        static_cast<T>(F{}(old, w.reg<T>(i.at[1])[l], i.at[2] ? w.reg<T>(i.at[2])[l] : T{}));
    std::memcpy(p, &made, sizeof made);
    if (i.at[0]) w.reg<T>(i.at[0])[l] = old;
  }
}
template <class... T, class F>
action update_of(std::string_view type, F) {
  static constexpr char const* names[] = {"u32", "s32", "u64", "f32", "f64"};
  std::size_t n = 0;
  action found = nullptr;
  ((type == names[n++] ? void(found = update<T, F>) : void()), ...);
  return found;
}
template <class F>
action whole(std::string_view type, F f) {
  return update_of<u32, s32, u64>(type, f);
}
action update_named(statement const& s, std::string_view t) {
  if (t == "b32") t = "u32";
  if (t == "b64") t = "u64";
  auto const add = [](auto old, auto b, auto) { return old + b; };
  if (s.has("add")) return update_of<u32, s32, u64, f32, f64>(t, add);
  if (s.has("min")) return whole(t, [](auto old, auto b, auto) { return std::min(old, b); });
  if (s.has("max")) return whole(t, [](auto old, auto b, auto) { return std::max(old, b); });
  if (s.has("exch")) return whole(t, [](auto, auto b, auto) { return b; });
  if (s.has("cas")) return whole(t, [](auto old, auto b, auto c) { return old == b ? c : old; });
  if (s.has("or")) return whole(t, [](auto old, auto b, auto) { return old | b; });
  if (s.has("and")) return whole(t, [](auto old, auto b, auto) { return old & b; });
  return nullptr;
}
void decode_update(statement& s) {
  bool const result = s.name() == "atom";
  instruction& i = s.emit(update_named(s, s.type()));
  i.where = s.where();
  i.order = order_of(s, ordering::relaxed);
  if (result) i.at[0] = s.written(s.operand(0));
  s.address(i, s.operand(result), 8);
  i.at[1] = s.read(s.operand(result + 1), s.bytes());
  if (s.operands.size() > result + 2u) i.at[2] = s.read(s.operand(result + 2), s.bytes());
}

}  // namespace

void add_accesses(decoders& all) {
  all["ld"] = [](statement& s) { decode_access(s, false); };
  all["st"] = [](statement& s) { decode_access(s, true); };
  all["atom"] = all["red"] = decode_update;
}

}  // namespace emulator
