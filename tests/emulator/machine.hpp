// The machine that the emulator is: kernels as instructions, warps and blocks that run them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

/// Runs kernels that nvcc compiled for compute capability 8.0, or 9.0a, on a machine without a GPU:
/// this folder takes the place of cudart and cuBLAS, reads the PTX that is in a program's own objects,
/// and interprets it, the 32 lanes of a warp at a time.
///
/// It looks at what hardware does not: each access to memory is within an array and aligned, no
/// byte is read that nobody wrote, and a barrier stands between what one warp writes and another
/// reads or writes. Between blocks, in global memory, these are fences with an atomic operation
/// between them, and a launch that may overlap the one ahead waits for it; two may write one place
/// there in any order if both write the same. The first fault ends its kernel; the launch returns an
/// error, and the program, whatever it made of that, exits with one. An instruction, a register or a
/// function that it does not know is a fault too. Time, caches, fences between the proxies of 9.0
/// and the order in which products sum it does not know.
///
/// FINEGRAIN_EMULATOR_CAPABILITY=9.0 makes it a device of 9.0 with what this project uses of it
/// (hopper.hpp), and prefers code for that. FINEGRAIN_EMULATOR_SEED=n has warps and blocks run in
/// another order for each n but 0.
namespace emulator {

// Types as PTX names them.
using u8 = std::uint8_t;
using u16 = std::uint16_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using s8 = std::int8_t;
using s16 = std::int16_t;
using s32 = std::int32_t;
using s64 = std::int64_t;
using f32 = float;
using f64 = double;

constexpr int lanes = 32;
constexpr u32 every_lane = ~0u;
constexpr u32 shared_bytes_of_80 = 163 * 1024;  // what a block may have on 8.0,
constexpr u32 shared_bytes_of_90 = 227 * 1024;  // and on 9.0
constexpr int multiprocessors = 4;

struct warp;
struct block;
struct cluster;
struct instruction;
using action = void (*)(warp&, instruction const&);

/// How an access to global memory stands to those of others: atomic if it is not plain, and with a
/// fence on both sides.
enum class ordering : u8 { plain, relaxed, fenced };
enum class space : u8 { generic, global, shared, local, parameter };

/// What an instruction does, and where in a warp's registers its operands are. Constants and
/// special registers are there too, so that each operand is 32 numbers.
struct instruction {
  action run = nullptr;
  std::array<u32, 14> at{};  // 0: there is no such operand
  s64 number = 0;            // added to an address, or of the instruction's own
  s64 source_number = 0;     // added to the second address of a copy
  u32 guard = 0;             // the predicate before it
  int target = 0;            // of a branch
  space where = space::generic;
  ordering order = ordering::plain;
  u8 count = 1;           // of its operands, where that varies
  u8 size = 0;            // bytes of a register
  u8 mode = 0;            // of the instruction's own
  bool wide = false;      // addresses have 64 bits
  bool unless = false;    // its guard is negated
  bool inverted = false;  // its predicate operand is
  bool branches = false;  // heeds its guard itself
};

/// Where in the source an instruction is from, and from where that was called.
struct place {
  u32 file = 0, line = 0, outer_file = 0, outer_line = 0;
};

struct parameter {
  std::string_view name;
  u32 bytes = 0, align = 1, at = 0;
};

struct module;

/// A kernel: its text, and, after its first launch, its instructions.
struct kernel {
  std::string_view name, body;
  module const* in = nullptr;
  std::vector<parameter> parameters;
  u32 parameter_bytes = 0, most_threads = 0;

  struct constant {
    u32 at, bytes;
    u64 bits;
  };
  struct special {  // a register that says which thread of which block this is
    u32 (*of)(block const&, u32 thread);
    u32 at;
  };
  struct source {
    std::string_view text;
    place where;
  };
  std::vector<instruction> code;
  std::vector<source> sources;  // of each instruction
  std::vector<constant> constants;
  std::vector<special> specials;
  u32 register_bytes = 0, shared_bytes = 0, local_bytes = 0;
};

/// A function that kernels call. Its body is put in the place of the call.
struct function {
  std::string_view body;
  std::vector<parameter> results, parameters;
};
struct variable {
  bool shared = false, dynamic = false;
  parameter is;
  void* memory = nullptr;  // of one that is not shared
};

/// What one .cu file holds.
struct module {
  std::map<std::string_view, kernel> kernels;
  std::map<std::string_view, function> functions;
  std::map<std::string_view, variable> variables;
  std::map<u32, std::string_view> files;
};

/// Until when somebody knows what each warp of a cluster did, and of each cluster by its number.
using times = std::array<u32, 32>;
using knowledge = std::unordered_map<u32, times>;

/// Lanes of a warp that stand at the same instruction.
struct group {
  int next = 0;
  u32 mask = 0;
  bool waits = false;  // for others of the warp
  bool spins = false;  // asks again and again for what others are to do
};

/// A copy to shared memory that happens when it is waited for: nobody may count on it sooner.
struct pending_copy {
  int lane;
  u32 to;
  u64 from;
  u32 bytes, taken;  // what is not taken becomes 0
  int commit;
};

/// A product whose operands are still being read, and a copy from shared memory that is.
struct pending_product {
  instruction const* of;
  u64 a, b;
  int group;
};
struct pending_store {
  int lane, commit;
  std::function<void()> finish;
};

struct warp {
  enum class state { ready, at_barrier, done };

