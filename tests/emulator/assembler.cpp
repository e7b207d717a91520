// Makes a kernel's text instructions: registers get places, labels numbers, calls bodies.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cctype>

#include "ptx.hpp"

namespace emulator {
namespace {

decoders const& known() {
  static decoders const all = [] {
    decoders d;
    for (auto* const add : {add_arithmetic, add_bits, add_conversions, add_accesses, add_copies,
                            add_lanes, add_control, add_phases, add_wgmma})
      add(d);
    return d;
  }();
  return all;
}

}  // namespace

class assembler {
 public:
  explicit assembler(kernel& k) : k_(k) {
    k.register_bytes = 64;  // place 0 is none
    place_shared();
    open();
    body(k.body);
    for (auto const& [at, label, scopes] : branches_) k.code[at].target = target(label, scopes);
    std::string_view const end = "the end";
    statement s{*this, end, {"ret"}, {}};
    known().at("ret")(s);
    k.shared_bytes = dynamic_;
    k.local_bytes = rounded_up(k.local_bytes, 16);
  }

  instruction& emit(action run, std::string_view text) {
    k_.sources.push_back({text, here_});
    k_.code.emplace_back();
    k_.code.back().run = run;
    return k_.code.back();
  }
  u32 read(std::string_view text, u32 bytes) {
    if (auto const* r = find(text)) return r->at;
    if (auto const bits = number(text, bytes ? bytes : 4))
      return bytes ? constant(bytes, *bits) : constant(0, *bits ? ~0u : 0);
    if (text.starts_with('%')) return special(text).at;
    if (auto const s = symbol(text)) return constant(bytes, s->value);
    unknown("the operand " + std::string(text));
  }
  u32 written(std::string_view text) {
    if (text == "_") return 0;
    if (auto const* r = find(text)) return r->at;
    unknown("the destination " + std::string(text));
  }
  u32 register_bytes(std::string_view text, u32 otherwise) {
    auto const* const r = find(text);
    return r ? r->bytes : otherwise;
  }
  void address(instruction& i, std::string_view text, std::size_t slot) {
    if (text.starts_with('[')) text = trimmed(text.substr(1, text.find(']') - 1));
    auto const plus = text.rfind('+');
    i.number = plus == text.npos ? 0 : integer(text.substr(plus + 1));
    auto const base = trimmed(text.substr(0, plus));
    i.wide = true;
    if (auto const* r = find(base)) {
      i.at[slot] = r->at;
      i.wide = r->bytes == 8;
    } else if (auto const s = symbol(base)) {
      if (s->in == space::local && i.where == space::parameter) i.where = space::local;
      i.at[slot] = constant(8, s->value);
    } else {
      unknown("the address " + std::string(text));
    }
  }
  void branch(std::string_view label) { branches_.push_back({k_.code.size() - 1, label, scopes_}); }
  bool in_function() const { return depth_ > 0; }

  void call(statement& s) {  // (results), name, (arguments): either may be missing
    auto const listed = [](std::string_view text) {
      return text.starts_with('(') ? parts(text.substr(1, text.size() - 2))
                                   : std::vector<std::string_view>{};
    };
    auto const& o = s.operands;
    std::size_t const at = o[0].starts_with('(') ? 1 : 0;
    auto const found = k_.in->functions.find(o[at]);
    if (found == k_.in->functions.end() || s.text.starts_with('@')) s.refuse();
    function const& f = found->second;
    auto const results = at ? listed(o[0]) : listed(""), given = listed(o.back());
    auto const outside = locals_;
    auto const from = here_;
    open();
    for (std::size_t n = 0; n < f.results.size(); ++n)
      locals_[f.results[n].name] = outside.at(results.at(n));
    for (std::size_t n = 0; n < f.parameters.size(); ++n)
      locals_[f.parameters[n].name] = outside.at(given.at(n));
    ++depth_;
    body(f.body);
    --depth_;
    labels_[scopes_.back()][""] = static_cast<int>(k_.code.size());  // where it returns to
    locals_ = outside;
    here_ = from;
    close();
  }

 private:
  struct register_place {
    u32 at, bytes;
  };
  struct named {
    u64 value;
    space in;
  };
  struct branch_place {
    std::size_t at;
    std::string_view label;
    std::vector<int> scopes;
  };
  using names = std::unordered_map<std::string_view, register_place>;
  struct declarations {
    names each;
    std::unordered_map<std::string_view, u32> families;  // %r<34> is %r0 to %r33: bytes of %r
  };

