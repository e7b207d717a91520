// The record of runs on GPUs: a table in Markdown, a row for each path of the code.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdio>
#include <ctime>
#include <finegrain/io/atomic_file.hpp>
#include <fstream>
#include <string>
#include <vector>

#include "device.hpp"

namespace bench {

/// Rows of docs/hardware.md, each rewritten by whoever ran that path: `bench_cuda --record FILE`.
class hardware_record {
 public:
  explicit hardware_record(std::string path) : path_(std::move(path)) {
    std::ifstream file(path_);
    for (std::string line; std::getline(file, line);) lines_.push_back(line);
    if (lines_.empty()) start();
  }

  void set(std::string const& path, gpu::facts const& on, std::string commit,
           std::string const& result) {
    char date[16] = "";
    std::time_t const now = std::time(nullptr);
    std::strftime(date, sizeof date, "%Y-%m-%d", std::gmtime(&now));
    if (commit.empty()) commit = this_commit();
    std::string const row = "| " + path + " | " + on.name + " | " + on.driver + ", CUDA " +
                            on.runtime + " | " + date + " | " + commit + " | " + result + " |";
    for (std::string& line : lines_)
      if (line.rfind("| " + path + " |", 0) == 0) {
        line = row;
        return;
      }
    lines_.push_back(row);
  }
  void save() const {
    std::string text;
    for (auto const& line : lines_) text += line + "\n";
    fg::atomic_file file(path_);
    file.write(text.data(), text.size());
    file.commit();
  }

 private:
  void start() {
    lines_ = {"# What has run on hardware",
              "",
              "Continuous integration has no GPU: there, device code is compiled only. Each row is "
              "written by",
              "`bench_cuda --record docs/hardware.md`, or `--path PATH --result TEXT` after tests "
              "of a path.",
              "",
              "| path | GPU | driver | date | commit | result |",
              "|---|---|---|---|---|---|"};
    for (char const* path : {"portable", "hopper", "decode", "attention", "training"})
      lines_.push_back("| " + std::string(path) + " | | | | | not yet run on hardware |");
  }
  /// Of the repository that the program is called in.
  static std::string this_commit() {
    char text[64] = "";
    if (std::FILE* const git = ::popen("git rev-parse --short HEAD 2>/dev/null", "r")) {
      if (!std::fgets(text, sizeof text, git)) text[0] = 0;
      ::pclose(git);
    }
    std::string const commit(text);
    return commit.empty() ? "unknown" : commit.substr(0, commit.find('\n'));
  }

  std::string path_;
  std::vector<std::string> lines_;
};

}  // namespace bench
