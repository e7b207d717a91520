// A whole decoder on the device: values, gradients, training, generation, graphs.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <finegrain/finegrain.hpp>
#include <functional>

#include "../catch.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"
#include "graph.hpp"

using namespace under_test;

namespace {

using model = fg::network<tiny::decoder, fg::cuda>;
using fg::bf16, fg::fp16;

/// How far off a decoder may be: values and gradients, |a - b| / |a|; what its cache makes of a token;
/// and its loss after training, of the host's.
struct tolerance {
  double y, dw, cached, trained;
};
template <class T>
constexpr tolerance near{0.03, 0.08, 0.02, 0.15};
template <>
constexpr tolerance near<fp16>{0.006, 0.015, 0.004, 0.1};
template <>
constexpr tolerance near<float>{2e-5, 2e-4, 1e-5, 0.02};

/// A file that is gone afterwards.
struct temporary {
  std::filesystem::path path = std::filesystem::temp_directory_path() / "finegrain_device_model";
  ~temporary() { std::filesystem::remove(path); }
};

/// Values and gradients of so many tokens, in two sequences.
template <class E, class T>
void check_decoder(std::initializer_list<std::size_t> sizes) {
  fg::network<E, fg::basic_cuda<T>> net({.deviation = 0.2});
  fg::network<E, fg::basic_reference<double>> exact;
  std::vector<T> const w = download(net.parameters());
  for (std::size_t i = 0; i < w.size(); ++i) exact.parameters()[i] = static_cast<float>(w[i]);
  for (std::size_t n : sizes) {
    tiny::text const text(n);
    std::vector<std::int64_t> const starts{0, static_cast<std::int64_t>(n / 2),
                                           static_cast<std::int64_t>(n)};
    fg::batch const b{
        .tokens = static_cast<std::int64_t>(n), .ids = text.inputs(), .starts = starts};
    fg::device_buffer<T> y(b.tokens * 32);
    net.infer(b, {}, {y.data(), b.tokens, 32});
    std::vector<double> wide(n * 32);
    exact.infer(b, {}, {wide.data(), b.tokens, 32});
    INFO(n);
    CHECK(off(wide, as_numbers(download(y))) < near<T>.y);

    net.forward(b, {}, {y.data(), b.tokens, 32});
    exact.forward(b, {}, {wide.data(), b.tokens, 32});
    CHECK(off(wide, as_numbers(download(y))) < near<T>.y);
    numbers const dy = rounded<T>(random_numbers(b.tokens * 32, n));
    auto const on_device = upload(as<T>(dy));
    std::vector<double> const wide_dy(dy.begin(), dy.end());
    net.backward({on_device.data(), b.tokens, 32});
    exact.backward({wide_dy.data(), b.tokens, 32});
    numbers const got = as_numbers(download(net.gradient()));
    std::vector<double> const all(exact.gradient().begin(), exact.gradient().end());
    for (auto const& entry : net.entries()) {
      if (entry.role == fg::role::selection_bias) continue;
      INFO(entry.name);
      CHECK(off(part(all, entry), part(got, entry)) < near<T>.dw);
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a decoder's loss and gradients on the device are the specification's", "", bf16,
                   fp16, float) {
  NEED_GPU();
  check_decoder<tiny::decoder, TestType>({1, 5, 70, 200});
}

TEMPLATE_TEST_CASE("those of one whose head has the embedding's table too", "", bf16, fp16, float) {
  NEED_GPU();
  check_decoder<tiny::tied_decoder, TestType>({1, 70});
}

TEMPLATE_TEST_CASE("those of one with constants as Granite's too", "", bf16, fp16, float) {
  NEED_GPU();
  check_decoder<tiny::multiplied_decoder, TestType>({1, 30});
}

TEST_CASE("a tied decoder's steps on the device are the host's") {
  NEED_GPU();
  tiny::text const text(64);
  fg::network<tiny::tied_decoder, fg::basic_cuda<float>> net({.deviation = 0.1});
  fg::network<tiny::tied_decoder, fg::cpu> host({.deviation = 0.1});
  fg::trainer train{net, fg::adamw{.lr = 3e-3}};
  fg::trainer plain{host, fg::adamw{.lr = 3e-3}};
  for (int step = 0; step < 4; ++step) {
    auto const right = plain.step(text.inputs(), text.targets());
    auto const got = train.step(text.inputs(), text.targets());
    CHECK(got.loss == Approx(right.loss).epsilon(1e-4));
    CHECK(got.gradient_norm == Approx(right.gradient_norm).epsilon(1e-3));
  }
}

TEST_CASE("a frozen tied decoder has its table in codes and as rows, or once as it was") {
  NEED_GPU();
  fg::network<tiny::tied_decoder, fg::cuda> net({.deviation = 0.2});
  tiny::text const text(20);
  fg::device_buffer<bf16> y(20 * 32);
  auto const outputs = [&](auto&& of) {
    of.infer({.tokens = 20, .ids = text.inputs()}, {}, {y.data(), 20, 32});
    return as_numbers(download(y));
  };
  numbers const right = outputs(net);
  auto as_it_was = fg::quantize<fg::format::bf16>(net);
  CHECK(same(right, outputs(as_it_was)));
  auto const& stored = as_it_was.weights();
  CHECK(stored.b.weight.data == stored.a.a.table.data);
  auto codes = fg::quantize<fg::format::int8>(net);
  CHECK(off({right.begin(), right.end()}, outputs(codes)) < 0.1);
}

TEMPLATE_TEST_CASE("training on the device lowers the loss as on the host, and goes on from a file",
                   "[hardware]", bf16, fp16, float) {
  NEED_GPU();
  using T = TestType;
  using X = fg::basic_cuda<T>;
  tiny::text const text(64);
  fg::training how{.routing = {.balance = {.expert = 0.01}}, .bias = {.speed = 0.001}};
  fg::network<tiny::decoder, X> net({.deviation = 0.1});
  fg::network<tiny::decoder, fg::cpu> host({.deviation = 0.1});
  fg::trainer plain{host, fg::adamw{.lr = 3e-3}, how};
  how.loss_scale = std::is_same_v<T, fp16> ? 1024 : 1;
  fg::trainer train{net, fg::adamw{.lr = 3e-3}, how};
  double first = 0, last = 0, host_last = 0;
  for (int step = 0; step < 60; ++step) {
    last = train.step(text.inputs(), text.targets()).loss;
    host_last = plain.step(text.inputs(), text.targets()).loss;
    if (step == 0) first = last;
  }
  CHECK(first == Approx(std::log(32.0)).epsilon(0.1));
  CHECK(last < 0.5 * first);
  CHECK(last == Approx(host_last).epsilon(near<T>.trained));
  CHECK(train.evaluate(text.inputs(), text.targets()) < last * 1.05);

  temporary const file;
  train.save(file.path);
  auto const next = train.step(text.inputs(), text.targets());
  fg::network<tiny::decoder, X> other;
  fg::trainer again{other, fg::adamw{.lr = 3e-3}, how};
  again.load(file.path);
  CHECK(again.steps() == 60);
  auto const same_next = again.step(text.inputs(), text.targets());
  CHECK(same_next.loss == next.loss);
  CHECK(same_next.gradient_norm == next.gradient_norm);
  plain.load(file.path);  // a checkpoint is any executor's
  CHECK(plain.evaluate(text.inputs(), text.targets()) == Approx(same_next.loss).epsilon(0.02));
}

TEMPLATE_TEST_CASE("tokens one at a time, with a cache, are the same as all at once", "", bf16,
                   fp16, float) {
  NEED_GPU();
  using T = TestType;
  fg::network<tiny::decoder, fg::basic_cuda<T>> net({.deviation = 0.2});
  tiny::text const text(40);
  fg::device_buffer<T> all(40 * 32), one(32);
  net.infer({.tokens = 40, .ids = text.inputs()}, {}, {all.data(), 40, 32});
  numbers const y = as_numbers(download(all));
  auto cache = net.make_cache(40);
  for (std::int64_t t = 0; t < 40; ++t) {
    net.infer({.tokens = 1, .ids = text.inputs().subspan(static_cast<std::size_t>(t), 1)}, {},
              {one.data(), 1, 32}, &cache);
    numbers const expected = rows(y, 32, t, 1);
    CHECK(off({expected.begin(), expected.end()}, as_numbers(download(one))) < near<T>.cached);
  }
}

TEST_CASE("networks of two executors share weights in the caller's memory") {
  NEED_GPU();
  model own({.deviation = 0.2});
  auto const count = std::int64_t(own.parameters().size());
  fg::device_buffer<bf16> memory(count);
  fg::place<fg::cuda>::copy(own.on(), own.parameters().data(), count, memory.data());
  std::span<bf16> const weights(memory.data(), std::size_t(count));
  model one(weights), two(weights);
  CHECK(one.parameters().data() == memory.data());
  tiny::text const text(40);
  fg::device_buffer<bf16> right(40 * 32), y(40 * 32);
  own({text.inputs()}, {right.data(), 40, 32});
  for (model* net : {&one, &two}) {
    (*net)({text.inputs()}, {y.data(), 40, 32});
    CHECK(as_numbers(download(y)) == as_numbers(download(right)));
  }
  CHECK_THROWS_WITH(model(weights.subspan(1)), ContainsSubstring("the network has"));
  fg::device_buffer<bf16> longer(count + 1);
  CHECK_THROWS_WITH(model(std::span<bf16>(longer.data() + 1, std::size_t(count))),
                    "weights must start on a border of 64 bytes");
}

TEMPLATE_TEST_CASE("wanted rows are those of a pass that makes all", "", bf16, fp16, float) {
  NEED_GPU();
  using T = TestType;
  fg::network<tiny::decoder, fg::basic_cuda<T>> net({.deviation = 0.2});
  tiny::text const text(40);
  std::vector<std::int64_t> const wanted{0, 3, 4, 39};
  fg::device_buffer<T> all(40 * 32), some(4 * 32);
  net.infer({.tokens = 40, .ids = text.inputs()}, {}, {all.data(), 40, 32});
  net.infer({.tokens = 40, .ids = text.inputs(), .wanted = wanted}, {}, {some.data(), 4, 32});
  numbers const y = as_numbers(download(all)), found = as_numbers(download(some));
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    numbers const expected = rows(y, 32, wanted[i], 1);
    CHECK(off({expected.begin(), expected.end()}, rows(found, 32, std::int64_t(i), 1)) <
          near<T>.cached);
  }

  auto const listed = upload(wanted);
  fg::batch const b{.tokens = 40, .ids = text.inputs(), .wanted = listed};
  CHECK_THROWS_WITH(net.infer(b, {}, {some.data(), 4, 32}),
                    "the host must be able to read which rows are wanted");
}

TEST_CASE("prompts continued together become what each becomes alone") {
  NEED_GPU();
  fg::network<tiny::decoder, fg::basic_cuda<float>> const net({.deviation = 0.4, .seed = 2});
  tiny::text const text(100);
  std::vector<fg::id_list> const prompts{text.inputs().subspan(0, 5), text.inputs().subspan(3, 70),
                                         text.inputs().subspan(7, 1)};
  std::vector<std::int32_t> made[3], alone;
  fg::generate(net, prompts, 6, {}, [&](std::int64_t i, std::int32_t id) {
    made[i].push_back(id);
    return i != 0 || made[0].size() < 3;
  });
  for (std::size_t i = 0; i < 3; ++i) {
    alone.clear();
    fg::generate(net, prompts[i], i == 0 ? 3 : 6, {},
                 [&](std::int32_t id) { alone.push_back(id); });
    CHECK(made[i] == alone);
  }
}

TEST_CASE("a sequence that is copied goes on as it would have where it was") {
  NEED_GPU();
  model net({.deviation = 0.2});
  tiny::text const text(30);
  std::vector<std::int64_t> const first{0, 20, 20, 25}, next{0, 3, 6, 6};
  std::vector<std::int32_t> ids(text.inputs().begin() + 20, text.inputs().begin() + 23);
  ids.insert(ids.end(), ids.begin(), ids.end());
  auto cache = net.make_cache(30, 3);
  fg::device_buffer<bf16> y(25 * 32);
  net.infer({.tokens = 25, .ids = text.inputs().first(25), .starts = first}, {}, {y.data(), 25, 32},
            &cache);
  cache.copy(0, 1);
  cache.copy(0, 2, 7);  // and once more, in order
  cache.copy(2, 0, 0);
  cache.copy(1, 0);
  CHECK(cache.lengths == std::vector<std::int64_t>{20, 20, 7});
  net.infer({.tokens = 6, .ids = ids, .starts = next}, {}, {y.data(), 6, 32}, &cache);
  numbers const made = as_numbers(download(y));
  CHECK(rows(made, 32, 0, 3) == rows(made, 32, 3, 3));
}

TEST_CASE("with a cache of several sequences, starts that only the device can read are refused") {
  NEED_GPU();
  model net;
  auto cache = net.make_cache(4, 2);
  std::vector<std::int32_t> const two{1, 2};
  auto const starts = upload(std::vector<std::int64_t>{0, 1, 2});
  fg::device_buffer<bf16> y(2 * 32);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 2, .ids = two, .starts = starts}, {}, {y.data(), 2, 32}, &cache),
      "with a cache of several sequences, the host must be able to read starts");
}

