// What it takes to read a published model into codes, and to run it: a file of DeepSeek-V2-Lite's
// names, sizes and number format, with random numbers in it, into int4 experts and int8.
//
//   bench_published FOLDER     writes 31 GB there, and 9 of codes, and removes them
// SPDX-License-Identifier: Apache-2.0
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <finegrain/finegrain.hpp>
#include <span>
#include <string>
#include <vector>

namespace {

namespace fg = finegrain;

constexpr fg::architecture published = fg::presets::deepseek_v2_lite;
using model = fg::decoder<published>;
constexpr fg::formats coarse(fg::format::int4, fg::format::int8);
using reader = fg::frozen<model, fg::cpu, coarse>;

class stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// All weights in bf16. Those of a kind share their numbers: only the file has all of them.
void write(std::string const& path) {
  auto const entries = fg::list_weights<model>();
  std::int64_t most = 0;
  for (auto const& entry : entries) most = std::max(most, entry.rows * entry.cols);
  std::vector<fg::bf16> numbers(static_cast<std::size_t>(most)), ones(numbers.size(), fg::bf16(1));
  for (std::size_t i = 0; i < numbers.size(); ++i)
    numbers[i] = fg::bf16(0.04f * static_cast<float>(fg::random_normal(1, i)));
  std::vector<fg::tensor_view> tensors;
  for (auto const& entry : entries) {
    bool const is_matrix = entry.role == fg::role::projection;
    std::vector<std::int64_t> shape{entry.rows, entry.cols};
    if (!is_matrix) shape = {entry.rows * entry.cols};
    tensors.push_back({fg::deepseek_name(entry.name), fg::dtype::bf16, shape,
                       is_matrix ? numbers.data() : ones.data()});
  }
  fg::write_safetensors(path, tensors);
}

void read_and_run(std::string const& path, std::string const& packed) {
  constexpr int prompt = 64, count = 32;
  stopwatch const loading;
  reader net = fg::load_published<reader>(path);
  rusage used;
  ::getrusage(RUSAGE_SELF, &used);
  std::printf("codes %.2f GB, read in %.0f s, at most %.2f GB of memory\n",
              1e-9 * static_cast<double>(reader::weight_bytes()), loading.seconds(),
              1.024e-6 * static_cast<double>(used.ru_maxrss));

  std::vector<std::int32_t> ids;
  for (int i = 0; i < prompt; ++i) ids.push_back(i * 997 % published.vocabulary);
  std::vector<float> logits(static_cast<std::size_t>(prompt) * published.vocabulary);
  auto cache = reader::make_cache(prompt + count);
  auto const run = [&](std::span<std::int32_t const> some) {
    auto const tokens = static_cast<std::int64_t>(some.size());
    stopwatch const running;
    net.infer({.tokens = tokens, .ids = some}, {}, {logits.data(), tokens, published.vocabulary},
              &cache);
    return running.seconds();
  };
  net.reserve(prompt);
  std::printf("a prompt of %d tokens in %.2f s\n", prompt, run(ids));
  double seconds = 0;
  for (std::size_t i = 0; i < count; ++i) seconds += run(std::span(ids).subspan(i, 1));
  std::printf("%.2f tokens/s one at a time\n", count / seconds);
  stopwatch const saving;
  fg::save_weights(net, packed);
  std::printf("codes saved in %.0f s\n", saving.seconds());
}

void load(std::string const& packed) {
  stopwatch const loading;
  reader const net = fg::load_weights<reader>(packed);
  std::printf("codes loaded in %.1f s, what of them is in the page cache from there\n",
              loading.seconds());
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) {
    std::puts("bench_published FOLDER: it writes 31 GB there, and 9 of codes, and removes them");
    return 0;
  }
  std::string const path = std::string(argv[1]) + "/finegrain_bench.safetensors";
  std::string const packed = path + ".packed";
  struct removed {
    std::string const &path, &packed;
    ~removed() { std::filesystem::remove(path), std::filesystem::remove(packed); }
  } const at_the_end{path, packed};
  stopwatch const writing;
  write(path);
  std::printf("31 GB written in %.0f s\n", writing.seconds());
  std::fflush(stdout);
  read_and_run(path, packed);
  load(packed);
} catch (std::exception const& e) {
  std::fprintf(stderr, "bench_published: %s\n", e.what());
  return 1;
}
