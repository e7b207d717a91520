// Files of tensors: written and read back, cut short, lied about, missing.
// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <finegrain/io/safetensors.hpp>

#include "../catch.hpp"
#include "../folder.hpp"

namespace fg = finegrain;

namespace {

/// A file of three tensors and some metadata.
struct sample {
  std::vector<float> matrix = {1.5f, -0.0f, 1e-45f, 3.4e38f, __builtin_nanf("0x123"), 6};
  std::vector<double> row = {0.1, -1e308};
  std::int64_t count = -7;

  std::vector<fg::tensor_view> tensors() {
    return {{"layers.0.gate", fg::dtype::f32, {2, 3}, matrix.data()},
            {"a \"name\"\n\\", fg::dtype::f64, {2}, row.data()},
            {"count", fg::dtype::i64, {}, &count},
            {"empty", fg::dtype::f32, {0, 5}, nullptr}};
  }
  void write(std::string const& path) {
    std::pair<std::string, std::string> const about[] = {{"text", "a\tb\x01 \xc3\xa9"}, {"", ""}};
    fg::write_safetensors(path, tensors(), about);
  }
};

}  // namespace

TEST_CASE("what is written is read back to the bit") {
  folder const here;
  sample given;
  given.write(here / "f");
  fg::safetensors_file const file(here / "f");
  REQUIRE(file.tensors().size() == 4);
  for (auto const& tensor : given.tensors()) {
    auto const* const entry = file.find(tensor.name);
    REQUIRE(entry);
    CHECK(entry->type == tensor.type);
    CHECK(entry->shape == tensor.shape);
    auto const bytes = static_cast<std::size_t>(entry->end - entry->begin);
    std::string read(bytes, '?');
    file.read(*entry, read.data());
    CHECK(read == std::string(static_cast<char const*>(tensor.data), bytes));
  }
  CHECK(file.find("absent") == nullptr);
  REQUIRE(file.metadata("text"));
  CHECK(*file.metadata("text") == "a\tb\x01 \xc3\xa9");
  CHECK(file.metadata("absent") == nullptr);
  // the data starts on a border of 8 bytes, so that doubles can be mapped
  std::string const bytes = contents(here / "f");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  CHECK(length % 8 == 0);
}

TEST_CASE("writing twice gives the same bytes") {
  folder const here;
  sample().write(here / "f");
  sample().write(here / "g");
  CHECK(contents(here / "f") == contents(here / "g"));
}

TEST_CASE("a file cut short anywhere is refused, and so is one with a byte more") {
  folder const here;
  sample().write(here / "f");
  std::string const whole = contents(here / "f");
  REQUIRE(whole.size() > 100);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    put(here / "cut", whole.substr(0, size));
    CAPTURE(size);
    CHECK_THROWS_AS(fg::safetensors_file(here / "cut"), fg::file_error);
  }
  put(here / "cut", whole + "x");
  CHECK_THROWS_WITH(fg::safetensors_file(here / "cut"), ContainsSubstring("no tensor owns"));
}

TEST_CASE("a header's length that lies is refused before anything of that size is allocated") {
  folder const here;
  auto const file = [&](std::uint64_t length) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &length, 8);
    put(here / "f", bytes + "{}");
    return fg::safetensors_file(here / "f");
  };
  CHECK_NOTHROW(file(2));
  CHECK_THROWS_WITH(file(3),
                    ContainsSubstring("cut short") && ContainsSubstring("10 bytes, its header 3"));
  CHECK_THROWS_WITH(file(1), ContainsSubstring("at byte 9"));
  CHECK_THROWS_WITH(file(0), ContainsSubstring("does not begin with {"));
  CHECK_THROWS_WITH(file(100'000'000), ContainsSubstring("cut short"));
  CHECK_THROWS_WITH(file(100'000'001), ContainsSubstring("no safetensors file"));
  CHECK_THROWS_WITH(file(~std::uint64_t(0)), ContainsSubstring("a header of 18446744073709551615"));
}

TEST_CASE("a path that is no file gives the system's reason") {
  folder const here;
  CHECK_THROWS_WITH(fg::safetensors_file(here / "absent"),
                    ContainsSubstring("cannot open") && ContainsSubstring("No such file"));
  CHECK_THROWS_WITH(fg::safetensors_file(here.path), ContainsSubstring("not a file"));
}

TEST_CASE("a file that shrinks while it is read gives an error") {
  folder const here;
  sample().write(here / "f");
  fg::safetensors_file const file(here / "f");
  auto const* const entry = file.find("layers.0.gate");
  REQUIRE(entry);
  std::filesystem::resize_file(here / "f", 8);
  char numbers[24];
  CHECK_THROWS_WITH(file.read(*entry, numbers), ContainsSubstring("become shorter"));
}

TEST_CASE("tensors that could not be read again are not written") {
  folder const here;
  float number = 1;
  fg::tensor_view const twice[] = {{"a", fg::dtype::f32, {1}, &number},
                                   {"a", fg::dtype::f32, {1}, &number}};
  CHECK_THROWS_WITH(fg::write_safetensors(here / "f", twice), ContainsSubstring("occurs twice"));
  fg::tensor_view const bytes[] = {{"\xff", fg::dtype::f32, {1}, &number}};
  CHECK_THROWS_WITH(fg::write_safetensors(here / "f", bytes), ContainsSubstring("not UTF-8"));
  std::pair<std::string, std::string> const about[] = {{"note", std::string(100'000'000, ' ')}};
  CHECK_THROWS_WITH(fg::write_safetensors(here / "f", {}, about),
                    ContainsSubstring("too long to be read again"));
  CHECK(here.files() == 0);
}
