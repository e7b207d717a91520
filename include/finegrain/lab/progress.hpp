// What a long run tells while it works: one line that renews itself on a terminal, and plain lines.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <string>

#include "../base/platform.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Seconds that pass, from construction or restart.
class timer {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  void restart() { start_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// How long work takes on, at the pace so far.
class time_left {
 public:
  void expect(double work) { left_ += work; }
  void skip(double work) { left_ -= work; }  // somebody did it before
  void done(double work) { left_ -= work, done_ += work; }
  double seconds() const { return left_ / done_ * since_.seconds(); }

 private:
  double left_ = 0, done_ = 0;
  timer since_;
};

/// show() renews one line in place, ten times a second at most, and writes nothing where the
/// stream is no terminal. say() writes a line that stays, anywhere.
class progress {
 public:
  explicit progress(std::FILE* stream = stderr)
      : stream_(stream), terminal_(stream && ::isatty(::fileno(stream)) == 1) {}
  ~progress() { clear(); }
  progress(progress const&) = delete;
  progress& operator=(progress const&) = delete;

  void show(std::string const& line) {
    if (!terminal_ || (shown_ && since_.seconds() < 0.1)) return;
    std::fprintf(stream_, "\r%s\033[K", line.c_str());
    std::fflush(stream_);
    shown_ = true;
    since_.restart();
  }
  void say(std::string const& line) {
    if (!stream_) return;
    clear();
    std::fprintf(stream_, "%s\n", line.c_str());
    std::fflush(stream_);
  }

 private:
  void clear() {
    if (shown_) std::fputs("\r\033[K", stream_);
    shown_ = false;
  }

  std::FILE* stream_;
  bool terminal_, shown_ = false;
  timer since_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
