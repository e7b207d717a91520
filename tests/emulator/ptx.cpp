// Reads the PTX text of a .cu file: its kernels, functions, variables and files.
// SPDX-License-Identifier: Apache-2.0
#include "ptx.hpp"

#include <cctype>
#include <charconv>
#include <cstring>

#include "memory.hpp"

namespace emulator {
namespace {

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }

// The end of the body that begins behind a brace.
std::size_t closing(std::string_view text, std::size_t at) {
  for (int depth = 1;; ++at) {
    if (text[at] == '/' && text[at + 1] == '/') at = text.find('\n', at);
    if (text[at] == '{') ++depth;
    if (text[at] == '}' && --depth == 0) return at;
  }
}
// The parameters in the brackets that open at `at`, each at its place; `at` moves behind them.
std::vector<parameter> parameters(std::string_view text, std::size_t& at) {
  std::vector<parameter> all;
  if (at == std::string_view::npos) return all;
  std::size_t const end = text.find(')', at);
  u32 place = 0;
  for (std::string_view one : parts(text.substr(at + 1, end - at - 1))) {
    parameter p = declared(one);
    p.at = rounded_up(place, p.align);
    place = p.at + p.bytes;
    all.push_back(p);
  }
  at = end + 1;
  return all;
}
void read_kernel(module& m, std::string_view head, std::string_view body) {
  head = head.substr(head.find(".entry") + 6);
  std::size_t at = head.find('(');
  auto const name = words(head.substr(0, at))[0];
  kernel& k = m.kernels[name];
  k.name = name;
  k.body = body;
  k.in = &m;
  k.parameters = parameters(head, at);
  if (!k.parameters.empty()) k.parameter_bytes = k.parameters.back().at + k.parameters.back().bytes;
  if (auto const most = head.find(".maxntid"); most != head.npos)
    k.most_threads = static_cast<u32>(integer(head.substr(most + 8)));
}
void read_function(module& m, std::string_view head, std::string_view body) {
  head = head.substr(head.find(".func") + 5);
  function f;
  f.body = body;
  std::size_t at = head.find('(');
  if (trimmed(head.substr(0, at)).empty()) {
    f.results = parameters(head, at);
    head = head.substr(at);
    at = head.find('(');
  }
  auto const name = trimmed(head.substr(0, at));
  f.parameters = parameters(head, at);
  m.functions[name] = f;
}
void read_variable(module& m, std::string_view text) {
  auto const is = text.find('=');
  variable v;
  v.is = declared(trimmed(text.substr(0, is)));
  v.shared = text.find(".shared") != text.npos;
  v.dynamic = text.find(".extern") != text.npos;
  if (!v.shared) {
    v.memory = make_array(v.is.bytes, true);
    std::memset(v.memory, 0, v.is.bytes);
    if (is != text.npos) {
      auto first = trimmed(text.substr(is + 1));
      if (first[0] == '{') first = first.substr(1, first.size() - 2);
      u32 at = 0, bytes = 0;
      for (std::string_view word : words(text.substr(0, is)))
        if (auto const size = size_of(word.substr(1)); word[0] == '.' && size) bytes = *size;
      for (std::string_view one : parts(first)) {
        auto const bits = number(one, bytes);
        if (!bits) unknown("the initial value " + std::string(one));
        std::memcpy(static_cast<u8*>(v.memory) + at, &*bits, bytes);
        at += bytes;
      }
    }
  }
  m.variables[v.is.name] = v;
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}
std::vector<std::string_view> parts(std::string_view text, char between) {
  std::vector<std::string_view> all;
  int depth = 0;
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size(); ++at) {
    char const c = text[at];
    if (c == '{' || c == '[' || c == '(') ++depth;
    if (c == '}' || c == ']' || c == ')') --depth;
    if (c == between && depth == 0) {
      all.push_back(trimmed(text.substr(begin, at - begin)));
      begin = at + 1;
    }
  }
  auto const last = trimmed(text.substr(begin));
  if (!last.empty() || !all.empty()) all.push_back(last);
  return all;
}
std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> all;
  for (std::size_t at = 0; at < text.size();) {
    while (at < text.size() && is_space(text[at])) ++at;
    std::size_t const begin = at;
    while (at < text.size() && !is_space(text[at])) ++at;
    if (at > begin) all.push_back(text.substr(begin, at - begin));
  }
  return all;
}
std::optional<u32> size_of(std::string_view type) {
  if (type == "pred") return 0;
  if (type == "f16x2" || type == "bf16x2") return 4;
  if (type.starts_with("bf")) type.remove_prefix(1);
  if (type.size() < 2 || std::string_view("busf").find(type[0]) == type.npos) return {};
  auto const bits = type.substr(1);
  for (u32 const bytes : {1u, 2u, 4u, 8u})
    if (bits == std::to_string(8 * bytes)) return bytes;
  return {};
}
s64 integer(std::string_view text) {
  text = trimmed(text);
  bool const minus = text.starts_with('-');
  if (minus) text.remove_prefix(1);
  int const base = text.starts_with("0x") || text.starts_with("0X") ? 16 : 10;
  if (base == 16) text.remove_prefix(2);
  u64 found = 0;
  std::from_chars(text.data(), text.data() + text.size(), found, base);
  return static_cast<s64>(minus ? 0 - found : found);
}
std::optional<u64> number(std::string_view text, u32 bytes) {
  auto const bits_of = [&](char letter) -> std::optional<u64> {  // 0f3F800000, 0d3FF0000000000000
    if (text.size() < 3 || text[0] != '0' || std::tolower(text[1]) != letter) return {};
    u64 found = 0;
    std::from_chars(text.data() + 2, text.data() + text.size(), found, 16);
    return found;
  };
  if (auto const bits = bits_of('f')) {
    if (bytes != 8) return bits;
    auto const wide = static_cast<f64>(__builtin_bit_cast(f32, static_cast<u32>(*bits)));
    return __builtin_bit_cast(u64, wide);
  }
  if (auto const bits = bits_of('d')) {
    if (bytes != 4) return bits;
    return __builtin_bit_cast(u32, static_cast<f32>(__builtin_bit_cast(f64, *bits)));
  }
  auto const digits = text.substr(text.starts_with('-'));
  if (digits.empty() || !std::isdigit(static_cast<unsigned char>(digits[0]))) return {};
  return static_cast<u64>(integer(text));
}
parameter declared(std::string_view text) {
  parameter p;
  u32 bytes = 0;
  auto const all = words(text);
  for (std::size_t n = 0; n < all.size(); ++n) {
    if (all[n] == ".align") p.align = static_cast<u32>(integer(all[n + 1]));
    if (auto const size = size_of(all[n].substr(1)); all[n][0] == '.' && size) bytes = *size;
  }
  p.align = std::max(p.align, bytes);
  p.name = all.back();
  p.bytes = bytes;
  if (auto const count = p.name.find('['); count != p.name.npos) {
    p.bytes *= static_cast<u32>(integer(p.name.substr(count + 1)));
    p.name = p.name.substr(0, count);
  }
  return p;
}

