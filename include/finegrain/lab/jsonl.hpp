// A log of one JSON object a line, which survives being killed while it is written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "../io/file.hpp"
#include "../io/json_reader.hpp"
#include "number_table.hpp"
#include "text.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// One line: keys in the order that they were set; a value is a text, a number, or numbers.
class record {
 public:
  using value = std::variant<std::string, double, std::vector<double>>;

  record& set(std::string key, value v) {
    for (auto& [name, old] : fields_)
      if (name == key) return old = std::move(v), *this;
    fields_.emplace_back(std::move(key), std::move(v));
    return *this;
  }

  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// A text, or "" where there is none of that name.
  std::string const& text(std::string_view key) const {
    static std::string const none;
    value const* const v = find(key);
    auto const* const found = v ? std::get_if<std::string>(v) : nullptr;
    return found ? *found : none;
  }
  /// A number, or NaN.
  double number(std::string_view key) const {
    value const* const v = find(key);
    auto const* const found = v ? std::get_if<double>(v) : nullptr;
    return found ? *found : std::numeric_limits<double>::quiet_NaN();
  }
  /// Numbers, or an empty list.
  std::vector<double> const& numbers(std::string_view key) const {
    static std::vector<double> const none;
    value const* const v = find(key);
    auto const* const found = v ? std::get_if<std::vector<double>>(v) : nullptr;
    return found ? *found : none;
  }

  /// A table's rows, each under a key of its own: key.0, key.1, ...
  record& set_rows(std::string const& key, number_table const& rows) {
    for (std::size_t r = 0; r < rows.size(); ++r) set(key + "." + std::to_string(r), rows[r]);
    return *this;
  }
  number_table rows(std::string const& key) const {
    number_table all;
    while (has(key + "." + std::to_string(all.size())))
      all.push_back(numbers(key + "." + std::to_string(all.size())));
    return all;
  }
  /// As JSON, without the line's end. Numbers read back as the same bits; JSON has no NaN: null.
  std::string line() const {
    std::string out = "{";
    for (auto const& [key, v] : fields_) {
      if (out.size() > 1) out += ", ";
      write(out, key);
      out += ": ";
      std::visit([&](auto const& x) { write(out, x); }, v);
    }
    return out + "}";
  }
  /// The record of a line; nothing where the line is no such record.
  static std::optional<record> parse(std::string_view line) {
    try {
      return reader(line).read();
    } catch (file_error const&) {
      return std::nullopt;
    }
  }

  friend bool operator==(record const& a, record const& b) { return a.line() == b.line(); }

 private:
  value const* find(std::string_view key) const {
    for (auto const& [name, v] : fields_)
      if (name == key) return &v;
    return nullptr;
  }

  static void write(std::string& out, double x) {
    out += std::isfinite(x) ? text::shortest(x) : "null";
  }
  static void write(std::string& out, std::vector<double> const& list) {
    out += '[';
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (i > 0) out += ", ";
      write(out, list[i]);
    }
    out += ']';
  }
  static void write(std::string& out, std::string const& text) { detail::append_json(out, text); }

  /// The JSON that `line` writes: one object, no object inside it.
  struct reader : detail::json_reader {
    explicit reader(std::string_view line) : json_reader(line, "a log") {}

    record read() {
      record r;
      expect('{', "a record does not begin with {");
      members([&](std::string key) { r.fields_.emplace_back(std::move(key), any()); });
      finish("a record goes on after its closing }");
      return r;
    }

   private:
    value any() {
      if (next_is('"')) return string();
      if (!next_is('[')) return real();
      ++at_;
      std::vector<double> list;
      elements([&] { list.push_back(real()); });
      return list;
    }
    double real() {
      if (!text_.substr(at_).starts_with("null")) return json_reader::real();
      at_ += 4;
      return std::numeric_limits<double>::quiet_NaN();
    }
  };

  std::vector<std::pair<std::string, value>> fields_;
};

/// A file of records that one process at a time appends to. Opening it reads what is there and
/// cuts off a last line that is torn; each append is one write, so a kill tears the last line only. A
/// record that cannot be written whole is taken back.
class record_log {
 public:
  /// Throws file_error: it cannot be opened, is a device or the like, another process has it, or a
  /// line before the last is not a record.
  explicit record_log(std::string path)
      : path_(std::move(path)),
        file_(::open(path_.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0644)) {
    if (file_ < 0) throw_file_error("cannot open", path_, errno);
    static_cast<void>(size_of_file(file_, path_));
    if (::flock(file_, LOCK_EX | LOCK_NB) != 0)
      throw file_error("another process, or another study in this one, is writing %.300s",
                       path_.c_str());
    load();
  }

  std::vector<record> const& records() const { return records_; }

  /// What is then among the records is what a later reader of the file gets: NaN where the record has
  /// an infinite number. Throws file_error.
  void append(record const& r) {
    std::string const line = r.line() + '\n';
    off_t const before = ::lseek(file_, 0, SEEK_END);
    if (!write_all(file_, line.data(), line.size())) {
      int const reason = errno;
      static_cast<void>(::ftruncate(file_, before) == 0);
      throw_file_error("cannot write", path_, reason);
    }
    records_.push_back(record::parse({line.data(), line.size() - 1}).value());
  }

 private:
  void load() {
    std::string const all = read_all(file_, path_);
    std::size_t whole = 0;  // where the last good line ends
    for (std::size_t end; (end = all.find('\n', whole)) != all.npos; whole = end + 1) {
      auto r = record::parse(std::string_view(all).substr(whole, end - whole));
      if (!r && end + 1 < all.size())
        throw file_error("%s:%zu: this line is not a record", path_.c_str(), records_.size() + 1);
      if (!r) break;
      records_.push_back(std::move(*r));
    }
    if (whole < all.size() && ::ftruncate(file_, static_cast<off_t>(whole)) != 0)
      throw_file_error("cannot mend", path_, errno);
  }

  std::string path_;
  file_descriptor file_;
  std::vector<record> records_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
