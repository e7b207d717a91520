// Attention on the device.
// SPDX-License-Identifier: Apache-2.0
#include <finegrain/base/random.hpp>
#include <finegrain/cuda/attention.hpp>
#include <finegrain/cuda/buffer.hpp>
#include <finegrain/reference/attention.hpp>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "../catch.hpp"
#include "memory.hpp"

namespace {

namespace fg = finegrain;
using fg::bf16, fg::device::runtime;
using on_device::upload, on_device::download, on_device::unwritten;
using numbers = std::vector<double>;
using starts_list = std::vector<std::int64_t>;

/// Numbers that bf16 has.
numbers random_numbers(std::int64_t count, std::uint64_t seed, double size = 1) {
  numbers x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = fg::rounded_to_bf16(size * fg::random_normal(seed, i));
  return x;
}
fg::matrix<double> view(numbers& x, std::int64_t cols) {
  return {x.data(), static_cast<std::int64_t>(x.size()) / cols, cols};
}

template <class S>
using attend = fg::device::attend<S>;

/// How much less than bf16 others may be off.
template <class S>
inline constexpr double part_of_bf16 = 1;
template <>
inline constexpr double part_of_bf16<fg::fp16> = 1.0 / 6;
template <>
inline constexpr double part_of_bf16<float> = 1.0 / 500;

/// A matrix on the device whose rows are further apart than they need be; NaN until written.
template <class S>
struct strided {
  std::int64_t rows, cols, stride;
  fg::device_buffer<S> memory;

  strided(std::int64_t rows, std::int64_t cols, std::int64_t gap = 8)
      : rows(rows), cols(cols), stride(cols + gap), memory(unwritten<S>(rows * stride)) {}
  strided(numbers const& x, std::int64_t cols)
      : strided(static_cast<std::int64_t>(x.size()) / cols, cols) {
    auto all = download(memory);
    for (std::size_t i = 0; i < x.size(); ++i)
      all[i / std::size_t(cols) * std::size_t(stride) + i % std::size_t(cols)] =
          S(static_cast<float>(x[i]));
    memory = upload(all);
  }
  numbers read() const {
    auto const all = download(memory);
    numbers x(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<float>(
          all[i / std::size_t(cols) * std::size_t(stride) + i % std::size_t(cols)]);
    return x;
  }
  fg::matrix<S> view() const { return {memory.data(), rows, cols, stride}; }
};
numbers read(fg::device_buffer<float> const& memory) {
  auto const x = download(memory);
  return {x.begin(), x.end()};
}

double root_mean_square(double const* x, std::size_t count) {
  double sum = 0;
  for (std::size_t i = 0; i < count; ++i) sum += x[i] * x[i];
  return std::sqrt(sum / double(count));
}
/// Root of the mean square of differences, over that of what is expected, or over `least` if that
/// is more: of the worst part of `part` numbers. NaN is infinitely wrong.
double worst_part(numbers const& is, numbers const& expected, std::size_t part, double least) {
  REQUIRE(is.size() == expected.size());
  double worst = 0;
  for (std::size_t i = 0; i < is.size(); i += part) {
    numbers off(part);
    for (std::size_t j = 0; j < part; ++j) off[j] = is[i + j] - expected[i + j];
    double const distance = root_mean_square(off.data(), part) /
                            std::max(least, root_mean_square(expected.data() + i, part));
    if (!(distance <= worst)) worst = std::isnan(distance) ? INFINITY : distance;
  }
  return worst;
}
double distance(numbers const& is, numbers const& expected) {
  return is.empty() ? 0 : worst_part(is, expected, is.size(), 0.1);
}
double worst_row(numbers const& is, numbers const& expected, int cols) {
  double const usual = root_mean_square(expected.data(), expected.size());
  return worst_part(is, expected, std::size_t(cols), std::max(usual, 0.1));
}

/// T tokens in sequences, and all that attention makes of them, on the device.
struct problem {
  fg::heads shape;
  std::int64_t T;
  starts_list starts;
  fg::device_buffer<std::int64_t> starts_memory;
  numbers q, k, v, dmixed;

