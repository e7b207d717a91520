// atomic_file: a file that is there completely or not at all.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <climits>
#include <cstdio>
#include <optional>
#include <string_view>
#include <utility>

#include "file.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Writes a new file beside `path` and puts it in path's place when it is complete and on the disk:
/// whoever opens `path` at any time, after a crash too, finds the old file or the new one.
///
/// Without commit() the new file is removed and `path` stays as it was. A process that is killed
/// leaves its unfinished file behind, named path.partial-<process>-<number>. Where `path` is a
/// symbolic link, all this is of what it points to, and the link stays. A read-only file in a
/// directory that can be written is replaced; a folder, a device or the like is not. The new file has
/// the old one's mode.
class atomic_file {
 public:
  /// Throws file_error if no file can be created there, or something else than a file is there.
  FINEGRAIN_LAZY explicit atomic_file(std::string path)
      : path_(target_of(std::move(path))), mode_(mode_of(path_)), file_(create()) {}
  ~atomic_file() {
    int const reason = errno;
    if (!committed_) ::unlink(partial_.c_str());
    errno = reason;
  }

  /// Appends so many bytes.
  void write(void const* from, std::size_t bytes) {
    if (!write_all(file_, from, bytes)) throw_file_error("cannot write", path_, errno);
  }

  /// Removes the file that is in path's place, if there is one: until commit() there is none. Throws
  /// file_error.
  void remove_old() {
    file_descriptor const entry(open_folder());
    if (::unlink(path_.c_str()) != 0 && errno != ENOENT)
      throw_file_error("cannot remove", path_, errno);
    if (::fsync(entry) != 0)
      throw_file_error("removed, but its folder cannot be synced:", path_, errno);
  }
  std::string const& path() const { return path_; }

  /// Puts the file in its place. Throws file_error: the old one is then there as before; or, where
  /// the folder alone could not be synced, the new one, though a crash may bring the old one back.
  void commit() {
    file_descriptor const entry(open_folder());
    // The umask took some of it. Some systems let nobody change a mode: they have one for all files.
    if (mode_ && mode_of(partial_) != mode_ && ::fchmod(file_, *mode_) != 0)
      throw_file_error("cannot keep the mode of", path_, errno);
    if (::fsync(file_) != 0) throw_file_error("cannot write", path_, errno);
    if (std::rename(partial_.c_str(), path_.c_str()) != 0)
      throw_file_error("cannot replace", path_, errno);
    committed_ = true;
    if (::fsync(entry) != 0)
      throw_file_error("the new file is in its place, but its folder cannot be synced:", path_,
                       errno);
  }

 private:
  std::string folder() const {
    auto const slash = path_.rfind('/');
    return slash == path_.npos ? "." : path_.substr(0, slash + 1);
  }
  int open_folder() const {
    std::string const path = folder();
    int const entry = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (entry < 0) throw_file_error("cannot open the folder of", path_, errno);
    return entry;
  }
  /// What a path points to: a file, or a place for one.
  static std::string target_of(std::string path) {
    for (int links = 0; links < 40; ++links) {  // as many as Linux follows
      struct stat status;
      if (::lstat(path.c_str(), &status) != 0) return path;
      if (S_ISREG(status.st_mode)) return path;
      if (!S_ISLNK(status.st_mode)) throw file_error("not a file: %.300s", path.c_str());
      char to[PATH_MAX];
      ssize_t const length = ::readlink(path.c_str(), to, sizeof to);
      if (length < 0) throw_file_error("cannot follow", path, errno);
      std::string_view const target(to, static_cast<std::size_t>(length));
      path.resize(target.starts_with('/') ? 0 : path.rfind('/') + 1);  // none: npos + 1 is 0
      path += target;
    }
    throw_file_error("cannot follow", path, ELOOP);
  }
  /// Of the file that is in a place, where there is one.
  static std::optional<mode_t> mode_of(std::string const& path) {
    struct stat status;
    if (::stat(path.c_str(), &status) != 0) return std::nullopt;
    return status.st_mode & 0777;
  }
  /// A name that nobody has: what others left, or write at this moment in a process of the same
  /// number elsewhere, is not touched.
  int create() {
    for (unsigned number = 0;; ++number) {
      partial_ = path_ + ".partial-" + std::to_string(::getpid()) + "-" + std::to_string(number);
      int const file =
          ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode_.value_or(0666));
      if (file >= 0) return file;
      if (int const reason = errno; reason != EEXIST)
        throw_file_error("cannot create a new file beside", path_, reason);
    }
  }

  std::string path_, partial_;
  std::optional<mode_t> mode_;
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
