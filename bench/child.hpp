// A program that is asked for lines and answers each with one, over two pipes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace bench {

class child {
 public:
  /// Starts words[0] with the others as its arguments.
  explicit child(std::vector<std::string> const& words) {
    int down[2], up[2];
    if (::pipe(down) != 0 || ::pipe(up) != 0) throw std::runtime_error("there are no pipes");
    process_ = ::fork();
    if (process_ < 0) throw std::runtime_error("cannot start " + words[0]);
    if (process_ == 0) {
      ::dup2(down[0], 0);
      ::dup2(up[1], 1);
      for (int end : {down[0], down[1], up[0], up[1]}) ::close(end);
      std::vector<char*> arguments;
      for (auto const& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
      arguments.push_back(nullptr);
      ::execvp(arguments[0], arguments.data());
      ::_exit(127);
    }
    ::close(down[0]);
    ::close(up[1]);
    std::signal(SIGPIPE, SIG_IGN);
    to_ = ::fdopen(down[1], "w");
    from_ = ::fdopen(up[0], "r");
  }
  ~child() {
    std::fclose(to_);
    std::fclose(from_);
    ::waitpid(process_, nullptr, 0);
  }
  child(child const&) = delete;
  child& operator=(child const&) = delete;

  /// Its next line; nothing once it has ended.
  std::optional<std::string> line() {
    std::string text;
    for (int c; (c = std::fgetc(from_)) != EOF;) {
      if (c == '\n') return text;
      text += static_cast<char>(c);
    }
    return std::nullopt;
  }
  std::optional<std::string> ask(std::string const& question) {
    std::fprintf(to_, "%s\n", question.c_str());
    std::fflush(to_);
    return line();
  }

 private:
  pid_t process_;
  std::FILE *to_, *from_;
};

}  // namespace bench