  problem(fg::heads shape, std::int64_t T, starts_list starts = {}, double size = 1)
      : shape(shape),
        T(T),
        starts(starts),
        starts_memory(upload(starts)),
        q(random_numbers(T * q_width(), 1, size)),
        k(random_numbers(T * kv_width(), 2, size)),
        v(random_numbers(T * kv_width(), 3)),
        dmixed(random_numbers(T * q_width(), 4)) {}
  std::int64_t q_width() const { return shape.query * shape.dim; }
  std::int64_t kv_width() const { return shape.key_value * shape.dim; }
  fg::batch batch() const { return {.tokens = T, .starts = starts}; }
  fg::device::places where() const {
    return {.tokens = T,
            .starts = starts_memory.data(),
            .sequences = starts.empty() ? 1 : std::int64_t(starts.size()) - 1};
  }
};
struct answers {
  numbers mixed, log_weight, dq, dk, dv;
};
answers expected(problem& p) {
  fg::basic_reference<double> const on;
  answers a;
  a.mixed.resize(p.q.size());
  a.log_weight.resize(static_cast<std::size_t>(p.T * p.shape.query));
  attend_forward(on, p.shape, p.batch(), {}, view(p.q, p.q_width()), view(p.k, p.kv_width()),
                 view(p.v, p.kv_width()), view(a.mixed, p.q_width()),
                 view(a.log_weight, p.shape.query));
  a.dq.resize(p.q.size());
  a.dk.resize(p.k.size());
  a.dv.resize(p.k.size());
  attend_backward(on, p.shape, p.batch(), view(p.q, p.q_width()), view(p.k, p.kv_width()),
                  view(p.v, p.kv_width()), view(a.mixed, p.q_width()),
                  view(a.log_weight, p.shape.query), view(p.dmixed, p.q_width()),
                  view(a.dq, p.q_width()), view(a.dk, p.kv_width()), view(a.dv, p.kv_width()));
  return a;
}
template <class S>
answers computed(problem const& p) {
  strided<S> const q(p.q, p.q_width()), k(p.k, p.kv_width()), v(p.v, p.kv_width()),
      dmixed(p.dmixed, p.q_width()), mixed(p.T, p.q_width()), dq(p.T, p.q_width()),
      dk(p.T, p.kv_width()), dv(p.T, p.kv_width());
  auto const log_weight = unwritten<float>(p.T * p.shape.query),
             delta = unwritten<float>(p.T * p.shape.query);
  attend<S>::forward(p.shape, p.where(), q.view(), k.view(), v.view(), mixed.view(),
                     log_weight.data(), nullptr);
  attend<S>::backward(p.shape, p.where(), q.view(), k.view(), v.view(), mixed.view(),
                      log_weight.data(), dmixed.view(), dq.view(), dk.view(), dv.view(),
                      delta.data(), nullptr);
  return {mixed.read(), read(log_weight), dq.read(), dk.read(), dv.read()};
}

template <class S>
void check(problem p) {
  constexpr double part = part_of_bf16<S>;
  answers const a = computed<S>(p), e = expected(p);
  std::string what = "T " + std::to_string(p.T) + ", heads " + std::to_string(p.shape.query) + "/" +
                     std::to_string(p.shape.key_value) + ", dim " + std::to_string(p.shape.dim) +
                     ", starts";
  for (auto s : p.starts) what += " " + std::to_string(s);
  INFO(what);
  CHECK(distance(a.log_weight, e.log_weight) < (sizeof(S) == 2 ? 1e-4 : 2e-6));
  CHECK(distance(a.mixed, e.mixed) < part * 4e-3);
  // Of few tokens the gradients of scores can be small, what is left of p (dp - delta).
  CHECK(distance(a.dq, e.dq) < part * (p.T < 16 ? 4e-2 : 8e-3));
  CHECK(distance(a.dk, e.dk) < part * (p.T < 16 ? 4e-2 : 8e-3));
  CHECK(distance(a.dv, e.dv) < part * 8e-3);
  CHECK(worst_row(a.mixed, e.mixed, p.shape.dim) < part * 3e-2);
  CHECK(worst_row(a.dq, e.dq, p.shape.dim) < part * 5e-2);
  CHECK(worst_row(a.dk, e.dk, p.shape.dim) < part * 5e-2);
  CHECK(worst_row(a.dv, e.dv, p.shape.dim) < part * 5e-2);
}

TEMPLATE_TEST_CASE("attention on the device agrees with the specification, values and gradients",
                   "", bf16, fg::fp16, float) {
  using S = TestType;
  NEED_GPU();
  for (int const dim : {8, 32, 40, 64, 80, 128, 136, 256})
    check<S>({{2, 2, dim}, on_device::emulated() ? 70 : 200});
  for (std::int64_t const T :
       on_device::sizes_here({1, 2, 7, 63, 64, 65, 127, 128, 129, 257, 515})) {
    check<S>({{2, 1, 64}, T});
    check<S>({{2, 1, 128}, T});
    check<S>({{1, 1, 192}, T});
  }
  if (on_device::emulated()) return;
  check<S>({{12, 4, 64}, 300});
  check<S>({{8, 1, 128}, 300});
  check<S>({{3, 3, 128}, 300, {}, 3});
}

TEMPLATE_TEST_CASE("attention on the device keeps sequences apart, empty ones too", "", bf16,
                   fg::fp16, float) {
  using S = TestType;
  NEED_GPU();
  for (int const dim : {32, 64, 80, 128, 256}) {
    check<S>({{2, 1, dim}, 70, {0, 3, 3, 64, 65, 70, 70}});
    if (on_device::emulated()) continue;
    check<S>({{4, 2, dim}, 300, {0, 3, 3, 70, 71, 150, 150, 150, 299, 300, 300}});
    check<S>({{2, 1, dim}, 400, {0, 128, 256, 257, 258, 384, 400}});
    check<S>({{2, 1, dim}, 130, {0, 0, 0, 130, 130}});
  }
  std::int64_t const alone = on_device::emulated() ? 40 : 150;
  starts_list ones;
  for (std::int64_t i = 0; i <= alone; ++i) ones.push_back(i);
  check<S>({{2, 1, 64}, alone, ones});
}

TEMPLATE_TEST_CASE("without queries, attention on the device gives the mean, to the bit", "", bf16,
                   fg::fp16) {
  using S = TestType;
  NEED_GPU();
  for (int const dim : {64, 128, 256}) {
    problem p({2, 2, dim}, 500, {0, 1, 200, 200, 456, 500});
    for (double& x : p.q) x = 0;
    for (std::size_t s = 0; s + 1 < p.starts.size(); ++s)
      std::fill(p.v.begin() + p.starts[s] * p.kv_width(),
                p.v.begin() + p.starts[s + 1] * p.kv_width(), double(s) - 2);
    answers const a = computed<S>(p);
    bool same = true;
    for (std::size_t s = 0; s + 1 < p.starts.size(); ++s)
      for (auto i = p.starts[s] * p.q_width(); i < p.starts[s + 1] * p.q_width(); ++i)
        same = same && a.mixed[std::size_t(i)] == double(s) - 2;
    CHECK(same);
  }
}

TEMPLATE_TEST_CASE("attention on the device does nothing with T = 0", "", bf16, fg::fp16, float) {
  NEED_GPU();
  CHECK_NOTHROW(computed<TestType>(problem({8, 2, 64}, 0)));
}

TEMPLATE_TEST_CASE("attention on the device gives the same bits again", "[hardware]", bf16,
                   fg::fp16, float) {
  using S = TestType;
  NEED_GPU();
  for (int const dim : {64, 128, 256}) {
    problem const p({8, 2, dim}, 2000, {0, 33, 480, 2000});
    answers const a = computed<S>(p);
    for (int again = 0; again < 3; ++again) {
      answers const b = computed<S>(p);
      CHECK(a.mixed == b.mixed);
      CHECK(a.log_weight == b.log_weight);
      CHECK(a.dq == b.dq);
      CHECK(a.dk == b.dk);
      CHECK(a.dv == b.dv);
    }
  }
}

/// The last T tokens of a sequence of `all`, whose keys and values are in a cache with more room.
template <class S>
numbers cached(problem const& p, std::int64_t T, bool decode, bool from_device,
               numbers* log_weight = nullptr) {
  std::int64_t const past = p.T - T;
  numbers const last(p.q.begin() + past * p.q_width(), p.q.end());
  strided<S> const q(last, p.q_width()), mixed(T, p.q_width());
  numbers k = p.k, v = p.v;
  k.resize(k.size() + std::size_t(5 * p.kv_width()), NAN);
  v.resize(v.size() + std::size_t(5 * p.kv_width()), NAN);
  strided<S> const keys(k, p.kv_width()), values(v, p.kv_width());
  auto const past_memory = upload(std::vector<std::int64_t>{past});
  fg::device::places where{.tokens = T};
  if (from_device)
    where.past_on_device = past_memory.data();
  else
    where.past = past;
  auto const log = unwritten<float>(T * p.shape.query),
             partial = unwritten<float>(fg::device::decode_floats(p.shape, T));
  if (decode)
    attend<S>::decode(p.shape, where, q.view(), keys.view(), values.view(), mixed.view(),
                      log.data(), partial.data(), nullptr);
  else
    attend<S>::forward(p.shape, where, q.view(), keys.view(), values.view(), mixed.view(),
                       log.data(), nullptr);
  if (log_weight) *log_weight = read(log);
  return mixed.read();
}

TEMPLATE_TEST_CASE("with a cache, attention on the device gives the bits of the whole sequence", "",
                   bf16, fg::fp16, float) {
  using S = TestType;
  NEED_GPU();
  for (int const dim : {64, 80, 128, 256}) {
    problem const p({4, 2, dim}, 333);
    numbers const whole = computed<S>(p).mixed;
    for (std::int64_t const T : on_device::sizes_here({1, 2, 100, 333})) {
      numbers const tail(whole.end() - T * p.q_width(), whole.end());
      CHECK(cached<S>(p, T, false, false) == tail);
      CHECK(cached<S>(p, T, false, true) == tail);
    }
  }
}

TEMPLATE_TEST_CASE("decode on the device agrees with the specification", "", bf16, fg::fp16,
                   float) {
  using S = TestType;
  NEED_GPU();
  for (fg::heads const shape : {fg::heads{4, 4, 64},
                                {16, 16, 128},
                                {8, 1, 128},
                                {32, 1, 64},
                                {6, 2, 80},
                                {6, 3, 256},
                                {2, 1, 8}})
    for (std::int64_t const all : on_device::sizes_here({1, 15, 17, 65, 1501})) {
      problem p(shape, all);
      for (std::int64_t const T : {1, 3, 20}) {
        if (T > all) continue;
        numbers last(p.q.end() - T * p.q_width(), p.q.end()), mixed(last.size()),
            log_weight(std::size_t(T * shape.query)), log_weight_is;
        std::int64_t const before = all - T;
        attend_forward(fg::basic_reference<double>(), shape, {.tokens = T}, {{&before, 1}, all},
                       view(last, p.q_width()), view(p.k, p.kv_width()), view(p.v, p.kv_width()),
                       view(mixed, p.q_width()), view(log_weight, shape.query));
        INFO("heads " << shape.query << "/" << shape.key_value << ", dim " << shape.dim << ", keys "
                      << all << ", T " << T);
        numbers const is = cached<S>(p, T, true, T == 3, &log_weight_is);
        CHECK(distance(is, mixed) < part_of_bf16<S> * 5e-3);
        CHECK(distance(log_weight_is, log_weight) < (sizeof(S) == 2 ? 1e-4 : 2e-6));
        CHECK(is == cached<S>(p, T, true, true));
      }
    }
}

TEMPLATE_TEST_CASE("decode of several sequences on the device agrees with the specification", "",
                   bf16, float) {
  using S = TestType;
  NEED_GPU();
  std::int64_t const capacity = 200;
  std::vector<std::int64_t> const starts{0, 1, 1, 4, 5, 6}, lengths{0, 77, 140, 16, 199};
  fg::batch const b{.tokens = 6, .starts = starts};
  for (fg::heads const shape : {fg::heads{4, 4, 64}, {32, 1, 64}, {6, 2, 80}, {3, 3, 256}}) {
    // What a sequence has not reached, others' rows too, is not read.
    numbers q = random_numbers(6 * shape.query * shape.dim, 1);
    std::int64_t const width = shape.key_value * shape.dim;
    numbers k = random_numbers(5 * capacity * width, 2),
            v = random_numbers(5 * capacity * width, 3);
    std::vector<std::int64_t> rows;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      std::int64_t at = std::int64_t(s) * capacity + lengths[s];
      for (std::int64_t t = starts[s]; t < starts[s + 1]; ++t) rows.push_back(at++);
      for (numbers* m : {&k, &v})
        std::fill(m->begin() + at * width, m->begin() + std::int64_t(s + 1) * capacity * width,
                  NAN);
    }
    numbers mixed(q.size()), log_weight(std::size_t(6 * shape.query));
    attend_forward(fg::basic_reference<double>(), shape, b, {lengths, capacity},
                   view(q, shape.query * shape.dim), view(k, width), view(v, width),
                   view(mixed, shape.query * shape.dim), view(log_weight, shape.query));
    strided<S> const q_is(q, shape.query * shape.dim), k_is(k, width), v_is(v, width),
        mixed_is(6, shape.query * shape.dim);
    auto const log = unwritten<float>(6 * shape.query),
               partial = unwritten<float>(fg::device::decode_floats(shape, 6));
    auto const rows_is = upload(rows);
    attend<S>::decode_each(shape, {6, rows_is.data(), capacity}, q_is.view(), k_is.view(),
                           v_is.view(), mixed_is.view(), log.data(), partial.data(), nullptr);
    INFO("heads " << shape.query << "/" << shape.key_value << ", dim " << shape.dim);
    CHECK(distance(mixed_is.read(), mixed) < part_of_bf16<S> * 5e-3);
    CHECK(distance(read(log), log_weight) < (sizeof(S) == 2 ? 1e-4 : 2e-6));
  }
}

TEST_CASE("decode's parts fill a GPU, and their memory is known from shapes") {
  using fg::device::decode_parts, fg::device::decode_floats;
  CHECK(decode_parts({16, 16, 128}, 1) == 24);
  CHECK(decode_parts({32, 8, 128}, 1) == 48);
  CHECK(decode_parts({32, 8, 128}, 5) == 24);  // 20 rows of a key-value head are two tiles
  CHECK(decode_parts({64, 1, 128}, 1) == 96);
  CHECK(decode_parts({1, 1, 128}, 1) == fg::device::most_decode_parts);
  CHECK(decode_parts({1024, 1024, 128}, 1) == 1);
  CHECK(decode_parts({16, 16, 128}, 0) == fg::device::most_decode_parts);
  CHECK(decode_floats({16, 16, 128}, 2) == 2 * 16 * 24 * 130);
}

TEMPLATE_TEST_CASE("rotary positions on the device agree with the specification", "", bf16,
                   fg::fp16, float) {
  using S = TestType;
  NEED_GPU();
  fg::basic_reference<double> const on;
  starts_list const starts{0, 8, 8, 70};
  auto const starts_memory = upload(starts);
  std::vector<std::int64_t> positions(70);
  for (std::size_t t = 0; t < 70; ++t) positions[t] = std::int64_t((t * 7919) % 163840);
  auto const positions_memory = upload(positions), past = upload(starts_list{100000});
  for (auto const& [dim, turned] :
       {std::pair{8, 8}, {24, 24}, {64, 64}, {128, 64}, {128, 128}, {24, 8}, {256, 256}})
    for (int const way : {0, 1, 2, 3}) {
      fg::rotary const how{turned, 10000.0, dim, false, {.factor = 4, .mscale_all = 0.5f}, 0};
      fg::batch b{.tokens = 70};
      fg::device::places where{.tokens = 70};
      if (way == 1 || way == 3) {
        b.starts = starts;
        where.starts = starts_memory.data();
        where.sequences = 3;
      }
      if (way == 2) {
        b.positions = positions;
        where.positions = positions_memory.data();
      }
      std::int64_t const from = way == 2 ? 0 : 100000;
      where.past = from;
      if (way == 3) {
        where.past = 77;
        where.past_on_device = past.data();
      }
      numbers q = random_numbers(70 * 3 * dim, 1), k = random_numbers(70 * dim, 2);
      strided<S> const on_q(q, 3 * dim), on_k(k, dim), alone(q, 3 * dim);
      fg::device::rotary<S>::turn(where, how, 1, on_q.view(), on_k.view(), nullptr);
      fg::device::rotary<S>::turn(where, how, 1, alone.view(), {}, nullptr);
      numbers const before = q;
      std::vector<std::int64_t> const lengths(std::size_t(b.sequences()), from);
      rotate(on, b, {lengths}, how, view(q, 3 * dim));
      rotate(on, b, {lengths}, how, view(k, dim));
      INFO("dim " << dim << ", turned " << turned << ", way " << way);
      CHECK(distance(on_q.read(), q) < part_of_bf16<S> * 2.5e-3);
      CHECK(distance(on_k.read(), k) < part_of_bf16<S> * 2.5e-3);
      CHECK(alone.read() == on_q.read());
      fg::rotary back = how;  // and as much smaller as `how` makes larger
      std::swap(back.yarn.mscale, back.yarn.mscale_all);
      fg::device::rotary<S>::turn(where, back, -1, on_q.view(), {}, nullptr);
      CHECK(distance(on_q.read(), before) < part_of_bf16<S> * 4e-3);
    }
}

}  // namespace
