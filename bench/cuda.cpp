// The cuda executor against the GPU's limits and the best peers, in one run.
//
//   bench_cuda [--quick] [--only forward,backward,skew,sonic,v3,e128,grain,formats] [--tokens 1,64,512]
//              [--by finegrain,"finegrain portable",cuBLAS,dense] [--seconds a figure] [--peers FILE.jsonl]
//              [--out out/bench/cuda] [--record docs/hardware.md] [--commit NAME]
//   bench_cuda --record docs/hardware.md --path attention --result "tests pass"
//
// Writes OUT.jsonl, OUT.md and, of the 16B's forward passes, OUT.svg. bench/cuda_peers.py measures
// peers in torch; --peers puts its lines, or an earlier run's, beside finegrain's. Weights are made
// on the device. A figure is the median of replays of a CUDA graph, routing included, with random
// numbers, and with weights and batches taken in turn where those in use would stay in the cache.
// The limits, measured between: FLOPs of the experts, unpadded, at the rate of a large dense
// product; bytes that must be read and written at the rate of a large copy. A star: a result differs
// from that of a loop of cuBLAS products.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <filesystem>
#include <finegrain/lab/options.hpp>
#include <memory>

#include "cuda_layers.hpp"
#include "cuda_peers.hpp"
#include "cuda_session.hpp"
#include "hardware.hpp"
#include "roofline.hpp"
#include "words.hpp"

namespace {

namespace fg = finegrain;
using bench::number;
using bench::spread;
using tokens_list = std::vector<std::int64_t>;

struct settings {
  bool quick = false;
  std::vector<std::string> phases, names;
  tokens_list tokens;
  double seconds = 0;
  std::string out, peers, record, path, result, commit;

  bool wants(char const* phase) const { return bench::in(phases, phase); }
  bool by(char const* name) const { return bench::in(names, name); }
  tokens_list sizes(tokens_list usual) const { return tokens.empty() ? usual : tokens; }
};

settings read_settings(int argc, char** argv) {
  settings s;
  s.quick = bench::took("--quick", argc, argv);
  fg::options asked(argc, argv);
  s.phases =
      bench::phases_of(asked.text("--only", s.quick ? "forward" : ""),
                       {"forward", "backward", "skew", "sonic", "v3", "e128", "grain", "formats"});
  s.tokens = bench::tokens_of(asked.text("--tokens", s.quick ? "1,64,4096" : ""));
  s.names = bench::words_of(asked.text("--by", ""));
  s.seconds = std::atof(asked.text("--seconds", s.quick ? "0.1" : "0.5").c_str());
  s.out = asked.text("--out", "out/bench/cuda");
  s.peers = asked.text("--peers", "");
  s.record = asked.text("--record", "");
  s.path = asked.text("--path", "");
  s.result = asked.text("--result", "");
  s.commit = asked.text("--commit", "");
  asked.done();
  return s;
}

/// The executor with every instruction that the GPU has, and with those of every GPU from 8.0.
struct way {
  char const* name;
  fg::device::instructions use;
};
constexpr way ways[] = {{"finegrain", fg::device::instructions::all},
                        {"finegrain portable", fg::device::instructions::portable}};

/// One layer, and everyone who computes it.
template <fg::config C>
class subject {
 public:
  using layer_type = bench::gpu_layer<C>;

  subject(std::string name, settings const& s, bench::gpu_session& session, CUstream_st* on)
      : name_(std::move(name)), s_(s), session_(session), on_(on) {}

  void forward(std::int64_t tokens, spread how = spread::uniform) {
    attempt("forward", tokens, [&] { forward_line(tokens, how); });
  }
  /// Frozen layers beside the one they were made of.
  void formats(std::int64_t tokens) {
    attempt("frozen", tokens, [&] {
      format_line<fg::format::int8>("int8", tokens);
      format_line<fg::format::fp8>("fp8", tokens);
      if (fg::device::tile_rows<number>(C, {tokens, 1, false}) == 128)  // else the same products
        format_line<fg::format::fp8>("fp8 x fp8", tokens, fg::format::fp8);
      format_line<fg::format::int8_block>("int8_block", tokens);
      format_line<fg::format::int4>("int4", tokens);
    });
  }
  void training(std::int64_t tokens, spread how = spread::uniform) {
    attempt("training", tokens, [&] { training_lines(tokens, how); });
  }