  u32 room(u32 bytes) {  // for 32 of them; a predicate has a bit for each lane
    u32 const at = rounded_up(k_.register_bytes, bytes ? 64 : 4);
    k_.register_bytes = at + (bytes ? 32 * bytes : 4);
    return at;
  }
  // What nobody uses gets no room.
  register_place const* find(std::string_view name) {
    auto const family = name.substr(0, name.find_last_not_of("0123456789") + 1);
    for (std::size_t n = registers_.size(); n-- > 0;) {
      auto& [each, families] = registers_[n];
      if (auto const r = each.find(name); r != each.end()) return &r->second;
      if (auto const f = families.find(family); f != families.end())
        return &(each[name] = {room(f->second), f->second});
    }
    return nullptr;
  }
  register_place special(std::string_view name) {
    if (auto const s = specials_.find(name); s != specials_.end()) return s->second;
    auto* const of = special_register(name);
    if (!of) unknown("the register " + std::string(name));
    register_place const made{room(4), 4};
    k_.specials.push_back({of, made.at});
    return specials_[name] = made;
  }
  u32 constant(u32 bytes, u64 bits) {
    if (bytes && bytes < 8) bits &= (u64{1} << 8 * bytes) - 1;
    auto const [at, fresh] = constants_.try_emplace({bytes, bits});
    if (fresh) {
      at->second = room(bytes);
      k_.constants.push_back({at->second, bytes, bits});
    }
    return at->second;
  }
  std::optional<named> symbol(std::string_view name) const {
    if (auto const l = locals_.find(name); l != locals_.end())
      return named{l->second, space::local};
    if (auto const s = shared_.find(name); s != shared_.end())
      return named{s->second, space::shared};
    for (parameter const& p : k_.parameters)
      if (p.name == name) return named{p.at, space::parameter};
    auto const v = k_.in->variables.find(name);
    if (v == k_.in->variables.end()) return {};
    if (v->second.dynamic) return named{dynamic_, space::shared};
    return named{reinterpret_cast<u64>(v->second.memory), space::global};
  }
  // Arrays in shared memory, of the file and of the kernel; the dynamic ones begin behind them.
  void place_shared() {
    u32 end = 0;
    auto const put = [&](parameter const& p) {
      end = rounded_up(end, p.align);
      shared_[p.name] = end;
      end += p.bytes;
    };
    for (auto const& [name, v] : k_.in->variables)
      if (v.shared && !v.dynamic && k_.body.find(name) != k_.body.npos) put(v.is);
    std::string_view const begin = ".shared .align";
    for (auto at = k_.body.find(begin); at != k_.body.npos; at = k_.body.find(begin, at + 1)) {
      auto const line = k_.body.rfind('\n', at);
      if (trimmed(k_.body.substr(line + 1, at - line - 1)).empty())
        put(declared(k_.body.substr(at, k_.body.find(';', at) - at)));
    }
    dynamic_ = rounded_up(end, 1024);
  }

  void open() {
    registers_.emplace_back();
    scopes_.push_back(++scope_);
  }
  void close() {
    registers_.pop_back();
    scopes_.pop_back();
  }
  int target(std::string_view label, std::vector<int> const& scopes) const {
    for (std::size_t n = scopes.size(); n-- > 0;)  // labels in inline assembly are of its braces
      if (auto const l = labels_.find(scopes[n]); l != labels_.end())
        if (auto const at = l->second.find(label); at != l->second.end()) return at->second;
    unknown("the label " + std::string(label));
  }
  void located(std::string_view line) {  // .loc 1 34 5, function_name $L, inlined_at 2 56 7
    auto const two = [](std::string_view text, u32& file, u32& line) {
      auto const all = words(text);
      file = static_cast<u32>(integer(all.at(0)));
      line = static_cast<u32>(integer(all.at(1)));
    };
    here_ = {};
    two(line, here_.file, here_.line);
    std::string_view const from = "inlined_at ";
    if (auto const at = line.find(from); at != line.npos)
      two(line.substr(at + from.size()), here_.outer_file, here_.outer_line);
  }
  void body(std::string_view t) {
    for (std::size_t at = 0; at < t.size();) {
      if (std::isspace(static_cast<unsigned char>(t[at])) || t[at] == ';') {
        ++at;
      } else if (t[at] == '{' || t[at] == '}') {
        t[at] == '{' ? open() : close();
        ++at;
      } else if (t.compare(at, 2, "//") == 0) {
        at = t.find('\n', at);
      } else if (t.compare(at, 5, ".loc\t") == 0) {
        auto const end = t.find('\n', at);
        located(t.substr(at + 4, end - at - 4));
        at = end;
      } else {
        auto const end = std::min(t.find_first_of(";:\n", at), t.size());
        auto const label = t.substr(at, end - at);
        if (t[end] == ':' && label.find_first_of(" \t.") == label.npos) {
          labels_[scopes_.back()][label] = static_cast<int>(k_.code.size());
          at = end + 1;
        } else {
          auto const stop = t.find(';', at);
          one(t.substr(at, stop - at));
          at = stop + 1;
        }
      }
    }
  }
  void directive(std::string_view text) {
    auto const all = words(text);
    if (all[0] == ".reg") {
      u32 const bytes = *size_of(all[1].substr(1));
      auto const list = static_cast<std::size_t>(all[1].data() + all[1].size() - text.data());
      for (std::string_view name : parts(text.substr(list))) {
        if (auto const many = name.find('<'); many != name.npos)
          registers_.back().families[name.substr(0, many)] = bytes;
        else
          registers_.back().each[name] = {room(bytes), bytes};
      }
    } else if (all[0] == ".local" || all[0] == ".param") {
      parameter const p = declared(text);
      k_.local_bytes = rounded_up(k_.local_bytes, std::max(p.align, 8u));
      locals_[p.name] = k_.local_bytes;
      k_.local_bytes += p.bytes;
    } else if (all[0] != ".shared" && all[0] != ".pragma") {
      unknown("the directive " + std::string(text));
    }
  }
  void one(std::string_view text) {
    if (text[0] == '.') return directive(text);
    statement s{*this, text, {}, {}};
    std::size_t const first = k_.code.size();
    u32 guard = 0;
    bool unless = false;
    auto rest = text;
    if (rest[0] == '@') {
      auto const end = rest.find_first_of(" \t");
      guard = s.predicate(rest.substr(1, end - 1), unless);
      rest = trimmed(rest.substr(end));
    }
    auto const end = rest.find_first_of(" \t\n");
    s.words = parts(rest.substr(0, end), '.');
    if (end != rest.npos) s.operands = parts(rest.substr(end));
    auto const how = known().find(s.words[0]);
    if (how == known().end()) s.refuse();
    how->second(s);
    for (auto n = first; guard && n < k_.code.size(); ++n) {
      k_.code[n].guard = guard;
      k_.code[n].unless = unless;
    }
  }

