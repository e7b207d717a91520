// corpus: a text as tokens, cut into training and validation parts, and drawn from in windows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "../base/error.hpp"
#include "../io/file.hpp"
#include "../plan/batch.hpp"
#include "../plan/init.hpp"
#include "text.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Tokens, and for each the one that follows it: sequences of equal length, one after the other.
struct windows {
  std::vector<std::int32_t> x, y;    // (count * length)
  std::vector<std::int64_t> starts;  // (count + 1)
  std::vector<int> domains;          // (count) of each sequence: which text of a mixture

  finegrain::batch batch() const {
    return {.tokens = static_cast<std::int64_t>(x.size()), .ids = x, .starts = starts};
  }
};

/// A text of bytes, or of the token ids that a tokenizer of yours made of it. It is cut into 16
/// stretches of equal length, and the end of each, a sixteenth, is kept for validation: both parts
/// come from all over the text, and no window crosses a cut.
class corpus {
 public:
  /// `files` is where the text came from, for those who want to compress it.
  explicit corpus(std::string text, std::vector<std::string> files = {})
      : text_(std::move(text)), files_(std::move(files)) {}
  /// Token ids below `vocabulary`. Throws invalid_argument.
  corpus(std::vector<std::int32_t> ids, int vocabulary)
      : ids_(std::move(ids)), vocabulary_(vocabulary) {
    for (std::size_t i = 0; i < ids_.size(); ++i)
      if (ids_[i] < 0 || ids_[i] >= vocabulary_)
        throw invalid_argument("token %zu of a text has the id %d, of a vocabulary of %d", i,
                               ids_[i], vocabulary_);
  }

  /// The files' bytes, one file after the other. Throws file_error.
  static corpus read(std::vector<std::string> files) {
    std::string text;
    for (std::string const& path : files) {
      file_descriptor const file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
      if (file < 0) throw_file_error("cannot open", path, errno);
      text += read_all(file, path);
    }
    return corpus(std::move(text), std::move(files));
  }

  /// The first of several lists of files that can all be read. Throws file_error.
  static corpus first_of(std::vector<std::vector<std::string>> const& choices) {
    for (auto const& files : choices)
      if (!files.empty() && std::all_of(files.begin(), files.end(), [](std::string const& path) {
            return ::access(path.c_str(), R_OK) == 0;
          }))
        return read(files);
    throw file_error("none of the texts is there: name one");
  }

  /// Several texts in equal parts. Each gives as many stretches as the others, spread over it, all
  /// as long as the shortest text allows. Throws invalid_argument if there are not 1, 2, 4, 8 or 16.
  static corpus mixture(std::vector<std::string> names, std::vector<std::string_view> texts) {
    return mixed<std::string>(std::move(names), texts,
                              [](std::string all) { return corpus(std::move(all)); });
  }
  static corpus mixture(std::vector<std::string> names, std::vector<id_list> texts,
                        int vocabulary) {
    using list = std::vector<std::int32_t>;
    return mixed<list>(std::move(names), texts,
                       [&](list all) { return corpus(std::move(all), vocabulary); });
  }

  /// The names of a mixture's texts; none for one text.
  std::vector<std::string> const& domains() const { return domains_; }
  /// How many texts it is of.
  std::int64_t texts() const { return std::max<std::int64_t>(1, std::ssize(domains_)); }
  /// The bytes; nothing where the tokens are none.
  std::string_view text() const { return text_; }
  /// Ids are below it: 256 of bytes.
  int vocabulary() const { return vocabulary_; }
  /// What one token is called: losses are in bits of it.
  char const* unit() const { return ids_.empty() ? "byte" : "token"; }
  std::vector<std::string> const& files() const { return files_; }
  std::int64_t size() const {
    return static_cast<std::int64_t>(ids_.empty() ? text_.size() : ids_.size());
  }
  /// Equal texts, equal numbers.
  std::uint64_t fingerprint() const {
    if (ids_.empty()) return text::fingerprint(text_);
    return text::fingerprint({reinterpret_cast<char const*>(ids_.data()), 4 * ids_.size()});
  }

  /// So many training windows: the same for a seed and a step, whatever was drawn before. Throws
  /// invalid_argument when the text is too short for a window.
  void draw(std::uint64_t seed, std::int64_t step, std::int64_t count, std::int64_t length,
            windows& to) const {
    if (count < 0) throw invalid_argument("%lld windows cannot be drawn", detail::shown(count));
    std::int64_t const room = longest(length, true);
    std::uint64_t const base = random_word(seed, static_cast<std::uint64_t>(step));
    fill(to, count, length, [&](std::int64_t i) {
      std::uint64_t const n = static_cast<std::uint64_t>(i);
      std::int64_t const stretch = uniform(base, 2 * n, stretches);
      to.domains.push_back(domain_of(stretch));
      return cut(stretch) + uniform(base, 2 * n + 1, room);
    });
  }

  /// How many validation windows lie beside one another.
  std::int64_t validation_windows(std::int64_t length) const {
    return stretches * ceil_div(longest(length, false), length);
  }
  /// Validation windows [first, first + count) of `of` that are spread evenly over all. Those of a
  /// mixture's texts follow one another.
  void validate(std::int64_t first, std::int64_t count, std::int64_t of, std::int64_t length,
                windows& to) const {
    std::int64_t const all = validation_windows(length), each = all / stretches;
    if (first < 0 || count < 0 || first + count > of || of > all)
      throw invalid_argument("validation windows %lld to %lld of %lld: there are %lld",
                             detail::shown(first), detail::shown(first + count), detail::shown(of),
                             detail::shown(all));
    fill(to, count, length, [&](std::int64_t i) {
      std::int64_t const window = (first + i) * all / of;
      to.domains.push_back(domain_of(window / each));
      return held(window / each) + window % each * length;
    });
  }

