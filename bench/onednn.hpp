// oneDNN as an engine of peers.hpp: weights packed once in the layout that it asks for, in f32 or
// bf16; the gate's product ends with swish and the multiplication by up.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#ifdef FINEGRAIN_ONEDNN
#include <dlfcn.h>

#include <cstring>
#include <map>
#include <oneapi/dnnl/dnnl.hpp>
#include <tuple>
#include <unordered_map>

#include "peers.hpp"

namespace bench {

class onednn_engine {
 public:
  static constexpr char const* name = "oneDNN";
  static constexpr bool lingers = true;
  using type = dnnl::memory::data_type;

  /// Packs the weights. Throws dnnl::error where this processor cannot compute with the type.
  onednn_engine(fg::cpu const& on, std::span<expert const> experts, type number)
      : experts_(experts.begin(), experts.end()),
        number_(number),
        scratch_(std::size_t(on.threads.workers())) {
    for (int i = 0; i < on.threads.workers(); ++i) streams_.emplace_back(engine_);
    threads(on.threads.workers());
    for (expert const& e : experts) {
      const_view const in_order[] = {e.up, e.gate, e.down};
      for (int product : {up, gate, down}) {
        dnnl::memory::desc const packed =
            describe(product, e.gate.rows, e.gate.cols, 16).weights_desc();
        auto const bytes = std::int64_t(packed.get_size());
        if (used_ + bytes > (packed_.empty() ? 0 : packed_.back().bytes())) {
          packed_.emplace_back(std::max(bytes, std::int64_t{256} << 20));
          used_ = 0;
        }
        weights_.emplace_back(packed, engine_, packed_.back().data() + used_);
        used_ += (bytes + 4095) / 4096 * 4096;
        const_view const w = in_order[product];
        dnnl::memory plain({{w.cols, w.rows}, type::f32, tag::ba}, engine_,
                           const_cast<float*>(w.data));
        dnnl::reorder(plain, weights_.back()).execute(streams_[0], plain, weights_.back());
        streams_[0].wait();
      }
    }
  }

  /// How the library names its kernel.
  std::string kernel() const {
    expert const& e = experts_[0];
    return describe(gate, e.gate.rows, e.gate.cols, 16).impl_info_str();
  }

  std::int64_t width(piece const& p) const { return experts_[p.expert].gate.rows; }
  void threads(int n) const {
    if (set_threads_) set_threads_(n);
  }
  /// Makes the products that a schedule needs.
  void prepare(schedule const& s, int n) {
    threads(n);
    for (piece const& p : s.pieces)
      for (int product : {up, gate, down}) {
        expert const& e = experts_[p.expert];
        auto& made = products_[key(product, e.gate.rows, p.rows(), n)];
        if (made) continue;
        auto const d = describe(product, e.gate.rows, e.gate.cols, p.rows());
        if (d.weights_desc() != weights_[3 * p.expert + std::size_t(product)].get_desc())
          throw std::runtime_error("oneDNN asks for different layouts of the same weights");
        made = dnnl::matmul(d);
        auto const bytes = std::int64_t(d.scratchpad_desc().get_size());
        for (auto& scratch : scratch_)
          if (bytes > scratch.bytes()) scratch = large_memory(bytes);
      }
  }

  /// The rows of x, rounded to bf16 if that is the type.
  void load(const_view x, piece const& p, view to) const {
    for (std::int64_t i = 0; i < to.rows; ++i) {
      float const* const from = x.row(p.tokens[std::size_t(i)]);
      if (number_ == type::f32)
        std::memcpy(to.row(i), from, std::size_t(x.cols) * 4);
      else
        round(from, x.cols, reinterpret_cast<std::uint16_t*>(to.data) + i * x.cols);
    }
  }
  void forward(fg::cpu const& on, bool threaded, int worker, piece const& p,
               row_memory::rows const& m) const {
    int const n = threaded ? on.threads.workers() : 1;
    threads(n);  // it is a setting of each thread
    run(up, n, worker, p, m.x.data, m.u.data, nullptr);
    run(gate, n, worker, p, m.x.data, m.h.data, m.u.data);
    run(down, n, worker, p, m.h.data, m.y.data, nullptr);
  }