std::unique_ptr<module> read_module(std::string_view text) {
  auto made = std::make_unique<module>();
  for (std::size_t at = 0; at < text.size();) {
    if (is_space(text[at]) || text[at] == ';') {
      ++at;
      continue;
    }
    auto const rest = text.substr(at);
    std::size_t const line_end = std::min(text.find('\n', at), text.size());
    auto const line = text.substr(at, line_end - at);
    if (rest.starts_with(".section")) break;  // of debuggers, to the end
    if (rest.starts_with(".file")) {
      auto const quote = line.find('"');
      made->files[static_cast<u32>(integer(line.substr(5)))] =
          line.substr(quote + 1, line.rfind('"') - quote - 1);
    }
    bool whole_line = rest.starts_with("//");
    for (char const* word : {".file", ".version", ".target", ".address_size"})
      whole_line |= rest.starts_with(word);
    if (whole_line) {
      at = line_end;
      continue;
    }
    std::size_t const end = text.find_first_of("{;", at);
    auto const head = text.substr(at, end - at);
    bool const is_kernel = head.find(".entry") != head.npos;
    bool const is_function = head.find(".func") != head.npos;
    if (text[end] == '{' && (is_kernel || is_function)) {
      std::size_t const close = closing(text, end + 1);
      auto const body = text.substr(end + 1, close - end - 1);
      (is_kernel ? read_kernel : read_function)(*made, head, body);
      at = close + 1;
    } else {
      at = text.find(';', at);  // behind the braces of an array's initial values
      if (!is_kernel && !is_function)
        read_variable(*made,
                      text.substr(static_cast<std::size_t>(head.data() - text.data()),
                                  at - (static_cast<std::size_t>(head.data() - text.data()))));
    }
  }
  return made;
}

}  // namespace emulator