 private:
  /// A line that fails, for want of memory say, leaves the others.
  void attempt(char const* what, std::int64_t tokens, auto&& measure) {
    try {
      measure();
    } catch (std::exception const& e) {
      std::printf("%-15s %-16s T=%-6lld failed: %s\n", name_.c_str(), what,
                  static_cast<long long>(tokens), e.what());
      layer_.reset();
      sets_ = 0;
    }
  }

  void forward_line(std::int64_t tokens, spread how) {
    // small batches take other experts and weights every time, so that these come from memory
    double const used =
        expert_bytes * (std::min<double>(C.routed, double(tokens) * C.top_k) + C.shared);
    int const turns = tokens <= 64 ? 4 : 1, sets = used < 180e6 ? std::max(turns, 3) : 1;
    std::vector<bench::gpu_batch> batches;
    double touched = 0;
    for (int i = 0; i < std::max(turns, sets); ++i) {
      batches.emplace_back(C, tokens, how, std::uint64_t(i), on_);
      touched += batches.back().touched;
    }
    touched /= double(batches.size());
    bench::task const t = task(name_of(how), "forward", tokens, 1,
                               expert_bytes * (touched + C.shared) + 2 * row_bytes(tokens));

    auto& layer = use(sets);
    fg::device_buffer<number> y(tokens * C.hidden), z(tokens * C.hidden);
    auto const turn = std::int64_t(batches.size());
    std::vector<bench::gpu_entrant> all;
    for (auto const& [name, use] : ways)
      if (s_.by(name))
        all.push_back({name,
                       [&, use = use](std::int64_t i) {
                         layer.on().use = use;
                         layer.use(i);
                         auto const& b = batches[std::size_t(i) % batches.size()];
                         layer.infer({.tokens = tokens}, rows(b.x), rows(y));
                       },
                       turn});
    std::unique_ptr<bench::cublas_loop> loop;
    if (s_.by("cuBLAS")) {
      loop = std::make_unique<bench::cublas_loop>(C, session_.products(), batches, false, on_);
      all.push_back({"cuBLAS loop",
                     [&](std::int64_t i) {
                       layer.use(i);
                       loop->forward(i, layer.pointers(), z.data());
                     },
                     turn});
    }
    if (loop) {
      all.back().run(0);
      for (auto& e : all) {
        if (!e.ours()) continue;
        e.run(0);
        e.differs = compare("y", y.data(), z.data(), tokens, C.hidden);
      }
    }
    add_dense(all, tokens, how, false);
    session_.line(t, all);
  }

  template <fg::format F>
  void format_line(char const* name, std::int64_t tokens,
                   fg::format activations = fg::format::bf16) {
    double const expert = bench::gpu_frozen<C, F>::expert_bytes();
    double const used = expert * (std::min<double>(C.routed, double(tokens) * C.top_k) + C.shared);
    int const turns = tokens <= 64 ? 4 : 1, sets = used < 180e6 ? 5 : 1;
    std::vector<bench::gpu_batch> batches;
    double touched = 0;
    for (int i = 0; i < std::max(turns, sets); ++i) {
      batches.emplace_back(C, tokens, spread::uniform, std::uint64_t(i), on_);
      touched += batches.back().touched;
    }
    touched /= double(batches.size());
    bench::gpu_frozen<C, F> layer(fg::cuda{on_}, sets, use(sets));
    layer.on().activations = activations;
    fg::device_buffer<number> y(tokens * C.hidden);
    session_.line(
        task("", "frozen", tokens, 1, expert * (touched + C.shared) + 2 * row_bytes(tokens)),
        {{std::string("finegrain ") + name,
          [&](std::int64_t i) {
            layer.use(i);
            layer.infer({.tokens = tokens}, rows(batches[std::size_t(i) % batches.size()].x),
                        rows(y));
          },
          std::int64_t(batches.size())}});
  }

