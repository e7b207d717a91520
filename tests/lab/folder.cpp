// Folders are made, and cleared of unfinished files.
// SPDX-License-Identifier: Apache-2.0
#include "../folder.hpp"

#include <finegrain/lab/folder.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

TEST_CASE("A folder is made with those above it, and may be there already") {
  folder const dir;
  fg::make_folder(dir / "a/b/c");
  fg::make_folder(dir / "a/b/c");
  put(dir / "a/b/c/file", "x");
  CHECK(contents(dir / "a/b/c/file") == "x");
  CHECK_THROWS_AS(fg::make_folder(dir / "a/b/c/file/d"), fg::file_error);
}

TEST_CASE("Unfinished files are removed, and no others") {
  folder const dir;
  put(dir / "whole", "x");
  put(dir / "file.partial-12", "x");
  fg::remove_unfinished(dir.path);
  CHECK(contents(dir / "whole") == "x");
  CHECK(!std::filesystem::exists(dir / "file.partial-12"));
  fg::remove_unfinished(dir / "missing");
}