TEST_CASE("sequences that are empty and more than the tokens are refused in a sentence") {
  NEED_GPU();
  model net;
  std::vector<std::int32_t> const ids{1, 2};
  std::vector<std::int64_t> starts(60, 2), few{0, 0, 0, 1, 1, 2, 2, 2};
  starts[0] = 0;
  fg::device_buffer<bf16> y(2 * 32);
  fg::matrix<bf16> const out(y.data(), 2, 32);
  CHECK_THROWS_WITH(
      net.infer({.tokens = 2, .ids = ids, .starts = starts}, {}, out),
      "on cuda a batch of 2 tokens cannot have 59 sequences: leave out those that are "
      "empty");
  CHECK_NOTHROW(net.infer({.tokens = 2, .ids = ids, .starts = few}, {}, out));
  auto cache = net.make_cache(4, 59);  // has room for these lists
  CHECK_NOTHROW(net.infer({.tokens = 2, .ids = ids, .starts = starts}, {}, out, &cache));
}

TEST_CASE("a pass whose y has no rows fills the cache as one that makes all does") {
  NEED_GPU();
  model net({.deviation = 0.2});
  tiny::text const text(30);
  std::vector<std::int64_t> const starts{0, 12, 29}, next{0, 0, 1};
  std::vector<bf16> last[2];
  for (std::int64_t const rows : {0, 29}) {
    auto cache = net.make_cache(20, 2);
    fg::device_buffer<bf16> y(29 * 32);
    net.infer({.tokens = 29, .ids = text.inputs().first(29), .starts = starts}, {},
              {y.data(), rows, 32}, &cache);
    CHECK(cache.lengths == std::vector<std::int64_t>{12, 17});
    fg::device_buffer<bf16> one(32);
    net.infer({.tokens = 1, .ids = text.inputs().last(1), .starts = next}, {}, {one.data(), 1, 32},
              &cache);
    last[rows > 0] = download(one);
  }
  CHECK(same_bits(last[0], last[1]));
}

