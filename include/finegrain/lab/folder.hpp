// Folders: made with those above them, and cleared of what killed processes left.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <string_view>

#include "../io/file.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Makes a folder, and those above it, where they are not there. Throws file_error.
inline void make_folder(std::string const& path) {
  for (std::size_t slash = path.find('/', 1); slash != path.npos; slash = path.find('/', slash + 1))
    ::mkdir(path.substr(0, slash).c_str(), 0755);
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST)
    throw_file_error("cannot make the folder", path, errno);
}

/// Removes what killed processes left of files that they were writing.
inline void remove_unfinished(std::string const& folder) {
  std::unique_ptr<::DIR, int (*)(::DIR*)> files(::opendir(folder.c_str()), &::closedir);
  while (::dirent const* file = files ? ::readdir(files.get()) : nullptr)
    if (std::string_view(file->d_name).find(".partial-") != std::string_view::npos)
      ::unlink((folder + "/" + file->d_name).c_str());
}

}  // namespace finegrain::inline FINEGRAIN_ABI
