// The cpu executor against the machine's limits and the best peers, in one run.
//
//   bench_cpu [--quick] [--only forward,backward,skew,grain,shapes,parts] [--tokens 1,64,512]
//             [--dtype f32,bf16,...] [--by finegrain,Eigen,OpenBLAS,oneDNN,PyTorch] [--threads N]
//             [--python python3] [--seconds a line] [--out out/bench/cpu]
//
// Writes OUT.jsonl, OUT.md and, of forward passes, OUT.svg. Every sample stands beside samples of the
// machine's limits; samples in which others used the cores are taken again. A star marks a line
// without three clean ones. Medians. With --python, a Python that has PyTorch is one more peer forward.
// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <finegrain/lab/options.hpp>
#include <finegrain/model/frozen.hpp>
#include <fstream>
#include <memory>

#include "cases.hpp"
#include "rivals.hpp"
#include "roofline.hpp"
#include "session.hpp"
#include "table.hpp"
#include "torch_peer.hpp"
#include "words.hpp"

namespace {

namespace fg = finegrain;
using bench::const_view;
using bench::view;

struct settings {
  bool quick = false;
  std::vector<std::string> phases, dtypes, names;
  std::vector<std::int64_t> tokens;
  int threads = 0;
  double seconds = 0;
  std::string out, python;

  bool wants(char const* phase) const { return bench::in(phases, phase); }
  bool wants(std::string const& name, bench::dtype const& type) const {
    return bench::in(names, name.substr(0, name.find(' '))) && bench::in(dtypes, type.name);
  }
  std::vector<std::int64_t> sizes(std::vector<std::int64_t> usual) const {
    return tokens.empty() ? usual : tokens;
  }
};

settings read_settings(int argc, char** argv) {
  settings s;
  s.quick = bench::took("--quick", argc, argv);
  fg::options asked(argc, argv);
  s.phases = bench::phases_of(asked.text("--only", s.quick ? "forward" : ""),
                              {"forward", "backward", "skew", "grain", "shapes", "parts"});
  s.tokens = bench::tokens_of(asked.text("--tokens", s.quick ? "1,16,64,512" : ""));
  s.dtypes = bench::words_of(asked.text("--dtype", s.quick ? "f32,bf16" : ""));
  s.names = bench::words_of(asked.text("--by", ""));
  s.threads = int(asked.number("--threads", fg::usable_cores()));
  s.seconds = double(asked.number("--seconds", s.quick ? 3 : 20));
  s.out = asked.text("--out", "out/bench/cpu");
  s.python = asked.text("--python", "");
  asked.done();
  return s;
}

/// A layer, its weights, and everyone who computes it.
class subject {
 public:
  template <fg::config C>
  static subject make(std::string name, settings const& s, fg::cpu const& on) {
    using plan = fg::plan<fg::cpu, fg::mixture<C>>;
    auto const net = std::make_shared<fg::network<fg::mixture<C>, fg::cpu>>(on);
    bench::make_router(plan::template views<float>(net->weights()).router.router);
    subject made(s, on);
    *made.layer_ = {std::move(name), C,
                    plan::template views<float const>(std::as_const(*net).weights())};
    made.reserve_ = [net](std::int64_t tokens, bool training) {
      net->reserve(tokens, training);
      return training ? plan::template views<float>(net->gradient_views())
                      : fg::layer_weights<float>();
    };
    made.train_ = [net](const_view x, view y, fg::format products) {
      net->on().products = products;
      net->forward({.tokens = x.rows}, x, y);
    };
    made.backward_ = [net](const_view dy, view dx) { net->backward(dy, dx); };

    made.ours_ = {
        {"finegrain", &bench::f32,
         [net](auto x, auto y) {
           net->on().products = fg::format::f32;
           (*net)(x, y);
         }},
        {"finegrain frozen", &bench::f32, freeze<fg::format::f32>(net)},
        {"finegrain frozen", &bench::bf16, freeze<fg::format::bf16>(net)},
        {"finegrain frozen", &bench::int8, freeze<fg::format::int8>(net)},
        {"finegrain frozen", &bench::int8_block, freeze<fg::format::int8_block>(net)},
        {"finegrain frozen", &bench::fp8, freeze<fg::format::fp8>(net)},
        {"finegrain frozen", &bench::int4, freeze<fg::format::int4>(net)},
    };
    return made;
  }

