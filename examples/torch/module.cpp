// A layer in a LibTorch model: autograd runs finegrain's backward, torch's optimiser moves its weights.
#include <torch/torch.h>

#include <cstdio>
#include <finegrain/finegrain.hpp>

namespace fg = finegrain;

// [example]
/// y = E(x) for x (..., tokens, in), f32 on the CPU: what stands before tokens counts sequences. All weights
/// are one parameter, which is the network's own memory; what a call keeps for its backward is a tensor, so
/// a module may be called any number of times. It outlives the graphs that it is in.
template <fg::Expr E>
struct finegrain_module : torch::nn::Module {
  static_assert(fg::network<E, fg::cpu>::in != fg::ids, "an expression over numbers is needed");
  fg::network<E, fg::cpu> net;
  torch::Tensor weights;

  explicit finegrain_module(fg::initialisation const& start) : net(start) {
    auto const all = net.parameters();
    weights = register_parameter(
        "weights", torch::from_blob(all.data(), {static_cast<std::int64_t>(all.size())}));
  }
  torch::Tensor forward(torch::Tensor const& x) { return call::apply(x, weights, this); }

 private:
  static fg::matrix<float> rows(torch::Tensor const& t) {
    return {t.data_ptr<float>(), t.numel() / t.size(-1), t.size(-1)};
  }
  /// Where each sequence of x begins, and the last ends.
  static std::vector<std::int64_t> starts_of(torch::Tensor const& x) {
    std::int64_t const tokens = rows(x).rows, length = x.dim() > 2 ? x.size(-2) : tokens;
    std::vector<std::int64_t> starts{0};
    while (starts.back() < tokens) starts.push_back(starts.back() + length);
    return starts;
  }
  static std::span<std::byte> bytes(torch::Tensor const& t) {
    return {static_cast<std::byte*>(t.data_ptr()), t.nbytes()};
  }

  struct call : torch::autograd::Function<call> {
    static torch::Tensor forward(torch::autograd::AutogradContext* context, torch::Tensor x,
                                 torch::Tensor const& weights, finegrain_module* module) {
      auto const& net = module->net;
      TORCH_CHECK(
          weights.data_ptr() == net.parameters().data(),
          "finegrain_module: its weights are the network's, f32 on the CPU: they stay there");
      x = x.contiguous();
      auto shape = x.sizes().vec();
      shape.back() = net.out;
      torch::Tensor const y = torch::empty(shape);
      auto const starts = starts_of(x);
      fg::batch const batch{.tokens = rows(x).rows, .starts = starts};
      torch::Tensor const kept =
          torch::empty({net.workspace_bytes(net.extent_of(batch.tokens, true))}, torch::kUInt8);
      net.forward(batch, rows(x), rows(y), bytes(kept));
      context->save_for_backward({x, kept, weights});  // which must be the same then
      context->saved_data["module"] = reinterpret_cast<std::int64_t>(module);
      return y;
    }
    static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                   torch::autograd::variable_list const& dy) {
      auto* const module =
          reinterpret_cast<finegrain_module*>(context->saved_data["module"].toInt());
      auto const saved = context->get_saved_variables();
      torch::Tensor const &x = saved[0], &kept = saved[1];
      torch::Tensor const dx = torch::empty_like(x), dweights = torch::zeros_like(module->weights);
      auto const starts = starts_of(x);
      module->net.backward(
          {.tokens = rows(x).rows, .starts = starts}, rows(x), rows(dy[0].contiguous()), rows(dx),
          {dweights.data_ptr<float>(), std::size_t(dweights.numel())}, bytes(kept));
      return {dx, dweights, torch::Tensor()};
    }
  };
};
// [/example]

constexpr fg::config moe{.hidden = 32, .width = 16, .routed = 8, .top_k = 2, .shared = 1};
using layer = finegrain_module<fg::mixture<moe>>;

/// A language model of torch's modules around it.
struct model : torch::nn::Module {
  torch::nn::Embedding embedding{
      register_module("embedding", torch::nn::Embedding(64, moe.hidden))};
  torch::nn::LayerNorm norm{
      register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({moe.hidden})))};
  std::shared_ptr<layer> mixture{
      register_module("mixture", std::make_shared<layer>(fg::initialisation{.deviation = 0.2}))};
  torch::nn::Linear head{register_module("head", torch::nn::Linear(moe.hidden, 64))};

  torch::Tensor forward(torch::Tensor const& ids) {
    auto const x = embedding(ids);
    return head(x + mixture->forward(norm(x)));
  }
};

int main() {
  torch::manual_seed(1);

  // Its gradients, called twice in one graph, against differences.
  layer small(fg::initialisation{.deviation = 0.3});
  auto const x = torch::randn({2, 3, moe.hidden}), by = torch::randn({2, 3, moe.hidden});
  auto const loss_at = [&](torch::Tensor const& at) {
    return (small.forward(at) * by + small.forward(at * 0.5) * by).sum();
  };
  auto const at = x.clone().requires_grad_();
  loss_at(at).backward();
  float const step = 1e-2f;
  auto const towards = torch::randn_like(x) * step;
  double const exact = (at.grad() * towards).sum().item<double>();
  double difference = 0;
  {
    torch::NoGradGuard const guard;
    difference = (loss_at(x + towards) - loss_at(x - towards)).item<double>() / 2;
  }
  std::printf("along one direction dx says %.5f, differences %.5f\n", exact, difference);

  // It learns: each id's successor.
  model net;
  torch::optim::AdamW optimiser(net.parameters(), torch::optim::AdamWOptions(1e-2));
  auto const ids = torch::arange(64), next = (ids * 5 + 3) % 64;
  double first = 0, last = 0;
  for (int i = 0; i < 60; ++i) {
    optimiser.zero_grad();
    auto const loss = torch::nn::functional::cross_entropy(net.forward(ids), next);
    loss.backward();
    optimiser.step();
    (i == 0 ? first : last) = loss.item<double>();
  }
  std::printf("loss %.3f, after 60 steps %.3f\n", first, last);
  return std::abs(exact - difference) < 1e-2 * std::abs(exact) && last < 0.1 * first ? 0 : 1;
}
