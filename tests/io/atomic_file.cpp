// A file is there completely or not at all: after kills, full disks and exceptions.
// SPDX-License-Identifier: Apache-2.0
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <finegrain/io/atomic_file.hpp>
#include <finegrain/plan/init.hpp>

#include "../catch.hpp"
#include "../folder.hpp"

namespace fg = finegrain;

namespace {

/// Writes 16 kB of one letter, in pieces.
void save(std::string const& path, char letter) {
  std::string const piece(512, letter);
  fg::atomic_file file(path);
  for (int i = 0; i < 32; ++i) file.write(piece.data(), piece.size());
  file.commit();
}

/// Runs f in a process of its own; whether it returned true.
template <class F>
bool in_child(F&& f) {
  pid_t const child = ::fork();
  if (child == 0) {
    bool good = false;
    try {
      good = f();
    } catch (...) {
    }
    ::_exit(good ? 0 : 1);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace

TEST_CASE("a committed file holds what was written, and no other file is left") {
  folder const here;
  save(here / "f", 'a');
  CHECK(contents(here / "f") == std::string(16384, 'a'));
  save(here / "f", 'b');
  CHECK(contents(here / "f") == std::string(16384, 'b'));
  CHECK(here.files() == 1);
}

TEST_CASE("a file has the mode of the one that it replaces, and no other while it is written") {
  folder const here;
  auto const mode = [](std::string const& path) {
    struct stat status;
    REQUIRE(::stat(path.c_str(), &status) == 0);
    return status.st_mode & 07777;
  };
  struct masked {  // until the end, whatever is thrown
    mode_t before = ::umask(027);
    ~masked() { ::umask(before); }
  } const mask;
  save(here / "f", 'a');
  CHECK(mode(here / "f") == 0640);
  for (mode_t const old : {0600, 0666, 0444}) {
    CAPTURE(old);
    for (bool const removed : {false, true}) {
      REQUIRE(::chmod((here / "f").c_str(), old) == 0);
      fg::atomic_file file(here / "f");
      for (auto const& entry : std::filesystem::directory_iterator(here.path))
        CHECK((mode(entry.path()) & ~old) == 0);
      if (removed) file.remove_old();
      file.commit();
      CHECK(mode(here / "f") == old);
    }
  }
}

TEST_CASE("without a commit the old file stays, and no other file is left") {
  folder const here;
  put(here / "f", "old");
  {
    fg::atomic_file file(here / "f");
    file.write("new", 3);
    CHECK(here.files() == 2);
    errno = EDOM;
  }
  CHECK(errno == EDOM);  // cleaning up hides no reason
  CHECK(contents(here / "f") == "old");
  CHECK(here.files() == 1);
}

TEST_CASE("a process killed at any time leaves the old file or the new one, never a torn one") {
  folder const here;
  std::string const path = here / "f";
  for (std::uint64_t round = 0; round < 400; ++round) {
    int saved[2];
    REQUIRE(::pipe(saved) == 0);
    pid_t const child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      save(path, 'a');
      if (::write(saved[1], "!", 1) != 1) ::_exit(1);
      for (char letter = 'b';; letter = letter == 'z' ? 'a' : static_cast<char>(letter + 1))
        save(path, letter);
    }
    char mark = 0;
    REQUIRE(::read(saved[0], &mark, 1) == 1);
    ::close(saved[0]);
    ::close(saved[1]);
    ::usleep(static_cast<useconds_t>(fg::random_word(3, round) % 1000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    REQUIRE((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
    std::string const now = contents(path);
    REQUIRE(now.size() == 16384);
    REQUIRE(now == std::string(16384, now[0]));
  }
  CHECK(here.files() > 20);  // unfinished ones: the kills struck while a file was being written
  CHECK_NOTHROW(save(path, 'a'));  // and they disturb nobody
}

TEST_CASE("when the disk is full at any byte, the old file stays and no other is left") {
  folder const here;
  std::string const path = here / "f";
  put(path, "old");
  CHECK(in_child([&] {
    ::signal(SIGXFSZ, SIG_IGN);
    for (rlim_t most = 0; most < 16384; most += 389) {
      rlimit const limit{most, 16384};
      if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
      try {
        save(path, 'n');
        return false;
      } catch (fg::file_error const& e) {
        if (std::string(e.what()).find("File too large") == std::string::npos) return false;
      }
      if (contents(path) != "old" || here.files() != 1) return false;
    }
    return true;
  }));
  CHECK(contents(path) == "old");
}

TEST_CASE("where a folder cannot be opened to be synced, the old file stays and no other is left") {
  folder const here;
  std::string const path = here / "f";
  put(path, "old");
  CHECK(in_child([&] {
    fg::atomic_file file(path);
    file.write("new", 3);
    fg::file_error const known("a type that UBSan knows needs no files to be looked at again");
    rlimit before;
    ::getrlimit(RLIMIT_NOFILE, &before);
    rlimit const none{0, before.rlim_max};  // no more files than are open
    if (::setrlimit(RLIMIT_NOFILE, &none) != 0) return false;
    try {
      file.commit();
      return false;
    } catch (fg::file_error const& e) {
      ::setrlimit(RLIMIT_NOFILE, &before);
      std::string const said = e.what();
      return said.find("the folder of") != said.npos && contents(path) == "old";
    }
  }));
  CHECK(contents(path) == "old");
  CHECK(here.files() == 1);
}

TEST_CASE("where no file can be, its name is said, with the system's reason") {
  folder const here;
  CHECK_THROWS_WITH(
      fg::atomic_file(here / "absent/f"),
      ContainsSubstring("cannot create a new file beside " + here / "absent/f: No such"));
}

TEST_CASE("what is no file is not replaced, in the file's place or where a link points") {
  folder const here;
  std::filesystem::create_directory(here / "folder");
  REQUIRE(::mkfifo((here / "pipe").c_str(), 0600) == 0);
  std::filesystem::create_symlink("pipe", here / "link");
  for (char const* name : {"folder", "pipe", "link"})
    CHECK_THROWS_WITH(save(here / name, 'a'), ContainsSubstring("not a file: " + here.path));
  CHECK(std::filesystem::is_directory(here / "folder"));
  CHECK(std::filesystem::is_fifo(here / "pipe"));
  CHECK(std::filesystem::is_symlink(here / "link"));
  CHECK(here.files() == 3);
}

TEST_CASE("a folder that comes into the file's place meanwhile is not replaced") {
  folder const here;
  fg::atomic_file file(here / "f");
  std::filesystem::create_directory(here / "f");
  CHECK_THROWS_WITH(file.commit(), ContainsSubstring("cannot replace"));
  CHECK(std::filesystem::is_directory(here / "f"));
}

TEST_CASE("an old file can be removed before the new one is in its place, at a link's end too") {
  folder const here;
  put(here / "target", "old");
  std::filesystem::create_symlink("target", here / "f");
  fg::atomic_file file(here / "f");
  file.write("new", 3);
  file.remove_old();
  CHECK_FALSE(std::filesystem::exists(here / "f"));
  CHECK(std::filesystem::is_symlink(here / "f"));
  file.remove_old();  // none is there
  file.commit();
  CHECK(contents(here / "f") == "new");
  CHECK(std::filesystem::is_symlink(here / "f"));
  CHECK(here.files() == 2);
}

TEST_CASE("a symbolic link stays, and what it points to is the new file") {
  folder const here;
  std::filesystem::create_directory(here / "disk");
  put(here / "disk/target", "old");
  std::filesystem::create_symlink(here / "disk/target", here / "f");  // from /
  std::filesystem::create_symlink("f", here / "f2");                  // from where it stands
  save(here / "f2", 'a');
  CHECK(contents(here / "disk/target") == std::string(16384, 'a'));
  {
    fg::atomic_file file(here / "f");
    CHECK(here.files() == 3);  // it is written beside the target: a name cannot move between disks
  }
  std::filesystem::create_symlink("disk/new", here / "f3");
  save(here / "f3", 'b');
  CHECK(contents(here / "disk/new") == std::string(16384, 'b'));
  for (char const* name : {"f", "f2", "f3"}) CHECK(std::filesystem::is_symlink(here / name));

  std::filesystem::create_symlink("round", here / "round");
  CHECK_THROWS_WITH(save(here / "round", 'a'), ContainsSubstring("cannot follow"));
}