namespace {

/// A pass of three tokens, both ways, whose rows begin so many numbers behind a border and apart.
template <fg::Expr E>
void pass_askew(std::int64_t behind, std::int64_t apart) {
  constexpr bool reads_ids = fg::in_width<E>() == fg::ids;
  fg::network<E, fg::cuda> net;
  std::vector<std::int32_t> const ids{1, 2, 0};
  fg::batch const b{.tokens = 3, .ids = ids};
  fg::device_buffer<bf16> const numbers(4 * 1024);
  fg::place<fg::cuda>::clear(net.on(), numbers);
  auto const rows = [&](std::int64_t n, bool wanted = true) {
    return wanted ? fg::matrix<bf16>(numbers.data() + 1024 * n + behind, 3, 64, apart)
                  : fg::matrix<bf16>();
  };
  auto const x = rows(0, !reads_ids);
  CHECK_THROWS_WITH(net.infer(b, x, rows(1)), ContainsSubstring("borders of 16 bytes"));
  CHECK_THROWS_WITH(net.forward(b, x, rows(1)), ContainsSubstring("borders of 16 bytes"));
  fg::device_buffer<bf16> const dense(2 * 1024);
  fg::place<fg::cuda>::clear(net.on(), dense);
  auto const in = fg::matrix<bf16>(dense.data(), reads_ids ? 0 : 3, reads_ids ? 0 : 64);
  net.forward(b, in, {dense.data() + 1024, 3, 64});
  CHECK_THROWS_WITH(net.backward(rows(2), rows(3, !reads_ids)),
                    ContainsSubstring("borders of 16 bytes"));
}

}  // namespace