 private:
  enum : int { up, gate, down };
  using tag = dnnl::memory::format_tag;
  using key = std::tuple<int, std::int64_t, std::int64_t, int>;

  static void round(float const* from, std::int64_t n, std::uint16_t* to) {
    for (std::int64_t i = 0; i < n; ++i) {
      auto const bits = __builtin_bit_cast(std::uint32_t, from[i]);
      to[i] = static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
  }

  /// One product of `rows` rows: y (rows, D) of down is f32, everything else of the type.
  dnnl::matmul::primitive_desc describe(int product, std::int64_t width, std::int64_t hidden,
                                        std::int64_t rows) const {
    std::int64_t const depth = product == down ? width : hidden;
    std::int64_t const columns = product == down ? hidden : width;
    dnnl::memory::desc const from({rows, depth}, number_, tag::ab);
    dnnl::memory::desc const weights({depth, columns}, number_, tag::any);
    dnnl::memory::desc const to({rows, columns}, product == down ? type::f32 : number_, tag::ab);
    dnnl::primitive_attr how;
    how.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    dnnl::post_ops after;
#if DNNL_VERSION_MAJOR >= 3
    if (product == gate) after.append_eltwise(dnnl::algorithm::eltwise_swish, 1, 0);
#else
    if (product == gate) after.append_eltwise(1, dnnl::algorithm::eltwise_swish, 1, 0);
#endif
    if (product == gate) after.append_binary(dnnl::algorithm::binary_mul, to);
    how.set_post_ops(after);
#if DNNL_VERSION_MAJOR >= 3
    return {engine_, from, weights, to, how};
#else
    return {{from, weights, to}, how, engine_};
#endif
  }

  void run(int product, int n, int worker, piece const& p, float* from, float* to,
           float* factor) const {
    std::int64_t const wide = width(p), hidden = experts_[p.expert].gate.cols;
    std::int64_t const depth = product == down ? wide : hidden;
    std::int64_t const columns = product == down ? hidden : wide;
    auto const rows = [&](std::int64_t cols, type t, void* at) {
      return dnnl::memory({{p.rows(), cols}, t, tag::ab}, engine_, at);
    };
    type const result = product == down ? type::f32 : number_;
    auto const w = std::size_t(worker);
    std::unordered_map<int, dnnl::memory> arguments{
        {DNNL_ARG_SRC, rows(depth, number_, from)},
        {DNNL_ARG_WEIGHTS, weights_[3 * p.expert + std::size_t(product)]},
        {DNNL_ARG_DST, rows(columns, result, to)},
        {DNNL_ARG_SCRATCHPAD,
         dnnl::memory({{scratch_[w].bytes()}, type::u8, tag::a}, engine_, scratch_[w].data())}};
    if (factor)
      arguments.insert(
          {DNNL_ARG_ATTR_MULTIPLE_POST_OP(1) | DNNL_ARG_SRC_1, rows(columns, number_, factor)});
    products_.at(key(product, wide, p.rows(), n)).execute(streams_[w], arguments);
    // streams on the processor are in order and done when execute returns
  }

  std::vector<expert> experts_;
  type number_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  std::vector<dnnl::stream> streams_;  // one a worker
  std::vector<large_memory> packed_;
  std::int64_t used_ = 0;              // of the last
  std::vector<dnnl::memory> weights_;  // up, gate, down of each expert
  std::map<key, dnnl::matmul> products_;
  std::vector<large_memory> scratch_;  // one a worker
  // whichever OpenMP the library brought, without linking one
  void (*set_threads_)(int) = reinterpret_cast<void (*)(int)>(::dlsym(RTLD_DEFAULT,
                                                                      "omp_set_num_threads"));
};

}  // namespace bench
#endif
