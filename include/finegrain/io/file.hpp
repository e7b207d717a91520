// file: files and folders of the system, read and written whole, with errors that name them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "../base/error.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

inline bool exists(std::string const& path) { return ::access(path.c_str(), F_OK) == 0; }
inline bool is_folder(std::string const& path) {
  struct stat about;
  return ::stat(path.c_str(), &about) == 0 && S_ISDIR(about.st_mode);
}

}  // namespace detail

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

/// The bytes of an open file. Throws file_error where it is a folder, a device or the like.
FINEGRAIN_LAZY inline std::int64_t size_of_file(int file, std::string const& path) {
  struct stat status;
  if (::fstat(file, &status) != 0) throw_file_error("cannot read", path, errno);
  if (!S_ISREG(status.st_mode)) throw file_error("not a file: %.300s", path.c_str());
  return status.st_size;
}

/// A file that is open to be read.
class input_file : public file_descriptor {
 public:
  /// Throws file_error if it cannot be opened, or is a folder, a device or the like.
  FINEGRAIN_LAZY explicit input_file(std::string const& path)
      : file_descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (*this < 0) throw_file_error("cannot open", path, errno);
    size_ = size_of_file(*this, path);
  }
  /// Its bytes when it was opened.
  std::int64_t size() const { return size_; }

 private:
  std::int64_t size_ = 0;
};

/// What is from where an open file stands to its end. Throws file_error, in which it is named `path`.
FINEGRAIN_LAZY inline std::string read_all(int file, std::string const& path) {
  std::string text;
  char part[1 << 16];
  for (ssize_t got; (got = ::read(file, part, sizeof part)) != 0;) {
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_file_error("cannot read", path, errno);
    text.append(part, static_cast<std::size_t>(got));
  }
  return text;
}
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

namespace detail {

/// All of a file that is no longer than texts of its kind are.
FINEGRAIN_LAZY inline std::string text_of(std::string const& path, int megabytes) {
  input_file const file(path);
  if (file.size() > megabytes * std::int64_t{1'000'000})
    throw file_error("a text of over %d MB: %.300s", megabytes, path.c_str());
  return read_all(file, path);
}
/// Whether there is a file with another text.
FINEGRAIN_LAZY inline bool has_other_text(std::string const& path, std::string_view text) {
  if (!exists(path)) return false;
  input_file const file(path);
  return file.size() != std::ssize(text) || read_all(file, path) != text;
}

/// A folder in a place where nothing was, removed again at the end where nothing is in it.
class new_folder {
 public:
  FINEGRAIN_LAZY explicit new_folder(std::string path)
      : path_(std::move(path)), made_(::mkdir(path_.c_str(), 0777) == 0) {
    if (!made_ && errno != EEXIST) throw_file_error("cannot make the folder", path_, errno);
  }
  new_folder(new_folder const&) = delete;
  new_folder& operator=(new_folder const&) = delete;
  ~new_folder() {
    if (made_) ::rmdir(path_.c_str());
  }

 private:
  std::string path_;
  bool made_;
};

}  // namespace detail

}  // namespace finegrain::inline FINEGRAIN_ABI
