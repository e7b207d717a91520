// Experts spread over processes: each holds a share of a layer's experts, and is told who is sent
// where. The processes are a loop here; where it adds up, they would call MPI_Allreduce or NCCL.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <finegrain/finegrain.hpp>
#include <string>
#include <vector>

namespace fg = finegrain;

constexpr int processes = 4;
constexpr fg::config layer{
    .hidden = 64, .width = 32, .routed = 16, .top_k = 4, .renormalise = true};

// [example]
// A share has no router: experts and weights come with the batch, in top_k slots a token.
constexpr fg::config share{.hidden = layer.hidden,
                           .width = layer.width,
                           .routed = layer.routed / processes,
                           .top_k = layer.top_k,
                           .selection = fg::selection::given};

// The part of all tokens' choices (T, K) that a process's experts have.
std::vector<std::int32_t> here(fg::matrix<std::int32_t const> chosen, int process) {
  std::vector<std::int32_t> mine;
  for (std::int64_t t = 0; t < chosen.rows; ++t)
    for (std::int64_t slot = 0; slot < chosen.cols; ++slot) {
      std::int32_t const e = chosen(t, slot);  // below 0: a slot that is not used
      mine.push_back(e / share.routed == process ? e % share.routed : -1);
    }
  return mine;
}
// [/example]

int main() {
  constexpr std::int64_t T = 96, D = layer.hidden, K = layer.top_k;
  std::vector<float> x(T * D), dy(x.size()), y(x.size()), dx(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(fg::random_normal(1, i));
  for (std::size_t i = 0; i < x.size(); ++i) dy[i] = float(fg::random_normal(2, i));
  auto const rows = [&](std::vector<float>& v) { return fg::matrix<float>(v.data(), T, D); };

  // One process with all experts, for its choice of experts and to compare with.
  fg::network<fg::mixture<layer>, fg::cpu> whole({.deviation = 0.2});
  auto log = whole.make_log(T);
  whole.forward({.tokens = T, .log = &log}, rows(x), rows(y));
  whole.backward(rows(dy), rows(dx));
  auto const chosen = log.layers[0].choices();

  std::vector<float> sum(x.size()), part(x.size()), dweights(T * K), dpart(T * K);
  double worst = 0;
  for (int process = 0; process < processes; ++process) {
    fg::network<fg::mixture<share>, fg::cpu> net({.deviation = 0});
    auto const whole_name =
        [&](std::string const& name) {  // experts.1.gate is experts.9.gate there
          auto const end = name.find('.', 8);
          int const e = std::stoi(name.substr(8, end - 8)) + process * share.routed;
          return "experts." + std::to_string(e) + name.substr(end);
        };
    for (auto const& w : net.entries())
      std::copy_n(whole.weight(whole_name(w.name)).data, w.rows * w.cols, net.weight(w.name).data);

    auto const mine = here(chosen.middle_cols(0, K), process);
    fg::given_choice const given{{mine.data(), T, K},
                                 log.layers[0].choice_weights().middle_cols(0, K),
                                 {dpart.data(), T, K}};
    net.forward({.tokens = T, .given = {&given, 1}}, rows(x), rows(part));
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += part[i];
    net.backward(rows(dy), rows(part));  // dpart: the gradients of this process's weights, else 0
    for (std::size_t i = 0; i < dweights.size(); ++i) dweights[i] += dpart[i];
    for (auto const& w : net.entries()) {
      auto const a = net.gradient(w.name), b = whole.gradient(whole_name(w.name));
      for (std::int64_t r = 0; r < a.rows; ++r)
        for (std::int64_t c = 0; c < a.cols; ++c)
          worst = std::max(worst, double(std::abs(a(r, c) - b(r, c))));
    }
  }
  double off = 0, size = 0, norm = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    off = std::max(off, double(std::abs(sum[i] - y[i])));
    size = std::max(size, double(std::abs(y[i])));
  }
  for (float d : dweights) norm += double(d) * double(d);
  std::printf(
      "%d processes of %d experts: outputs %.1e of the largest off, gradients of experts %g; "
      "|d weights| %.3f\n",
      processes, share.routed, off / size, worst, std::sqrt(norm));
  return off < 1e-6 * size && worst == 0 && norm > 0 ? 0 : 1;
}
