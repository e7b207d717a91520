// page: a report that is written once and read as Markdown and as one self-contained HTML file.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "../io/atomic_file.hpp"
#include "folder.hpp"
#include "svg.hpp"
#include "table.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// A heading, then paragraphs, tables and pictures in the order that they are added. write() makes
/// README.md, index.html with the pictures inside, and a file for each table and picture.
class page {
 public:
  explicit page(std::string title) : title_(std::move(title)) {}

  void heading(std::string words) { parts_.push_back({kind::heading, std::move(words), {}, {}}); }
  void text(std::string words) { parts_.push_back({kind::text, std::move(words), {}, {}}); }
  /// Also as name.csv.
  void add(table t, std::string name) {
    parts_.push_back({kind::table, {}, std::move(name), {}, std::move(t)});
  }
  /// Also as name.svg.
  void picture(std::string svg, std::string name, std::string caption) {
    parts_.push_back({kind::picture, std::move(caption), std::move(name), std::move(svg)});
  }

  /// Another page's parts, without its title.
  void add(page other) {
    for (part& p : other.parts_) parts_.push_back(std::move(p));
  }

  std::string markdown() const {
    std::string out = "# " + title_ + "\n";
    for (part const& p : parts_) {
      out += "\n";
      if (p.what == kind::heading) out += "## " + p.words + "\n";
      if (p.what == kind::text) out += p.words + "\n";
      if (p.what == kind::table) out += p.cells.markdown();
      if (p.what == kind::picture) out += "![" + p.words + "](" + place(p.name + ".svg") + ")\n";
    }
    return out;
  }
  std::string html() const {
    std::string out =
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>" +
        text::escaped(title_) + "</title>\n<style>\n" + style +
        "</style>\n</head>\n<body>\n<main>\n<h1>" + text::escaped(title_) + "</h1>\n";
    for (part const& p : parts_) {
      if (p.what == kind::heading) out += "<h2>" + text::escaped(p.words) + "</h2>\n";
      if (p.what == kind::text) out += "<p>" + text::escaped(p.words) + "</p>\n";
      if (p.what == kind::table) out += "<div class=\"wide\">\n" + p.cells.html() + "</div>\n";
      if (p.what == kind::picture)
        out += "<figure>\n" + p.svg + "<figcaption>" + text::escaped(p.words) +
               "</figcaption>\n</figure>\n";
    }
    return out + "</main>\n</body>\n</html>\n";
  }

  /// Into a folder, which is made if there is none. Throws file_error.
  void write(std::string const& folder) const {
    make_folder(folder);
    write_atomically(folder + "/README.md", markdown());
    write_atomically(folder + "/index.html", html());
    for (part const& p : parts_) {
      if (p.what == kind::table) write_atomically(folder + "/" + p.name + ".csv", p.cells.csv());
      if (p.what == kind::picture) write_atomically(folder + "/" + p.name + ".svg", p.svg);
    }
  }

 private:
  /// As Markdown points to a file: one whose name has a space stands in brackets.
  static std::string place(std::string const& file) {
    return file.find_first_of(" ()") == file.npos ? file : "<" + file + ">";
  }
  enum class kind { heading, text, table, picture };
  struct part {
    kind what;
    std::string words, name, svg;
    table cells = table({""});
  };

  static constexpr char const* style =
      "body { margin: 0; background: #f6f7f9; color: #1d2126;\n"
      "  font: 16px/1.55 system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }\n"
      "main { max-width: 860px; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; background: #fff; }\n"
      "h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }\n"
      "h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .8rem;\n"
      "  border-top: 1px solid #e3e6ea; }\n"
      ".wide { overflow-x: auto; margin: 1rem 0; }\n"
      "table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; "
      "}\n"
      "th, td { padding: .32rem .7rem; text-align: right; border-bottom: 1px solid #e3e6ea;\n"
      "  vertical-align: top; }\n"
      "th { border-bottom: 2px solid #1d2126; font-weight: 600; }\n"
      "th:first-child, td:first-child { text-align: left; }\n"
      "tbody tr:hover { background: #f2f6fa; }\n"
      "figure { margin: 1.4rem 0; } figure svg { width: 100%; height: auto; }\n"
      "caption { caption-side: bottom; text-align: left; padding-top: .5rem; }\n"
      "caption, figcaption { font-size: .86rem; color: #5a6572; }\n";

  std::string title_;
  std::vector<part> parts_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