  bench::layer const& layer() const { return *layer_; }

  void forward(bench::session& session, std::int64_t tokens,
               bench::spread how = bench::spread::uniform) {
    // small batches go to other experts every time, so that weights come from memory
    bench::inputs const x(on_, *layer_, tokens, tokens <= 16 ? 16 : 2, how);
    bench::routings const routings(on_, *layer_, x);
    fg::buffer<float> numbers(tokens * layer_->c.hidden);
    view const y(numbers.data(), tokens, layer_->c.hidden);
    reserve_(tokens, false);

    std::vector<bench::contender> all;
    for (auto const& e : ours_)
      if (settings_.wants(e.name, *e.type))
        all.push_back({e.name, e.type, [&](std::int64_t i) { e.run(x[i], y); }});
    rivals_.add_forward(all, x, routings, y);
    auto const wanted = [&](bench::dtype const& type) { return settings_.wants("PyTorch", type); };
    if (!settings_.python.empty() && (wanted(bench::f32) || wanted(bench::bf16))) {
      if (!torch_)
        torch_ = std::make_unique<bench::torch_peer>(on_, *layer_, settings_.python, settings_.out);
      torch_->add_forward(all, x, y, wanted);
    }
    bench::task const task{layer_->name + name_of(how), "forward", tokens, layer_->flops(tokens),
                           routings.numbers};
    session.line(task, all, [&] { return std::vector<float>(numbers.begin(), numbers.end()); });
  }

  void backward(bench::session& session, std::int64_t tokens) {
    layer_->dw = reserve_(tokens, true);
    std::int64_t const hidden = layer_->c.hidden;
    bench::inputs const x(on_, *layer_, tokens, 1, bench::spread::uniform);
    bench::inputs const dy(on_, *layer_, tokens, 1, bench::spread::zipf);  // any numbers
    bench::routings const routings(on_, *layer_, x, true);
    fg::buffer<float> numbers(tokens * hidden);
    view const dx(numbers.data(), tokens, hidden);

    std::vector<bench::contender> all;
    for (auto const& [type, products] :
         {std::pair(&bench::f32, fg::format::f32), std::pair(&bench::mixed, fg::format::bf16)})
      if (settings_.wants("finegrain", *type))  // what forward leaves is of the same products
        all.push_back({"finegrain", type, [&](std::int64_t) { backward_(dy[0], dx); }, false,
                       [&, products = products] { train_(x[0], dx, products); }});
    rivals_.add_backward(all, x[0], dy[0], routings, dx);
    bench::task const task{layer_->name, "backward", tokens, 2 * layer_->flops(tokens),
                           2 * routings.numbers};
    session.line(task, all, [&] {
      std::vector<float> some;  // of dx without the router's share, and of every gradient
      for (std::int64_t t = 0; t < tokens; ++t)
        some.insert(some.end(), dx.row(t) + layer_->c.routed, dx.row(t) + hidden);
      for (auto const& e : rivals_.experts())
        for (view const& dw : {e.dgate, e.dup, e.ddown})
          for (std::int64_t i = 0; i < dw.size(); i += 997) some.push_back(dw.data[i]);
      return some;
    });
  }

