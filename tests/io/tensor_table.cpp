// The header of a safetensors file: what is read, what is refused and where.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/io/tensor_table.hpp>
#include <finegrain/plan/init.hpp>

#include "../catch.hpp"

namespace fg = finegrain;

namespace {

/// What reading a header throws, or "" when it is accepted.
std::string refusal(std::string_view header, std::int64_t data_bytes) {
  try {
    fg::read_table(header, data_bytes, "f");
  } catch (fg::file_error const& e) {
    return e.what();
  }
  return {};
}

/// A header with one tensor of these fields.
std::string one(std::string const& fields) { return "{\"a\":{" + fields + "}}"; }

}  // namespace

TEST_CASE("a valid header is read, whatever the order of its tensors and fields") {
  auto const table = fg::read_table(
      R"({"b" : {"shape":[2,3], "data_offsets":[8,32], "dtype":"F32"},
"__metadata__":{"k\u00e9\ud83d\ude00":"v\n\"","":""}, "a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},
"none":{"dtype":"BF16","shape":[0,7],"data_offsets":[8,8]}}   )",
      32);
  REQUIRE(table.tensors.size() == 3);
  CHECK(table.tensors[0].name == "a");
  CHECK(table.tensors[0].type == fg::dtype::i64);
  CHECK(table.tensors[0].shape.empty());
  CHECK(table.tensors[1].name == "b");
  CHECK(table.tensors[1].shape == std::vector<std::int64_t>{2, 3});
  CHECK(table.tensors[1].begin == 8);
  CHECK(table.tensors[1].end == 32);
  CHECK(table.tensors[2].shape == std::vector<std::int64_t>{0, 7});
  REQUIRE(table.metadata.size() == 2);
  CHECK(table.metadata[1].first == "k\xc3\xa9\xf0\x9f\x98\x80");
  CHECK(table.metadata[1].second == "v\n\"");
  CHECK(fg::read_table("{}", 0).tensors.empty());
}

TEST_CASE("every number format of the format's table is known by its name and size") {
  for (auto [name, bytes] : {std::pair<std::string, int>{"BOOL", 1},
                             {"U8", 1},
                             {"I8", 1},
                             {"F8_E4M3", 1},
                             {"F8_E5M2", 1},
                             {"F8_E8M0", 1},
                             {"U16", 2},
                             {"I16", 2},
                             {"F16", 2},
                             {"BF16", 2},
                             {"U32", 4},
                             {"I32", 4},
                             {"F32", 4},
                             {"U64", 8},
                             {"I64", 8},
                             {"F64", 8}}) {
    CAPTURE(name);
    std::string const header = one("\"dtype\":\"" + name + "\",\"shape\":[3],\"data_offsets\":[0," +
                                   std::to_string(3 * bytes) + "]");
    CHECK(refusal(header, 3 * bytes).empty());
    CHECK(refusal(header, 3 * bytes + 1) != "");
  }
}

TEST_CASE("a tensor of a format that nobody knows is listed under its word") {
  auto const table = fg::read_table(one(R"("dtype":"F4","shape":[3,2],"data_offsets":[0,3])"), 3);
  REQUIRE(table.tensors.size() == 1);
  CHECK(table.tensors[0].type == fg::dtype::other);
  CHECK(table.tensors[0].word == "F4");
  CHECK(table.tensors[0].shape == std::vector<std::int64_t>{3, 2});
  CHECK(refusal(one(R"("dtype":"F4","shape":[3,2],"data_offsets":[0,3])"), 4) != "");
}

