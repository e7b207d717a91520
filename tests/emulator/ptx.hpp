// Pieces of PTX text, and an instruction's text on its way to the machine.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "checks.hpp"
#include "machine.hpp"

namespace emulator {

std::string_view trimmed(std::string_view text);
/// The parts between commas, or another character, outside of brackets.
std::vector<std::string_view> parts(std::string_view text, char between = ',');
/// The words between white space.
std::vector<std::string_view> words(std::string_view text);
/// Bytes of a type without its point, 0 of a predicate; nothing for what is no type.
std::optional<u32> size_of(std::string_view type);
/// The bits of a number as PTX writes it, in so many bytes.
std::optional<u64> number(std::string_view text, u32 bytes);
/// The whole number at the beginning of a text.
s64 integer(std::string_view text);
/// A declaration: .param .align 8 .b8 name[16]
parameter declared(std::string_view text);
constexpr u32 rounded_up(u32 x, u32 multiple) { return (x + multiple - 1) / multiple * multiple; }

class assembler;

/// An instruction's text: `mad.lo.s32 %r1, %r2, %r3, 4` has the name mad, the type s32 and four
/// operands. Each of the functions below that emits is called once, or again for more instructions.
struct statement {
  assembler& in;
  std::string_view text;
  std::vector<std::string_view> words, operands;

  std::string_view name() const { return words[0]; }
  std::string_view type() const { return words.back(); }
  std::string_view operand(std::size_t n) const;
  bool has(std::string_view word) const;
  u32 bytes() const;  // of the type
  [[noreturn]] void refuse() const;

  /// Adds an instruction, whose operands are still to be told.
  instruction& emit(action run);
  /// Adds one whose first operand is written and whose others are read, with these bytes.
  instruction& emit(action run, std::initializer_list<u32> read);
  /// Adds one with so many operands that are read, all of the type.
  instruction& uniform(action run, int count);

  /// Where an operand is in the registers; bytes: of a constant, or 0 of a predicate.
  u32 read(std::string_view operand, u32 bytes) const;
  /// The same of a predicate that may be negated.
  u32 predicate(std::string_view operand, bool& inverted) const;
  u32 written(std::string_view operand) const;
  u32 register_bytes(std::string_view operand, u32 otherwise) const;
  /// Has an instruction's operand `slot`, and its number, be an address: [%rd1+16]
  void address(instruction& i, std::string_view operand, std::size_t slot) const;
  /// The operands in braces, or the only one.
  static std::vector<std::string_view> vector(std::string_view operand);
  /// Of global, shared, local, param the one that is named.
  space where() const;
};

using decoder = void (*)(statement&);
using decoders = std::unordered_map<std::string_view, decoder>;

// Each file of instructions adds its names.
void add_arithmetic(decoders& all);
void add_bits(decoders& all);
void add_conversions(decoders& all);
void add_accesses(decoders& all);
void add_copies(decoders& all);
void add_lanes(decoders& all);
void add_control(decoders& all);
void add_phases(decoders& all);
void add_wgmma(decoders& all);

/// Whether these lanes are all at this instruction; if not, it is done again later. No lane that
/// has left comes any more.
bool together(warp& w, instruction const& i, u32 needed);

/// Has a branch's target be a label, wherever that is, or the end of the function it is in.
void branch_to(statement& s, std::string_view label);
/// Whether a statement is in the body of a function that was called.
bool in_function(statement const& s);
/// Puts a function's body here.
void call(statement& s);

}  // namespace emulator