  kernel& k_;
  std::vector<declarations> registers_;  // of the braces that are open
  std::vector<int> scopes_;              // their numbers
  int scope_ = 0, depth_ = 0;
  std::unordered_map<int, std::unordered_map<std::string_view, int>> labels_;
  std::vector<branch_place> branches_;
  std::map<std::pair<u32, u64>, u32> constants_;
  names specials_;
  std::unordered_map<std::string_view, u32> shared_, locals_;
  u32 dynamic_ = 0;
  place here_;
};

std::string_view statement::operand(std::size_t n) const {
  if (n >= operands.size()) refuse();
  return operands[n];
}
bool statement::has(std::string_view word) const {
  return std::find(words.begin() + 1, words.end(), word) != words.end();
}
u32 statement::bytes() const {
  auto const size = size_of(type());
  if (!size) refuse();
  return *size;
}
void statement::refuse() const { unknown("`" + std::string(text) + "`"); }
instruction& statement::emit(action run) {
  if (!run) refuse();
  return in.emit(run, text);
}
instruction& statement::emit(action run, std::initializer_list<u32> sizes) {
  instruction& i = emit(run);
  i.at[0] = written(operand(0));
  std::size_t n = 0;
  for (u32 const size : sizes) {
    ++n;
    i.at[n] = read(operand(n), size);
  }
  return i;
}
instruction& statement::uniform(action run, int count) {
  u32 const z = bytes();
  return count == 1 ? emit(run, {z}) : count == 2 ? emit(run, {z, z}) : emit(run, {z, z, z});
}
u32 statement::read(std::string_view text, u32 size) const { return in.read(text, size); }
u32 statement::predicate(std::string_view text, bool& inverted) const {
  inverted = text.starts_with('!');
  return in.read(text.substr(inverted), 0);
}
u32 statement::written(std::string_view text) const { return in.written(text); }
u32 statement::register_bytes(std::string_view text, u32 otherwise) const {
  return in.register_bytes(text, otherwise);
}
void statement::address(instruction& i, std::string_view text, std::size_t slot) const {
  in.address(i, text, slot);
}
std::vector<std::string_view> statement::vector(std::string_view text) {
  if (!text.starts_with('{')) return {text};
  return parts(text.substr(1, text.size() - 2));
}
space statement::where() const {
  return has("global") || has("const") ? space::global
         : has("shared")               ? space::shared
         : has("local")                ? space::local
         : has("param")                ? space::parameter
                                       : space::generic;
}
void branch_to(statement& s, std::string_view label) { s.in.branch(label); }
bool in_function(statement const& s) { return s.in.in_function(); }
void call(statement& s) { s.in.call(s); }

void assemble(kernel& k) { assembler made(k); }

}  // namespace emulator