  /// What the steps around the experts take of the layer's time.
  void parts(bench::session& session, std::int64_t tokens) {
    fg::config const& c = layer_->c;
    bench::inputs const x(on_, *layer_, tokens, tokens <= 16 ? 16 : 2, bench::spread::uniform);
    bench::router_memory const r(on_, c, tokens);
    std::int64_t const slots = tokens * c.top_k;
    fg::buffer<float> numbers((slots + 2 * tokens) * c.hidden);
    std::fill(numbers.begin(), numbers.end(), 1.0f);
    view const all(numbers.data(), slots + 2 * tokens, c.hidden);
    view const y = all.middle_rows(slots + tokens, tokens);
    fg::combination const sum{.shared = all.middle_rows(slots, tokens),
                              .slots = all.middle_rows(0, slots),
                              .slot = r.places.slot,
                              .weights = r.routing.weights};
    reserve_(tokens, false);
    char const* const names[] = {"route", "dispatch", "combine"};
    std::vector<double> seconds[3], shares[3];
    for (std::int64_t round = 0; round < (tokens <= 64 ? 48 : 8); ++round) {
      ours_[0].run(x[round], y);
      double const took[] = {bench::seconds_of([&] { r.route(on_, *layer_, x[round]); }),
                             bench::seconds_of([&] { r.dispatch(on_, *layer_); }),
                             bench::seconds_of([&] { fg::combine(on_, sum, y); })};
      double const whole = bench::seconds_of([&] { ours_[0].run(x[round], y); });
      for (int i = 0; i < 3; ++i) {
        seconds[i].push_back(took[i]);
        shares[i].push_back(took[i] / whole);
      }
    }
    std::printf("\n%s, forward, T = %lld: of the layer's time", layer_->name.c_str(),
                static_cast<long long>(tokens));
    for (int i = 0; i < 3; ++i) {
      double const share = bench::median(shares[i]);
      std::printf("  %s %.2f %%", names[i], 100 * share);
      session.note({layer_->name, "parts", tokens, 0, 0}, names[i], seconds[i], share);
    }
    std::printf("\n");
  }

 private:
  /// One of finegrain's own ways of computing the layer.
  struct entrant {
    std::string name;
    bench::dtype const* type;
    std::function<void(const_view, view)> run;
  };

  /// A call on a frozen copy of the network, which is made when it is first called.
  template <fg::format F, fg::Expr E>
  static auto freeze(std::shared_ptr<fg::network<E, fg::cpu>> net) {
    using frozen = fg::frozen<E, fg::cpu, F>;
    return [net, made = std::shared_ptr<frozen>()](const_view x, view y) mutable {
      if (!made) made = std::make_shared<frozen>(*net);
      (*made)(x, y);
    };
  }

  subject(settings const& s, fg::cpu const& on)
      : settings_(s),
        on_(on),
        layer_(std::make_unique<bench::layer>()),
        rivals_(on, *layer_,
                [&s](auto const& name, auto const& type) { return s.wants(name, type); }) {}