TEST_CASE("a malicious or broken header is refused, with its reason and place") {
  std::string const f32 = "\"dtype\":\"F32\",";
  struct {
    std::string header, reason;
    std::int64_t bytes = 0;
  } const cases[] = {
      {"", "does not begin with {, at byte 8 of f"},
      {" {}", "does not begin with {, at byte 8"},
      {"[]", "does not begin with {"},
      {"{", "a \" is missing, at byte 9"},
      {"{}x", "goes on after its closing }, at byte 10"},
      {"{},{}", "goes on after its closing }"},
      {"{\"a\"}", "a : is missing"},
      {"{\"a\":1}", "a tensor must be an object, at byte 13"},
      {"{\"a\":{}", "a tensor needs dtype, shape and data_offsets"},
      {"{\"a\":{}}", "a tensor needs dtype, shape and data_offsets, at byte 13"},
      {"{\"a", "a string does not end"},
      {"{\"a\n\":{}}", "a control character"},
      {"{\"\\x\":{}}", "an unknown escape"},
      {"{\"\\u12g4\":{}}", "four hexadecimal digits"},
      {"{\"\\ud800\":{}}", "half a surrogate pair"},
      {"{\"\\ud800\\u0041\":{}}", "half a surrogate pair"},
      {"{\"\\udc00\":{}}", "half a surrogate pair"},
      {"{\"\xff\":{}}", "not UTF-8, at byte 10"},
      {"{\"\xc0\x80\":{}}", "not UTF-8"},          // overlong
      {"{\"\xe0\x80\x80\":{}}", "not UTF-8"},      // overlong
      {"{\"\xed\xa0\x80\":{}}", "not UTF-8"},      // a surrogate
      {"{\"\xf4\x90\x80\x80\":{}}", "not UTF-8"},  // above U+10FFFF
      {"{\"\xe2\x82", "not UTF-8"},                // ends within a character
      {std::string(100'000, '['), "does not begin with {"},
      {"{\"a\":" + std::string(100'000, '['), "a tensor must be an object"},
      {one(f32 + "\"shape\":" + std::string(100'000, '[')), "a whole number from 0 up is missing"},
      {one(f32 + "\"shape\":[],\"data_offsets\":[0,4],\"x\":1"), "is not dtype, shape or", 4},
      {one(f32 + f32 + "\"shape\":[],\"data_offsets\":[0,4]"), "a name occurs twice, at byte 28",
       4},
      {one(f32 + "\"shape\":[],\"shape\":[],\"data_offsets\":[0,4]"), "a name occurs twice", 4},
      {one("\"shape\":[],\"data_offsets\":[0,4]"), "a tensor needs dtype", 4},
      {one("\"dtype\":\"\",\"shape\":[],\"data_offsets\":[0,4]"), "dtype is empty, at byte 22", 4},
      {one("\"dtype\":\"F31\",\"shape\":[],\"data_offsets\":[0,4]"), "no tensor owns", 5},
      {one("\"dtype\":7,\"shape\":[],\"data_offsets\":[0,4]"), "a \" is missing", 4},
      {one(f32 + "\"shape\":[-1],\"data_offsets\":[0,4]"), "a whole number from 0 up", 4},
      {one(f32 + "\"shape\":[1.0],\"data_offsets\":[0,4]"), "a , or ] is missing", 4},
      {one(f32 + "\"shape\":[1e0],\"data_offsets\":[0,4]"), "a , or ] is missing", 4},
      {one(f32 + "\"shape\":[01],\"data_offsets\":[0,4]"), "begins with 0", 4},
      {one(f32 + "\"shape\":[1,],\"data_offsets\":[0,4]"), "a whole number from 0 up", 4},
      {one(f32 + "\"shape\":[9223372036854775808],\"data_offsets\":[0,4]"), "too large", 4},
      {one(f32 + "\"shape\":[18446744073709551617],\"data_offsets\":[0,4]"), "too large", 4},
      {one(f32 + "\"shape\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]"),
       "the list of numbers is too long", 4},
      {one(f32 + "\"shape\":[],\"data_offsets\":[0]"), "a list of two numbers", 4},
      {one(f32 + "\"shape\":[],\"data_offsets\":[0,4,4]"), "too long", 4},
      {one(f32 + "\"shape\":[],\"data_offsets\":[4,0]"), "data_offsets end before they begin", 4},
      {one(f32 + "\"shape\":[],\"data_offsets\":[0,8]"), "cut short or damaged", 4},
      {one(f32 + "\"shape\":[2],\"data_offsets\":[0,4]"), "do not give the bytes", 4},
      {one(f32 + "\"shape\":[],\"data_offsets\":[0,4]"), "no tensor owns", 5},
      {one(f32 + "\"shape\":[],\"data_offsets\":[1,5]"), "a hole lies before", 5},
      // products that wrap 64 and 128 bits
      {one(f32 + "\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]"), "shape is too large"},
      {one(f32 + "\"shape\":[2305843009213693952,4611686018427387904],\"data_offsets\":[0,0]"),
       "shape is too large"},
      {one(f32 + "\"shape\":[4294967296,4294967296,4294967296,4294967296],\"data_offsets\":[0,0]"),
       "shape is too large"},
      {"{\"a\":{" + f32 + "\"shape\":[],\"data_offsets\":[0,4]},\"b\":{" + f32 +
           "\"shape\":[],\"data_offsets\":[2,6]}}",
       "two tensors overlap", 6},
      {"{\"a\":{" + f32 + "\"shape\":[],\"data_offsets\":[0,4]},\"b\":{" + f32 +
           "\"shape\":[],\"data_offsets\":[0,4]}}",
       "two tensors overlap", 4},
      {"{\"a\":{" + f32 + "\"shape\":[],\"data_offsets\":[0,4]},\"\\u0061\":{" + f32 +
           "\"shape\":[],\"data_offsets\":[4,8]}}",
       "a name occurs twice, at byte 61", 8},
      {R"({"__metadata__":{"a":1}})", "must be an object of strings"},
      {R"({"__metadata__":{"a":{"b":"c"}}})", "must be an object of strings"},
      {R"({"__metadata__":"a"})", "must be an object of strings"},
      {R"({"__metadata__":{"a":"b","a":"b"}})", "a name occurs twice, at byte 33"},
      {R"({"__metadata__":{},"__metadata__":{}})", "a name occurs twice, at byte 27"},
  };
  for (auto const& [header, reason, bytes] : cases) {
    CAPTURE(header.substr(0, 200));
    CHECK_THAT(refusal(header, bytes), ContainsSubstring(reason));
  }
}

TEST_CASE("whatever is done to a header, what is accepted tiles the data exactly") {
  std::string const valid[] = {
      R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"I64","shape":[],"data_offsets":[24,32]}})",
      R"({"__metadata__":{"k":"v"},"w":{"dtype":"BF16","shape":[4,1,4],"data_offsets":[0,32]}})",
      R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"y":{"dtype":"F64","shape":[4],"data_offsets":[0,32]}})"};
  constexpr std::string_view words[] = {"0",
                                        "4",
                                        "32",
                                        "9223372036854775807",
                                        "2305843009213693952",
                                        "4611686018427387904",
                                        "4294967296",
                                        ",",
                                        "[",
                                        "]",
                                        "{",
                                        "}",
                                        "\"",
                                        ":",
                                        "F64",
                                        "U8",
                                        "\\u0061",
                                        "__metadata__",
                                        " "};
  std::uint64_t draws = 0, accepted = 0;
  auto const below = [&](std::size_t n) {
    return static_cast<std::size_t>(fg::random_word(7, draws++) % n);
  };
  for (int round = 0; round < 200'000; ++round) {
    std::string header = valid[below(3)];
    for (auto edits = 1 + below(3); edits > 0; --edits) {
      std::size_t const at = below(header.size());
      switch (below(4)) {
        case 0: header[at] = static_cast<char>(below(256)); break;
        case 1: header.erase(at, 1 + below(4)); break;
        case 2: header.insert(at, words[below(std::size(words))]); break;
        default: header.replace(at, 1 + below(3), words[below(std::size(words))]); break;
      }
      if (header.empty()) header = "{";
    }
    fg::tensor_table table;
    try {
      table = fg::read_table(header, 32);
    } catch (fg::file_error const&) {
      continue;
    }
    ++accepted;
    // Each size again, by another route: in long double, which no product of 16 int64 overflows.
    std::vector<std::pair<std::int64_t, std::int64_t>> places;
    bool fits = true;
    for (auto const& tensor : table.tensors) {
      long double bytes = static_cast<long double>(fg::facts(tensor.type).bytes);
      for (auto size : tensor.shape) bytes *= static_cast<long double>(size);
      fits &= bytes == static_cast<long double>(tensor.end - tensor.begin) ||
              (tensor.type == fg::dtype::other && !tensor.word.empty());
      places.emplace_back(tensor.begin, tensor.end);
    }
    std::sort(places.begin(), places.end());
    std::int64_t end = 0;
    for (auto [first, last] : places) {
      fits &= first == end && last >= first;
      end = last;
    }
    if (!fits || end != 32) FAIL("accepted: " << header);
  }
  CHECK(accepted > 1000);  // or the mutations would test nothing
}