  /// Forward in training, and backward, of which the second reads what the first has kept.
  void training_lines(std::int64_t tokens, spread how) {
    using pointers = bench::expert_pointers<number>;
    std::vector<bench::gpu_batch> batches;
    batches.emplace_back(C, tokens, how, 0, on_);
    auto const& b = batches[0];
    double const kept = 4.0 * double(tokens) * C.active() * C.width;  // z, bytes
    double const weights = expert_bytes * (b.touched + C.shared);
    layer_.reset();
    sets_ = 0;
    std::int64_t const before = bench::gpu::free_memory();
    auto& layer = use(1);
    fg::device_buffer<number> y, dy, dx, z, dz, dw;
    for (auto* m : {&y, &dy, &dx, &z, &dz}) *m = fg::device_buffer<number>(tokens * C.hidden);
    bench::gpu::fill_normal(dy.data(), dy.size(), 1, 77, on_);
    std::vector<bench::gpu_entrant> forward, backward;
    layer.reserve_training(tokens);
    memory(layer, tokens, double(before - bench::gpu::free_memory()) - 5 * row_bytes(tokens));
    for (auto const& [name, use] : ways) {
      if (!s_.by(name)) continue;
      forward.push_back({name, [&, use = use](std::int64_t) {
                           layer.on().use = use;
                           layer.forward(rows(b.x), rows(y));
                         }});
      backward.push_back({name, [&, use = use](std::int64_t) {
                            layer.on().use = use;
                            layer.backward(rows(b.x), rows(dy), rows(dx));
                          }});
    }
    std::unique_ptr<bench::cublas_loop> loop;
    pointers theirs{};
    if (s_.by("cuBLAS")) {
      loop = std::make_unique<bench::cublas_loop>(C, session_.products(), batches, true, on_);
      dw = fg::device_buffer<number>(fg::weights_size<fg::mixture<C>>());
      theirs = gradients(dw);
      forward.push_back(
          {"cuBLAS loop", [&](std::int64_t) { loop->forward(0, layer.pointers(), z.data()); }});
      backward.push_back({"cuBLAS loop", [&](std::int64_t) {
                            loop->backward(layer.pointers(), theirs, dy.data(), dz.data());
                          }});
    }
    for (std::size_t i = 0; loop && i + 1 < forward.size(); ++i) {
      for (auto const& e : {forward.back(), backward.back(), forward[i], backward[i]}) e.run(0);
      forward[i].differs = compare("y", y.data(), z.data(), tokens, C.hidden);
      std::string& differs = backward[i].differs;
      differs = compare("dx", dx.data(), dz.data(), tokens, C.hidden, C.routed);
      pointers const ours = gradients(layer.gradients());
      for (std::int64_t const e : {b.experts.front(), b.experts.back()}) {
        std::int64_t const at = e * C.width * C.hidden;
        differs += compare("dgate", ours.gate + at, theirs.gate + at, C.width, C.hidden) +
                   compare("dup", ours.up + at, theirs.up + at, C.width, C.hidden) +
                   compare("ddown", ours.down + at, theirs.down + at, C.hidden, C.width);
      }
    }
    add_dense(forward, tokens, how, false);
    add_dense(backward, tokens, how, true);
    session_.line(
        task(name_of(how), "training forward", tokens, 1, weights + 2 * row_bytes(tokens) + kept),
        forward);
    session_.line(
        task(name_of(how), "backward", tokens, 2,
             weights + expert_bytes * (C.routed + C.shared) + 3 * row_bytes(tokens) + kept),
        backward);
  }

  static constexpr double expert_bytes = 2 * 3.0 * C.hidden * C.width;
  static double row_bytes(std::int64_t tokens) { return 2.0 * double(tokens) * C.hidden; }
  static fg::matrix<number> rows(fg::device_buffer<number> const& b) {
    return {b.data(), b.size() / C.hidden, C.hidden};
  }

  bench::task task(std::string const& how, char const* phase, std::int64_t tokens, double factor,
                   double bytes) const {
    return {name_ + how, phase, tokens,
            factor * 6 * double(tokens) * C.active() * C.hidden * C.width, bytes / 2};
  }
  layer_type& use(int sets) {
    if (sets != sets_) {
      layer_.reset();
      layer_ = std::make_unique<layer_type>(fg::cuda{on_}, sets);
      sets_ = sets;
    }
    return *layer_;
  }
  void add_dense(std::vector<bench::gpu_entrant>& all, std::int64_t tokens, spread how,
                 bool backward) {
    if (!s_.by("dense") || tokens < 512 || how != spread::uniform) return;
    auto const dense =
        std::make_shared<bench::dense_bound>(C, tokens, backward, session_.products());
    all.push_back({"dense products", [this, dense, backward](std::int64_t) {
                     session_.products().fork(on_);
                     if (backward)
                       dense->backward();
                     else
                       dense->forward();
                     session_.products().join(on_);
                   }});
  }

