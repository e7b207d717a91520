// atomic_file: a file that is there completely or not at all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>

#include "../base/error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Throws file_error: what could not be done with which file, and the system's reason.
[[noreturn]] inline void throw_file_error(char const* what, std::string const& path, int reason) {
  throw file_error("%s %.300s: %s", what, path.c_str(),
                   std::generic_category().message(reason).c_str());
}

/// An open file, closed at the end of its scope; errno stays as it was.
class file_descriptor {
 public:
  explicit file_descriptor(int number) : number_(number) {}
  file_descriptor(file_descriptor const&) = delete;
  file_descriptor& operator=(file_descriptor const&) = delete;
  ~file_descriptor() {
    int const reason = errno;
    if (number_ >= 0) ::close(number_);
    errno = reason;
  }
  operator int() const { return number_; }  // NOLINT(*-explicit*)

 private:
  int number_;
};

/// Writes so many bytes where an open file stands. False: errno says why; some may have been written.
inline bool write_all(int file, void const* from, std::size_t bytes) {
  constexpr std::size_t most = std::size_t(1) << 30;  // Linux writes no more at a time
  auto const* at = static_cast<char const*>(from);
  while (bytes > 0) {
    ssize_t const written = ::write(file, at, bytes < most ? bytes : most);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    at += written;
    bytes -= static_cast<std::size_t>(written);
  }
  return true;
}

/// Writes a new file beside `path` and puts it in path's place when it is complete and on the disk:
/// whoever opens `path` at any time, after a crash too, finds the old file or the new one.
///
/// Without commit() the new file is removed and `path` stays as it was. A process that is killed
/// leaves its unfinished file behind, named path.partial-<process>-<number>. A symbolic link at
/// `path` is replaced, not followed; so is a read-only file in a directory that can be written.
class atomic_file {
 public:
  FINEGRAIN_LAZY explicit atomic_file(std::string path) : path_(std::move(path)), file_(create()) {
    if (file_ < 0) throw_file_error("cannot create a file beside", path_, errno);
  }
  ~atomic_file() {
    int const reason = errno;
    if (!committed_) ::unlink(partial_.c_str());
    errno = reason;
  }

  /// Appends so many bytes.
  void write(void const* from, std::size_t bytes) {
    if (!write_all(file_, from, bytes)) throw_file_error("cannot write", path_, errno);
  }

  /// Puts the file in its place. Throws file_error: the old one is then there as before; or, where
  /// the folder alone could not be synced, the new one, though a crash may bring the old one back.
  void commit() {
    auto const slash = path_.rfind('/');
    std::string const folder = slash == path_.npos ? "." : path_.substr(0, slash + 1);
    file_descriptor const entry(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (entry < 0) throw_file_error("cannot open the folder of", path_, errno);
    if (::fsync(file_) != 0) throw_file_error("cannot write", path_, errno);
    if (std::rename(partial_.c_str(), path_.c_str()) != 0)
      throw_file_error("cannot replace", path_, errno);
    committed_ = true;
    if (::fsync(entry) != 0)
      throw_file_error("the new file is in its place, but its folder cannot be synced:", path_,
                       errno);
  }

 private:
  /// A name that nobody has: what others left, or write at this moment in a process of the same
  /// number elsewhere, is not touched.
  int create() {
    for (unsigned number = 0;; ++number) {
      partial_ = path_ + ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(number);
      int const file = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (file >= 0 || errno != EEXIST) return file;
    }
  }

  std::string path_, partial_;
  file_descriptor file_;
  bool committed_ = false;
};

/// A whole file of this content.
inline void write_atomically(std::string const& path, std::string_view content) {
  atomic_file file(path);
  file.write(content.data(), content.size());
  file.commit();
}

}  // namespace finegrain::inline FINEGRAIN_ABI
