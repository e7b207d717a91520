// One table, as Markdown, HTML, LaTeX, CSV, or columns for a terminal.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../base/error.hpp"
#include "text.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Cells of text (UTF-8). The first column stands left, the others right. A caption, which says what the
/// columns are, stands below in Markdown and HTML; the other forms are of cells alone.
class table {
 public:
  explicit table(std::vector<std::string> header, std::string caption = {})
      : rows_{std::move(header)}, caption_(std::move(caption)) {}

  void add(std::vector<std::string> row) {
    if (row.size() != rows_[0].size())
      throw invalid_argument("a row of %zu cells in a table of %zu columns", row.size(),
                             rows_[0].size());
    rows_.push_back(std::move(row));
  }

  std::string markdown() const {
    std::string const cells = lines("| ", " | ", " |", [](std::string_view cell) {
      return replaced(cell, {{"\\", "\\\\"}, {"|", "\\|"}, {"<", "\\<"}, {"\n", " "}, {"\r", " "}});
    });
    return caption_.empty() ? cells : cells + "\n" + caption_ + "\n";
  }
  /// Aligned columns, for a terminal.
  std::string plain() const {
    return lines("", "  ", "", [](std::string_view cell) { return std::string(cell); });
  }
  /// A tabular in the style of the booktabs package.
  std::string latex() const {
    std::string out =
        "\\begin{tabular}{l" + std::string(rows_[0].size() - 1, 'r') + "}\n\\toprule\n";
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      for (std::size_t c = 0; c < rows_[r].size(); ++c)
        out += (c > 0 ? " & " : "") + latex_cell(rows_[r][c]);
      out += r == 0 ? " \\\\\n\\midrule\n" : " \\\\\n";
    }
    return out + "\\bottomrule\n\\end{tabular}\n";
  }
  /// A table element.
  std::string html() const {
    std::string out = "<table>\n";
    if (!caption_.empty()) out += "<caption>" + text::escaped(caption_) + "</caption>\n";
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      out += r == 0 ? "<thead>\n<tr>" : "<tr>";
      for (std::string const& cell : rows_[r])
        out += (r == 0 ? "<th>" : "<td>") + text::escaped(cell) + (r == 0 ? "</th>" : "</td>");
      out += r == 0 ? "</tr>\n</thead>\n<tbody>\n" : "</tr>\n";
    }
    return out + "</tbody>\n</table>\n";
  }
  /// As RFC 4180 says, with line feeds.
  std::string csv() const {
    std::string out;
    for (auto const& row : rows_) {
      for (std::size_t c = 0; c < row.size(); ++c) {
        bool const quoted = row[c].find_first_of(",\"\n\r") != row[c].npos;
        out += c > 0 ? "," : "";
        out += quoted ? '"' + replaced(row[c], {{"\"", "\"\""}}) + '"' : row[c];
      }
      out += '\n';
    }
    return out;
  }

 private:
  struct change {
    std::string_view from, to;
  };
  static std::string replaced(std::string_view text, std::vector<change> const& changes) {
    std::string out;
    for (std::size_t i = 0; i < text.size();) {
      auto const hit = std::find_if(changes.begin(), changes.end(), [&](change const& c) {
        return text.substr(i).starts_with(c.from);
      });
      out += hit == changes.end() ? text.substr(i, 1) : hit->to;
      i += hit == changes.end() ? 1 : hit->from.size();
    }
    return out;
  }
  static std::string latex_cell(std::string_view cell) {
    return replaced(cell, {{"\\", "\\textbackslash{}"},
                           {"&", "\\&"},
                           {"%", "\\%"},
                           {"$", "\\$"},
                           {"#", "\\#"},
                           {"_", "\\_"},
                           {"{", "\\{"},
                           {"}", "\\}"},
                           {"~", "\\textasciitilde{}"},
                           {"^", "\\textasciicircum{}"},
                           {"±", "$\\pm$"},
                           {"×", "$\\times$"},
                           {"−", "$-$"},
                           {"α", "$\\alpha$"}});
  }
  template <class Cell>
  std::string lines(std::string const& open, std::string const& between, std::string const& close,
                    Cell cell) const {
    std::vector<std::size_t> widths(rows_[0].size(), 3);
    for (auto const& row : rows_)
      for (std::size_t c = 0; c < row.size(); ++c)
        widths[c] = std::max(widths[c], text::width(cell(row[c])));
    std::string out;
    for (std::size_t r = 0; r < rows_.size(); ++r) {
      std::string line = open;
      for (std::size_t c = 0; c < rows_[r].size(); ++c) {
        std::string const words = cell(rows_[r][c]);
        std::string const space(widths[c] - text::width(words), ' ');
        line += (c > 0 ? between : "") + (c == 0 ? words + space : space + words);
      }
      line += close;
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + '\n';
      if (r == 0) out += rule(open, between, close, widths);
    }
    return out;
  }
  static std::string rule(std::string const& open, std::string const& between,
                          std::string const& close, std::vector<std::size_t> const& widths) {
    std::string line = open;
    for (std::size_t c = 0; c < widths.size(); ++c) {
      line += c > 0 ? between : "";
      line += c > 0 && !open.empty() ? std::string(widths[c] - 1, '-') + ':'
                                     : std::string(widths[c], '-');
    }
    return line + close + '\n';
  }

  std::vector<std::vector<std::string>> rows_;
  std::string caption_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