TEST_CASE("rows that begin where kernels cannot read them are refused") {
  NEED_GPU();
  constexpr auto two = fg::blend(fg::linear<64, 64>{}, fg::linear<64, 64>{});
  constexpr auto block = fg::residual(fg::rmsnorm<64>{} | fg::attention<64, 2, 2, 32>{});
  auto const refused = [](auto stage) {
    pass_askew<std::remove_const_t<decltype(stage)>>(1, 64);
    pass_askew<std::remove_const_t<decltype(stage)>>(0, 68);
  };
  refused(fg::rmsnorm<64>{});
  refused(fg::embedding<5, 64>{});
  refused(two);
  refused(block);
}

TEST_CASE("token ids of the host's that no row of the table has are refused") {
  NEED_GPU();
  model net;
  auto cache = net.make_cache(4, 2);
  std::vector<std::int32_t> const ids{1, 32};
  std::vector<std::int64_t> const starts{0, 1, 2};
  fg::device_buffer<bf16> y(2 * 32);
  fg::matrix<bf16> const out(y.data(), 2, 32);
  char const* const unknown = "token 1 has the id 32; the embedding's table has 32 rows";
  CHECK_THROWS_WITH(net.infer({.tokens = 2, .ids = ids, .starts = starts}, {}, out, &cache),
                    unknown);
  CHECK(cache.lengths == std::vector<std::int64_t>{0, 0});
  CHECK_THROWS_WITH(net.forward({.tokens = 2, .ids = ids}, {}, out), unknown);
  CHECK_THROWS_WITH(fg::generate(net, ids, 3, {}, [](std::int32_t) {}), unknown);
  auto const there = upload(ids);
  net.infer({.tokens = 2, .ids = there}, {}, out);
  CHECK(std::isnan(static_cast<float>(download(y).back())));
}

