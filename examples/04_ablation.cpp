// The ablation of DeepSeekMoE's figure 3, small: does a finer grain of experts learn more from the
// same text at the same cost? Models that read bytes, trained side by side, on the CPU or on a GPU.
//
//   demo [--text FILE] [--out DIR] [--steps N] [--seeds N]
#include <cstdio>
#include <exception>
#include <finegrain/lab.hpp>

namespace fg = finegrain;

#ifdef ON_CUDA  // then the program has device.cu beside this file
using executor = fg::cuda;
#else
using executor = fg::cpu;
#endif

// The paper's ladder: 16 conventional experts; one isolated as shared; then 2 and 4 times finer.
constexpr fg::config base = fg::conventional<16, 2>({.hidden = 64, .width = 128});
using ladder = fg::ladder<base, base.isolated(1), base.segmented(2).isolated(1),
                          base.segmented(4).isolated(1)>;
static_assert(fg::same_budget(ladder{}), "every rung: as many expert parameters, total and active");

template <fg::Expr FeedForward>
struct decoder : fg::named {
  static constexpr int D = base.hidden;
  static constexpr auto block = fg::residual(fg::rmsnorm<D>{} | fg::attention<D, 4>{}) |
                                fg::residual(fg::rmsnorm<D>{} | FeedForward{});
  static constexpr auto expr =
      fg::embedding<256, D>{} | fg::repeat<2>(block) | fg::rmsnorm<D>{} | fg::head<D, 256>{};
};
using dense_twin = decoder<fg::mlp<base.hidden, base.active() * base.width>>;

std::vector<std::string> licences() {  // real text that every Debian system has
  std::vector<std::string> files;
  for (char const* name : {"Apache-2.0", "Artistic", "GFDL-1.3", "GPL-1", "GPL-2", "GPL-3",
                           "LGPL-2", "LGPL-2.1", "LGPL-3", "MPL-1.1", "MPL-2.0"})
    files.push_back(std::string("/usr/share/common-licenses/") + name);
  return files;
}

int main(int count, char** words) try {
  fg::options given(count, words);
  std::string const file = given.text("--text", "");
  std::string const out = given.text("--out", "out/demo");
  long long const steps = given.number("--steps", 1500), seeds = given.number("--seeds", 1);
  given.done();

  auto const text = file.empty() ? fg::corpus::first_of({{"out/corpus/jargon.txt"}, licences()})
                                 : fg::corpus::read({file});
  fg::study study(
      text,
      {.out = out,
       .seeds = static_cast<int>(seeds),
       .steps = steps,
       .sequences = 4,
       .length = 128,
       .deviation = 0.1,
       .optimizer = {.lr = 5e-3},
       .training = {.schedule = {.warmup = steps / 20, .steps = steps, .decay = fg::decay::cosine},
                    .routing = {.balance = {.expert = 0.01}}}});
  fg::for_each(ladder{}, [&]<fg::config C>(fg::at<C>) {
    study.add<fg::network<decoder<fg::mixture<C>>, executor>>(fg::rung_name(C));
  });
  study.add<fg::network<dense_twin, executor>>("dense");
  study.compare("order-1 entropy", fg::order1_entropy(text.text()));
  for (char const* program : {"gzip", "bzip2", "xz"})
    if (auto const bits = fg::compressed_bits(text, program)) study.compare(program, *bits);

  if (!study.run()) return 130;
  auto const results = study.report("The ladder's loss on validation text");
  std::printf("\n%s\nThe best model writes:\n\n%s\n\n", results.summary().plain().c_str(),
              study.sample("The ", 400, {.temperature = 0.7, .top_p = 0.9}).c_str());
  std::printf("%s/ has log.jsonl, values.csv, table.md, .tex and .csv, curves.svg and load.svg.\n",
              out.c_str());
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