  static bench::expert_pointers<number> gradients(fg::device_buffer<number> const& b) {
    return bench::expert_pointers<number>::template of<C>(
        fg::bind_weights<fg::mixture<C>, number>(b.data()));
  }

  /// What is wrong with the first one, by the second, from a column on; the router's logits are the
  /// first columns of x, and their gradients are the library's own.
  std::string compare(char const* what, number const* ours, number const* theirs, std::int64_t many,
                      std::int64_t cols, std::int64_t from = 0) const {
    std::vector<number> got(std::size_t(many * cols)), expected(got);
    auto const bytes = many * cols * std::int64_t{sizeof(number)};
    fg::device::runtime::copy(got.data(), ours, bytes, on_);
    fg::device::runtime::copy(expected.data(), theirs, bytes, on_);
    double difference = 0, size = 0;
    for (std::int64_t r = 0; r < many; ++r)
      for (std::int64_t i = r * cols + from; i < (r + 1) * cols; ++i) {
        double const a = static_cast<float>(got[std::size_t(i)]);
        double const b = static_cast<float>(expected[std::size_t(i)]);
        difference += (a - b) * (a - b);
        size += b * b;
      }
    double const relative = std::sqrt(difference / size);
    if (relative <= 0.02) return "";
    return std::string(what) + " differs from the cuBLAS loop's by " +
           fg::text::shortest(relative) + ". ";
  }

  void memory(layer_type const& layer, std::int64_t tokens, double taken) {
    using E = fg::mixture<C>;
    constexpr double mib = 1 << 20;
    fg::extent const e = layer.extent_of(tokens, true);
    auto const saved = double(fg::saved_bytes<fg::cuda, E>(e));
    auto const workspace = double(layer_type::workspace_bytes(e));
    double const weights = 2.0 * double(fg::weights_size<E>());
    std::printf(
        "%s, training, T=%lld: saved %.1f MiB, workspace %.1f MiB (both constexpr), weights "
        "%.1f MiB, gradients the same; the device gave %.1f MiB\n",
        name_.c_str(), static_cast<long long>(tokens), saved / mib, workspace / mib, weights / mib,
        taken / mib);
    session_.write(fg::record()
                       .set("bench", "cuda")
                       .set("config", name_)
                       .set("phase", "memory")
                       .set("tokens", double(tokens))
                       .set("saved_bytes", saved)
                       .set("workspace_bytes", workspace)
                       .set("weight_bytes", weights)
                       .set("device_bytes", taken));
  }