TEST_CASE("a captured pass is replayed with other tokens and other routings") {
  NEED_GPU();
  constexpr fg::config c{.hidden = 128, .width = 64, .routed = 16, .top_k = 4, .shared = 1};
  using E = fg::mixture<c>;
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreate(&stream) == cudaSuccess);
  {
    fg::network<E, fg::cuda> net({.deviation = 0.1}, fg::cuda(stream));
    for (std::int64_t T : on_device::sizes_here({1, 24, 700})) {
      fg::device_buffer<bf16> x(T * 128), y(T * 128), dx(T * 128);
      auto const set = [&](std::uint64_t seed) {
        auto const fresh = as_bf16(random_numbers(T * 128, seed));
        fg::device::runtime::copy(x.data(), fresh.data(), x.bytes(), stream);
      };
      fg::matrix<bf16> const mx{x.data(), T, 128}, my{y.data(), T, 128}, mdx{dx.data(), T, 128};
      auto const work = [&] {
        net.infer({.tokens = T}, mx, my);
        net.forward({.tokens = T}, mx, my);
        net.backward(my, mdx);
      };
      net.reserve(T, true);
      set(1);
      work();
      graph const captured(stream, work);
      for (std::uint64_t seed : {2u, 3u, 4u}) {
        set(seed);
        work();
        numbers const plain_y = as_numbers(download(y)), plain_dx = as_numbers(download(dx));
        fg::device::runtime::fill(y.data(), 0xff, y.bytes(), stream);
        fg::device::runtime::fill(dx.data(), 0xff, dx.bytes(), stream);
        captured.replay(stream);
        INFO(T << " tokens, seed " << seed);
        CHECK(same(plain_y, as_numbers(download(y))));
        CHECK(same(plain_dx, as_numbers(download(dx))));
      }
    }
  }
  static_cast<void>(cudaStreamDestroy(stream));
}