  settings const& settings_;
  fg::cpu const& on_;
  std::unique_ptr<bench::layer> layer_;
  std::function<fg::layer_weights<float>(std::int64_t, bool)> reserve_;
  std::function<void(const_view, view, fg::format)> train_;
  std::function<void(const_view, view)> backward_;
  std::vector<entrant> ours_;
  bench::rivals rivals_;
  std::unique_ptr<bench::torch_peer> torch_;
};

/// OpenBLAS of a time before this processor takes AVX2 code for it, or none better than SSE3's, where
/// its AVX-512 code is faster. It decides before main, so that the program starts again.
void choose_openblas_core([[maybe_unused]] char** argv) {
#if defined(FINEGRAIN_OPENBLAS) && defined(__x86_64__)
  std::string const core = openblas_get_corename();
  bool const avx512 = core == "SkylakeX" || core == "Cooperlake" || core == "SapphireRapids";
  bool const avx2 = core == "Haswell" || core == "Zen" || avx512;
  char const* const better = __builtin_cpu_supports("avx512f") && !avx512 ? "SKYLAKEX"
                             : __builtin_cpu_supports("avx2") && !avx2    ? "HASWELL"
                                                                          : nullptr;
  if (!better || std::getenv("OPENBLAS_CORETYPE")) return;
  ::setenv("OPENBLAS_CORETYPE", better, 1);
  ::execv("/proc/self/exe", argv);
#endif
}

void list_peers() {
  std::printf("peers: Eigen %d.%d.%d", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION,
              EIGEN_MINOR_VERSION);
#ifdef FINEGRAIN_OPENBLAS
  std::string version = OPENBLAS_VERSION;  // with spaces around it
  version.erase(version.find_last_not_of(' ') + 1);
  std::printf(";%s, core %s%s", version.c_str(), openblas_get_corename(),
              std::getenv("OPENBLAS_CORETYPE") ? " (told to)" : "");
#else
  std::printf("; OpenBLAS is not installed (Debian: libopenblas-dev)");
#endif
#ifdef FINEGRAIN_ONEDNN
  dnnl_version_t const* const v = dnnl_version();
  std::printf("; oneDNN %d.%d.%d\n", v->major, v->minor, v->patch);
#else
  std::printf("; oneDNN is not installed (Debian: libdnnl-dev)\n");
#endif
}

void measure(settings const& s, fg::cpu const& on) {
  bench::session session(on, s.out + ".jsonl", s.seconds, s.quick);
  if (s.wants("forward") || s.wants("backward") || s.wants("skew") || s.wants("parts")) {
    auto layer = subject::make<bench::moe_16b>("16B", s, on);
    if (s.wants("forward")) {
      for (std::int64_t const tokens : s.sizes({1, 4, 16, 64, 256, 512, 2048}))
        layer.forward(session, tokens);
      std::string const drawn =
          bench::draw_roofline(layer.layer(), session.figures(), on.threads.workers());
      if (!drawn.empty()) std::ofstream(s.out + ".svg") << drawn;
    }
    if (s.wants("parts"))
      for (std::int64_t const tokens : s.sizes({1, 16, 64, 512, 2048}))
        layer.parts(session, tokens);
    using bench::spread;
    if (s.wants("skew"))
      for (auto const how :
           {spread::uniform, spread::zipf, spread::quarter, spread::one, spread::same})
        for (std::int64_t const tokens : s.sizes({512})) layer.forward(session, tokens, how);
    if (s.wants("backward"))
      for (std::int64_t const tokens : s.sizes({512, 2048})) layer.backward(session, tokens);
  }
  auto const one = [&]<fg::config C>(std::string const& name, std::vector<std::int64_t> sizes) {
    auto layer = subject::make<C>(name, s, on);
    for (std::int64_t const tokens : s.sizes(sizes)) layer.forward(session, tokens);
  };
  if (s.wants("grain")) {
    one.operator()<bench::coarse>("grain 1", {512});
    one.operator()<bench::coarse.segmented(2)>("grain 2", {512});
    one.operator()<bench::coarse.segmented(4)>("grain 4", {512});
    one.operator()<bench::coarse.segmented(8)>("grain 8", {512});
    one.operator()<bench::coarse.segmented(16)>("grain 16", {512});
  }
  if (s.wants("shapes")) {
    one.operator()<bench::moe_2b>("2B", {1, 64, 512});
    one.operator()<bench::moe_odd>("odd", {1, 64, 512});
  }
  std::ofstream(s.out + ".md") << bench::markdown(session.figures());
}

}  // namespace

int main(int argc, char** argv) try {
  choose_openblas_core(argv);
  settings const s = read_settings(argc, argv);
  if (auto const folder = std::filesystem::path(s.out).parent_path(); !folder.empty())
    std::filesystem::create_directories(folder);
  list_peers();
  fg::thread_pool threads(s.threads);
  fg::cpu const on{threads};
  measure(s, on);
  std::printf("\nwritten: %s.jsonl, %s.md\n", s.out.c_str(), s.out.c_str());
} catch (std::exception const& e) {
  std::fprintf(stderr, "bench cpu: %s\n", e.what());
  return 1;
}