  std::string name_;
  settings const& s_;
  bench::gpu_session& session_;
  CUstream_st* on_;
  std::unique_ptr<layer_type> layer_;
  int sets_ = 0;
};

void measure(settings const& s, bench::gpu_session& session, CUstream_st* on) {
  auto const one = [&]<fg::config C>(char const* name, tokens_list const& forward,
                                     tokens_list const& training) {
    subject<C> layer(name, s, session, on);
    for (std::int64_t const tokens : forward) layer.forward(tokens);
    for (std::int64_t const tokens : training) layer.training(tokens);
  };
  if (s.wants("forward"))
    one.operator()<bench::cuda_16b>("16B", s.sizes({1, 8, 64, 512, 4096, 32768}), {});
  if (s.wants("backward")) one.operator()<bench::cuda_16b>("16B", {}, s.sizes({4096, 32768}));
  if (s.wants("skew")) {
    subject<bench::cuda_16b> layer("16B", s, session, on);
    for (auto const how : {spread::zipf, spread::quarter, spread::one, spread::same})
      for (std::int64_t const tokens : s.sizes({64, 4096})) layer.forward(tokens, how);
    for (auto const how : {spread::zipf, spread::quarter, spread::one, spread::same})
      layer.training(4096, how);
  }
  if (s.wants("sonic")) {
    tokens_list const sizes = s.sizes({32768});
    one.operator()<bench::sonic_1024>("sonic 1024", sizes, sizes);
    one.operator()<bench::sonic_2048>("sonic 2048", sizes, sizes);
    one.operator()<bench::sonic_256>("sonic 256", sizes, sizes);
  }
  if (s.wants("v3")) one.operator()<bench::v3_like>("V3", s.sizes({512, 4096}), {});
  if (s.wants("formats")) {
    subject<bench::cuda_16b> layer("16B", s, session, on);
    for (std::int64_t const tokens : s.sizes({1, 8, 64, 512, 4096, 32768})) {
      layer.forward(tokens);
      layer.formats(tokens);
    }
    subject<bench::v3_like> large("V3", s, session, on);
    for (std::int64_t const tokens : s.sizes({1, 8, 64, 1024})) {
      large.forward(tokens);
      large.formats(tokens);
    }
  }
  if (s.wants("e128")) one.operator()<bench::e128>("E128", s.sizes({1, 64, 512, 1024, 4096}), {});
  if (s.wants("grain")) {
    tokens_list const sizes = s.sizes({32768});
    one.operator()<bench::grain>("grain 1", sizes, {});
    one.operator()<bench::grain.segmented(2)>("grain 2", sizes, {});
    one.operator()<bench::grain.segmented(4)>("grain 4", sizes, {});
    one.operator()<bench::grain.segmented(8)>("grain 8", sizes, {});
    one.operator()<bench::grain.segmented(16)>("grain 16", sizes, {});
  }
}

std::string draw(std::vector<bench::figure> const& figures) {
  std::vector<bench::figure> shown;
  std::set<std::int64_t> sizes;
  for (auto const& f : figures)
    if (f.task.config == "16B" && f.task.phase == "forward" &&
        f.by.find("no graph") == std::string::npos) {
      shown.push_back(f);
      sizes.insert(f.task.tokens);
    }
  if (sizes.size() < 2) return "";
  bench::layer const layer{.name = "16B", .c = bench::cuda_16b, .w = {}};
  bench::picture::drawing d(bench::roofline_panel::width, bench::roofline_panel::height);
  bench::roofline_panel(d, layer, shown, {0, 0}).draw("16B, bf16, forward");
  return d.svg();
}

/// Rows of the record for the paths that the 16B's passes take (cuda/experts.hpp).
void record(settings const& s, bench::gpu_session const& session) {
  std::string few, many, portable, training;
  bool const hopper = session.facts().capability == 90;
  for (auto const& f : session.figures()) {
    if (!f.ours || f.task.config != "16B") continue;
    bool const all = f.by == "finegrain", forward = f.task.phase == "forward";
    int const tile = fg::device::tile_rows<fg::bf16>(bench::cuda_16b, {f.task.tokens, 1, !forward});
    std::string& to = !all || !hopper ? portable : tile < 128 ? few : forward ? many : training;
    to += (to.empty() ? "16B " : "; ") + f.task.phase + " T=" + std::to_string(f.task.tokens) +
          ": " + fg::text::fixed(1e6 * f.median, 0) + " us, " +
          fg::text::fixed(100 * f.fraction, 0) + " % of " + bench::gpu_session::limit_of(f) +
          (f.clean ? "" : ", WRONG");
  }
  bench::hardware_record rows(s.record);
  for (auto const& [path, result] :
       {std::pair("portable", portable), std::pair("hopper forward", many),
        std::pair("few tokens", few), std::pair("hopper backward", training)})
    if (!result.empty()) rows.set(path, session.facts(), s.commit, result);
  rows.save();
}

}  // namespace

int main(int argc, char** argv) try {
  settings const s = read_settings(argc, argv);
  if (!s.path.empty()) {
    bench::hardware_record rows(s.record.empty() ? "docs/hardware.md" : s.record);
    rows.set(s.path, bench::gpu::describe(), s.commit, s.result);
    rows.save();
    return 0;
  }
  if (fg::device::runtime::devices() == 0) throw fg::cuda_error("there is no GPU");
  if (auto const folder = std::filesystem::path(s.out).parent_path(); !folder.empty())
    std::filesystem::create_directories(folder);
  bench::gpu::stream const on;
  bench::gpu_session session(on.get(), s.out + ".jsonl", s.seconds, s.peers);
  measure(s, session, on.get());
  std::ofstream(s.out + ".md") << session.markdown();
  if (std::string const drawn = draw(session.figures()); !drawn.empty())
    std::ofstream(s.out + ".svg") << drawn;
  if (!s.record.empty()) record(s, session);
  std::printf("written: %s.jsonl, %s.md\n", s.out.c_str(), s.out.c_str());
} catch (std::exception const& e) {
  std::fprintf(stderr, "bench cuda: %s\n", e.what());
  return 1;
}