TEMPLATE_TEST_CASE("weights on the device are saved and loaded as they are", "", bf16, fp16,
                   float) {
  NEED_GPU();
  using T = TestType;
  fg::network<tiny::decoder, fg::basic_cuda<T>> net({.deviation = 0.05, .seed = 7});
  fg::network<tiny::decoder, fg::basic_cuda<T>> other({.deviation = 0.05, .seed = 8});
  temporary const file;
  fg::save_weights(net, file.path);
  fg::load_weights(other, file.path);
  auto const a = download(net.parameters()), b = download(other.parameters());
  CHECK(same_bits(a, b));
  fg::save_published(net, file.path, {}, fg::deepseek_name, fg::dtype_of<T>);
  fg::network<tiny::decoder, fg::basic_cuda<T>> third({.deviation = 0.05, .seed = 9});
  fg::load_published(third, file.path);
  CHECK(same_bits(a, download(third.parameters())));
  fg::save_weights(net, file.path);
  fg::network<tiny::decoder, fg::cpu> host;
  fg::load_weights(host, file.path);
  auto const& last = host.entries().back();
  CHECK(host.weight(last.name)(0, 0) == float(a[std::size_t(last.offset)]));
}

TEST_CASE(
    "published weights are rounded to the device's numbers, selection biases to sums of two") {
  NEED_GPU();
  fg::network<tiny::decoder, fg::cpu> host({.deviation = 0.05, .seed = 7});
  auto const bias = host.weight("layers.1.mixture.bias");
  for (int i = 0; i < 4; ++i) bias(0, i) = 1 + 0.001f * float(i);
  temporary const file;
  fg::save_weights(host, file.path);
  model net;
  fg::load_published(net, file.path, {}, std::identity());
  auto const got = download(net.parameters());
  for (auto const& entry : net.entries())
    for (std::int64_t i = 0; i < entry.rows * entry.cols; ++i) {
      auto const at = std::size_t(entry.offset + i);
      float const exact = host.parameters()[at];
      if (entry.role == fg::role::selection_bias)
        CHECK(fg::detail::with_rest(got.data() + entry.offset, 4)[i] ==
              Approx(double(exact)).epsilon(1e-5));
      else
        REQUIRE(float(got[at]) == float(bf16(exact)));
    }
}

TEST_CASE("random weights on the device are the host's, rounded") {
  NEED_GPU();
  model const net({.deviation = 0.05, .seed = 7});
  fg::network<tiny::decoder, fg::cpu> const host({.deviation = 0.05, .seed = 7});
  auto const w = download(net.parameters());
  bool equal = true;
  for (std::size_t i = 0; i < w.size(); ++i)
    equal &= static_cast<float>(w[i]) == static_cast<float>(bf16(host.parameters()[i]));
  CHECK(equal);
}

TEST_CASE("memory for a batch is room for a smaller one, as reserve and generate take it to be") {
  constexpr fg::config c{.hidden = 64, .width = 32, .routed = 64, .top_k = 4, .shared = 1},
      more{.hidden = 64, .width = 8, .routed = 256, .top_k = 8};
  using many_heads = decltype(fg::embedding<32, 64>{} | fg::attention<64, 32, 8, 256>{} |
                              fg::mixture<c>{} | fg::head<64, 32>{});
  auto const check = []<class Net>(std::type_identity<Net>) {
    for (bool const training : {false, true})
      for (std::int64_t T = 1; T < 9000; ++T) {
        auto const bytes = [&](std::int64_t n) { return Net::workspace_bytes({n, 1, training}); };
        if (bytes(T) <= bytes(T + 1)) continue;
        CAPTURE(T, training);
        REQUIRE(bytes(T) <= bytes(T + 1));
      }
  };
  check(std::type_identity<fg::network<many_heads, fg::cuda>>());
  check(std::type_identity<fg::network<fg::mixture<more>, fg::cuda>>());
  check(std::type_identity<fg::network<tiny::decoder, fg::cuda>>());
  check(std::type_identity<fg::network<tiny::formed_decoder, fg::cuda>>());
  check(std::type_identity<fg::network<many_heads, fg::cpu>>());
}
