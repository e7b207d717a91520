// Products of a warpgroup, whose operands lie in shared memory.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <utility>

#include "hopper.hpp"
#include "products.hpp"

namespace emulator {
namespace {

constexpr int most_columns = 256;

/// Numbers (rows, depth) of a tile of 16-bit or 8-bit ones, as its descriptor says: see
/// tile/wgmma.cuh.
struct tile {
  u64 begin, leading, stride;
  bool mn_major;
  u32 number_bytes;

  tile(u64 descriptor, bool mn_major, u32 number_bytes)
      : begin((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4),
        mn_major(mn_major),
        number_bytes(number_bytes) {}
  int run() const { return static_cast<int>(16 / number_bytes); }
  u64 at(int row, int k) const {
    auto const r = static_cast<u64>(row), d = static_cast<u64>(k);
    return swizzled(
        begin + (mn_major ? r / 64 * leading + d / 8 * stride + d % 8 * 128 + r % 64 * number_bytes
                          : r / 8 * stride + r % 8 * 128 + d * number_bytes));
  }
};
f32 from_table(u8 x) {  // of e4m3
  static auto const all = [] {
    std::array<f32, 256> made{};
    for (u32 n = 0; n < made.size(); ++n) made[n] = from_e4m3(static_cast<u8>(n));
    return made;
  }();
  return all[x];
}
/// f(row, k, where) of rows [first, first + count), for chunks of 16 bytes along whichever side is
/// contiguous.
template <class F>
void for_chunks(tile const& t, int first, int count, int depth, F f) {
  int const rows = t.mn_major ? t.run() : 1, ks = t.mn_major ? 1 : t.run();
  for (int r = first; r < first + count; r += rows)
    for (int k = 0; k < depth; k += ks) f(r, k, t.at(r, k));
}
/// To to[k][row], of numbers T.
template <class T, f32 (*Number)(T)>
void read_as(warp& w, instruction const& i, tile const& t, int first, int count, int depth, f32* to,
             int pitch) {
  constexpr int run = 16 / sizeof(T);
  auto const along = t.mn_major ? 1 : pitch;
  for_chunks(t, first, count, depth, [&](int r, int k, u64 where) {
    T some[run];
    std::memcpy(some, reach_shared(w, *w.in, i, -1, where, 16, access::read), 16);
    f32* const at = to + k * pitch + r - first;
    for (int n = 0; n < run; ++n) at[n * along] = Number(some[n]);
  });
}
void read_tile(warp& w, instruction const& i, tile const& t, int first, int count, int depth,
               std::string_view type, f32* to, int pitch) {
  auto* const read = type == "e4m3"  ? read_as<u8, from_table>
                     : type == "f16" ? read_as<u16, from_half>
                                     : read_as<u16, from_bf16>;
  read(w, i, t, first, count, depth, to, pitch);
}

/// Of a wgmma, what its text says.
struct shape {
  int columns = 0, depth = 0;
  std::string_view type;
  bool a_mn_major = false, b_mn_major = false;
  std::vector<u32> sums;
};
// By what an instruction's `number` counts; never dropped, as its texts are not.
std::vector<shape>& shapes() {
  static auto& all = *new std::vector<shape>;
  return all;
}

struct operands {
  tile a, b;
  operands(shape const& s, u64 a, u64 b)
      : a(a, s.a_mn_major, s.type == "e4m3" ? 1 : 2),
        b(b, s.b_mn_major, s.type == "e4m3" ? 1 : 2) {}
};
shape const& shape_of(instruction const& i) { return shapes()[static_cast<std::size_t>(i.number)]; }
int first_row(warp const& w) { return w.index % 4 * 16; }

void multiply_tiles(warp& w, instruction const& i, operands const& o, bool accumulate) {
  shape const& s = shape_of(i);
  static thread_local f32 as[32 * 16], bs[32 * most_columns], sums[16 * most_columns];
  read_tile(w, i, o.a, first_row(w), 16, s.depth, s.type, as, 16);
  read_tile(w, i, o.b, 0, s.columns, s.depth, s.type, bs, most_columns);
  multiply(as, bs, sums, s.columns, s.depth, most_columns);
  for (int j = 0; j < s.columns / 8; ++j)
    for (int half = 0; half < 2; ++half)
      for (int e = 0; e < 2; ++e) {
        f32* const d = w.reg<f32>(s.sums[static_cast<std::size_t>(4 * j + 2 * half + e)]);
        for (int l = 0; l < lanes; ++l) {
          f32 const sum = sums[(l / 4 + 8 * half) * most_columns + 8 * j + l % 4 * 2 + e];
          d[l] = accumulate ? d[l] + sum : sum;
        }
      }
}

// Between the instruction and the wait for it the compiler may move sums from register to register:
// they are there at once. Operands must still be there when it is waited for.
void begin_product(warp& w, instruction const& i) {  // at: a, b, p
  if (!together(w, i, every_lane)) return;
  u64 const a = w.reg<u64>(i.at[0])[0], b = w.reg<u64>(i.at[1])[0];
  for (u64 const one : {a, b})
    if (one >> 62 != 1 || (one >> 49 & 7) != 0)
      fail(w, i, "has a descriptor of another swizzle than that of 128 bytes");
  multiply_tiles(w, i, {shape_of(i), a, b}, (w.predicate(i.at[2]) & 1) != 0);
  w.products.push_back({&i, a, b, w.product_groups});
}
void commit_products(warp& w, instruction const& i) {
  if (together(w, i, every_lane)) ++w.product_groups;
}
void wait_for_products(warp& w, instruction const& i) {
  if (!together(w, i, every_lane)) return;
  std::erase_if(w.products, [&](pending_product const& p) {
    if (p.group >= w.product_groups - static_cast<int>(i.number)) return false;
    shape const& s = shape_of(*p.of);
    operands const o(s, p.a, p.b);
    auto const look = [&](int, int, u64 where) {
      reach_shared(w, *w.in, *p.of, -1, where, 16, access::read);
    };
    for_chunks(o.a, first_row(w), 16, s.depth, look);
    for_chunks(o.b, 0, s.columns, s.depth, look);
    return true;
  });
}
void decode_wgmma(statement& s) {
  if (s.has("fence")) return;  // for registers, of which there is one view here
  if (s.has("commit_group")) {
    s.emit(commit_products);
    return;
  }
  if (s.has("wait_group")) {
    s.emit(wait_for_products).number = integer(s.operand(0));
    return;
  }
  shape made;
  std::string_view size;
  for (auto const word : s.words)
    if (word.starts_with("m64n")) size = word;
  auto const k = size.find('k');
  made.type = s.type();
  bool const known = made.type == "bf16" || made.type == "f16" || made.type == "e4m3";
  if (!s.has("mma_async") || k == size.npos || !s.has("f32") || !known) s.refuse();
  made.columns = static_cast<int>(integer(size.substr(4, k - 4)));
  made.depth = static_cast<int>(integer(size.substr(k + 1)));
  if (s.operand(4) != "1" || s.operand(5) != "1") s.refuse();  // neither is negated
  if (s.operands.size() > 6) {
    made.a_mn_major = integer(s.operand(6)) != 0;
    made.b_mn_major = integer(s.operand(7)) != 0;
  }
  for (auto const one : statement::vector(s.operand(0))) made.sums.push_back(s.written(one));
  if (made.sums.size() != static_cast<std::size_t>(made.columns) / 2) s.refuse();
  instruction& i = s.emit(begin_product);
  i.at[0] = s.read(s.operand(1), 8);
  i.at[1] = s.read(s.operand(2), 8);
  i.at[2] = s.read(s.operand(3), 0);
  i.number = static_cast<s64>(shapes().size());
  shapes().push_back(std::move(made));
}

}  // namespace

void add_wgmma(decoders& all) { all["wgmma"] = decode_wgmma; }

}  // namespace emulator