  kernel const* of = nullptr;
  block* in = nullptr;
  u8* registers = nullptr;
  group now;
  std::vector<group> others;
  u32 live = 0;   // lanes that have not returned
  u32 carry = 0;  // of .cc, a bit for each lane
  int index = 0;
  std::size_t clock = 0;  // its number among the warps of its cluster, which know of one another
  state is = state::ready;
  bool stays = false, yields = false;  // what an instruction asks of the scheduler
  u64 turns = 0;
  std::vector<pending_copy> copies;
  std::array<int, lanes> commits{}, stored{};
  std::vector<pending_product> products;
  std::vector<pending_store> stores;
  int product_groups = 0;
  u32 total_at = 0;  // the register in which the barrier that it waits at leaves its total, or 0
  times known{};     // of its cluster
  bool fenced = false;
  times at_fence{};  // what it knew at its last fence
  knowledge seen;    // in atomic locations, which it knows from its next fence on
  std::vector<u8> register_store, local, local_written;

  template <class T>
  T* reg(u32 at) {
    return reinterpret_cast<T*>(registers + at);
  }
  u32& predicate(u32 at) { return *reg<u32>(at); }
  void set_predicate(u32 at, u32 bits) {
    predicate(at) = (predicate(at) & ~now.mask) | (bits & now.mask);
  }
  bool on(int lane) const { return now.mask >> lane & 1; }
  int first_lane() const { return __builtin_ctz(now.mask); }
  u8* local_of(int lane) { return local.data() + static_cast<std::size_t>(lane) * of->local_bytes; }
};

/// Of shared memory: when and by which warp it was written last, and when read since. One cell is
/// kept for 16 bytes, or, when they are accessed apart, eight of two bytes.
struct history {
  static constexpr u32 bytes = 16, parts = 8;
  struct cell {
    u32 wrote, read;
    u8 writer, reader;  // reader: the last, which knew of those before it
    bool several;       // readers did not: when each of them did is in `reads`
    bool on_its_way;    // what was to be written is not there yet
    bool apart;
  };
  std::size_t granules = 0, row = 0;  // row: of `reads`, a multiple of 8 warps
  std::vector<cell> cells;
  std::vector<u32> reads;  // of each cell, by each warp

  void make(std::size_t size, std::size_t warps);
  std::size_t part_at(u64 at) const { return granules + at / (bytes / parts); }
  std::size_t cell_at(u64 at) const { return cells[at / bytes].apart ? part_at(at) : at / bytes; }
  u32 bytes_at(u64 at) const { return cells[at / bytes].apart ? bytes / parts : bytes; }
  /// Who comes after the one that writes knows what that one knew: of all that read before.
  void write(std::size_t at, u32 when, std::size_t by) {
    cells[at] = {when, 0, static_cast<u8>(by), 0, false, false, false};
  }
  void read_by_several(std::size_t at);
  void take_apart(std::size_t granule);
};
struct barrier {
  u32 arrived = 0, total = 0;  // threads; and those of them with a predicate
  bool counted = false;
  times known{};  // from warps that arrived and went on
  std::vector<warp*> waiting;
};
/// An mbarrier, found by its address in shared memory. What is promised is done when somebody asks.
struct phase_barrier {
  u32 expected = 0, pending = 0, phase = 0;
  s64 bytes = 0;  // that are still to come
  times known{};
  std::vector<std::function<void()>> promised;
};

struct dimensions {
  u32 x = 1, y = 1, z = 1;
  u64 count() const { return u64{x} * y * z; }
};

struct block {
  dimensions at, size, grid;
  u8 const* parameters = nullptr;
  u8* shared = nullptr;
  u32 shared_bytes = 0, began = 0;
  std::vector<u8> store;
  history words;
  std::deque<warp> warps;
  std::array<barrier, 16> barriers;
  std::unordered_map<u64, phase_barrier> phases;
  u32 alive = 0;
  cluster* of = nullptr;
  std::size_t first_clock = 0, clocks = 0;  // of its first warp; of all warps of the cluster
};
/// Blocks that run together, and reach one another's shared memory.
struct cluster {
  u32 number = 0;
  bool waited = true;  // for the launch ahead, where that may still run
  knowledge others;
  std::vector<block*> blocks;
  barrier meeting;
};

/// Counts barriers and fences passed and blocks begun: the time of what happens in memory.
inline u32 clock_now = 1;

/// A launch of a kernel, with its arguments as they lie in memory.
struct launch {
  kernel* of;
  dimensions grid, size;
  std::vector<u8> arguments;
  u32 dynamic_bytes;
  bool together;          // all blocks at once: they may wait for one another
  u32 clustered = 1;      // so many at once, as a cluster
  bool overlaps = false;  // may begin before the launch ahead of it has ended
};
void run(launch const& l);

/// What %tid.x and its like are; nothing if there is no such register.
u32 (*special_register(std::string_view name))(block const&, u32 thread);

/// Makes a kernel's text instructions.
void assemble(kernel& k);
/// What is in the PTX text of a .cu file, which must stay.
std::unique_ptr<module> read_module(std::string_view text);

}  // namespace emulator