 private:
  static constexpr std::int64_t stretches = 16;

  /// Equal parts of texts, of which make(tokens) is a corpus.
  template <class Tokens, class Text, class Make>
  static corpus mixed(std::vector<std::string> names, std::vector<Text> const& texts,
                      Make const& make) {
    std::size_t const n = texts.size();
    if (n == 0 || stretches % n != 0 || names.size() != n)
      throw invalid_argument("a mixture is of 1, 2, 4, 8 or 16 texts, each with a name");
    std::size_t const each = stretches / n;
    std::size_t shortest = texts[0].size();
    for (Text const& t : texts) shortest = std::min(shortest, t.size());
    Tokens all;
    for (Text const& t : texts)
      for (std::size_t i = 0; i < each; ++i) {
        auto const* const from = t.data() + t.size() / each * i;
        all.insert(all.end(), from, from + shortest / each);
      }
    corpus mixed = make(std::move(all));
    mixed.domains_ = std::move(names);
    return mixed;
  }

  int domain_of(std::int64_t stretch) const {
    return static_cast<int>(stretch * static_cast<std::int64_t>(domains_.size()) / stretches);
  }
  std::int64_t cut(std::int64_t stretch) const { return size() * stretch / stretches; }
  std::int64_t held(std::int64_t stretch) const {  // where a stretch's validation part begins
    return cut(stretch + 1) - size() / (stretches * stretches);
  }
  /// Places where a window and the token after it may start, in every stretch.
  std::int64_t longest(std::int64_t length, bool training) const {
    if (length < 1)
      throw invalid_argument("a window is of at least one %s, not of %lld", unit(),
                             detail::shown(length));
    std::int64_t const kept = size() / (stretches * stretches);
    std::int64_t const part = training ? size() / stretches - kept : kept;
    if (part <= length)
      throw invalid_argument(
          "a text of %lld %ss is too short for windows of %lld and the %s after: of each of its "
          "%lld stretches %lld are for %s",
          detail::shown(size()), unit(), detail::shown(length), unit(), detail::shown(stretches),
          detail::shown(part), training ? "training" : "validation");
    return part - length;
  }
  static std::int64_t uniform(std::uint64_t seed, std::uint64_t n, std::int64_t below) {
    return static_cast<std::int64_t>(random_uniform(seed, n) * static_cast<double>(below));
  }
  template <class Begin>
  void fill(windows& to, std::int64_t count, std::int64_t length, Begin begin) const {
    to.x.resize(static_cast<std::size_t>(count * length));
    to.y.resize(to.x.size());
    to.starts.resize(static_cast<std::size_t>(count) + 1);
    to.domains.clear();
    for (std::int64_t i = 0, at = 0; i < count; ++i) {
      to.starts[static_cast<std::size_t>(i)] = at;
      for (std::int64_t from = begin(i), end = from + length; from < end; ++from, ++at) {
        to.x[static_cast<std::size_t>(at)] = token(from);
        to.y[static_cast<std::size_t>(at)] = token(from + 1);
      }
    }
    to.starts.back() = count * length;
  }
  std::int32_t token(std::int64_t at) const {
    auto const i = static_cast<std::size_t>(at);
    return ids_.empty() ? static_cast<unsigned char>(text_[i]) : ids_[i];
  }

  std::string text_;               // bytes,
  std::vector<std::int32_t> ids_;  // or other tokens
  int vocabulary_ = 256;
  std::vector<std::string> files_, domains_;
};

/// Bits per byte when the byte before is known (order 1): what a table of pairs allows.
inline double order1_entropy(std::string_view text) {
  if (text.size() < 2) return 0;
  std::vector<double> pairs(256 * 256), before(256);
  for (std::size_t i = 1; i < text.size(); ++i) {
    std::size_t const a = static_cast<unsigned char>(text[i - 1]);
    pairs[a * 256 + static_cast<unsigned char>(text[i])] += 1;
    before[a] += 1;
  }
  double bits = 0;
  for (std::size_t i = 0; i < pairs.size(); ++i)
    if (pairs[i] > 0) bits -= pairs[i] * std::log2(pairs[i] / before[i / 256]);
  return bits / static_cast<double>(text.size() - 1);
}

/// Bits per byte that a compressor of this machine ("gzip", "bzip2", "xz") needs for the corpus's
/// files at its best setting; nothing where the corpus has no files or the machine not the program.
inline std::optional<double> compressed_bits(corpus const& text, std::string const& compressor) {
  if (text.files().empty() || text.size() == 0) return std::nullopt;
  std::string command = "command -v " + compressor + " >/dev/null && {";
  for (std::string const& path : text.files()) {
    command += " cat <'";  // whatever its name begins with, it is no option
    for (char c : path) command += c == '\'' ? "'\\''" : std::string(1, c);
    command += "';";
  }
  command += " } | " + compressor + " -9 -c | wc -c";
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen(command.c_str(), "r"), &::pclose);
  long long bytes = 0;
  if (!pipe || std::fscanf(pipe.get(), "%lld", &bytes) != 1 || bytes <= 0) return std::nullopt;
  return 8.0 * static_cast<double>(bytes) / static_cast<double>(text.size());
}

}  // namespace finegrain::inline FINEGRAIN_ABI
