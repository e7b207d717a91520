// The peers of one layer as contenders of a session.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <optional>

#include "cases.hpp"
#include "onednn.hpp"
#include "peers.hpp"
#include "session.hpp"

namespace bench {

class rivals {
 public:
  /// `wanted` says which (name, dtype) take part. The layer must stay where it is.
  rivals(fg::cpu const& on, layer const& l,
         std::function<bool(std::string const&, dtype const&)> wanted)
      : on_(on), layer_(l), wanted_(std::move(wanted)) {}

  /// Everyone who computes y from x.
  void add_forward(std::vector<contender>& to, inputs const& x, routings const& r, view y) {
    prepare();
    auto const add = [&](auto& engine, dtype const& type) {
      using one = peer<std::decay_t<decltype(engine)>>;
      each(engine, [&](bool outer, std::string name, bool lingers) {
        one const p(on_, outer, engine, memory_[outer], outer ? r.outer : r.inner, layer_.c.hidden);
        auto const run = [&x, y, p](std::int64_t i) { p.forward(i % x.sets(), x[i], y); };
        to.push_back({std::move(name), &type, run, lingers});
      });
    };
    if (eigen_) add(*eigen_, f32);
#ifdef FINEGRAIN_OPENBLAS
    if (openblas_) add(*openblas_, f32);
#endif
#ifdef FINEGRAIN_ONEDNN
    if (onednn_f32_) add(*onednn_f32_, f32);
    if (onednn_bf16_) add(*onednn_bf16_, bf16);
#endif
  }

  /// Everyone who computes dx and the layer's gradients from dy, after a forward pass of x.
  void add_backward(std::vector<contender>& to, const_view x, const_view dy, routings const& r,
                    view dx) {
    experts_ = layer_.experts();  // there are gradients now
    prepare();
    auto const add = [&](auto& engine) {
      using one = peer<std::decay_t<decltype(engine)>>;
      each(engine, [&](bool outer, std::string name, bool lingers) {
        one const p(on_, outer, engine, memory_[outer], outer ? r.outer : r.inner, layer_.c.hidden,
                    true);
        p.forward(0, x, dx);  // what it keeps lies where the other engines keep the same
        auto const run = [dy, dx, p](std::int64_t) { p.backward(0, dy, dx); };
        to.push_back({std::move(name), &f32, run, lingers});
      });
    };
    if (eigen_) add(*eigen_);
#ifdef FINEGRAIN_OPENBLAS
    if (openblas_) add(*openblas_);
#endif
  }

  std::vector<expert> const& experts() const { return experts_; }

 private:
  void each(auto& engine, auto&& f) {
    for (bool const outer : {true, false})
      f(outer, engine.name + std::string(outer ? " outer" : " inner"), !outer && engine.lingers);
  }
  void prepare() {
    if (experts_.empty()) experts_ = layer_.experts();
    if (wanted_("Eigen", f32)) eigen_.emplace(experts_);
#ifdef FINEGRAIN_OPENBLAS
    if (wanted_("OpenBLAS", f32)) openblas_.emplace(experts_);
#endif
#ifdef FINEGRAIN_ONEDNN
    pack(onednn_f32_, f32, dnnl::memory::data_type::f32);
    pack(onednn_bf16_, bf16, dnnl::memory::data_type::bf16);
#endif
  }

  fg::cpu const& on_;
  layer const& layer_;
  std::function<bool(std::string const&, dtype const&)> wanted_;
  std::vector<expert> experts_;
  row_memory memory_[2];  // inner, outer
  std::optional<dense_engine<by_eigen>> eigen_;
#ifdef FINEGRAIN_OPENBLAS
  std::optional<dense_engine<by_openblas>> openblas_;
#endif
#ifdef FINEGRAIN_ONEDNN
  void pack(std::optional<onednn_engine>& engine, dtype const& type, onednn_engine::type as) {
    if (engine || !wanted_("oneDNN", type)) return;
    try {
      engine.emplace(on_, experts_, as);
      std::printf("\noneDNN has packed %s in %s: %s\n", layer_.name.c_str(), type.name,
                  engine->kernel().c_str());
    } catch (dnnl::error const& e) {
      std::printf("\noneDNN does without %s: %s\n", type.name, e.what());
    }
  }
  std::optional<onednn_engine> onednn_f32_, onednn_bf16_;
#endif
};

}  // namespace bench
