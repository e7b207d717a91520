// learner: a network in training, whatever its type, so that what works with it is compiled once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../model/generate.hpp"
#include "../train/trainer.hpp"
#include "corpus.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

struct learner {
  virtual ~learner() = default;
  virtual std::int64_t steps() const = 0;
  virtual step_report step(windows const& w) = 0;
  /// Mean loss in nats, without training, under a request to the routers; log() then tells where
  /// tokens went.
  virtual double evaluate(windows const& w, routing_request const& how = {}) = 0;
  virtual void save(std::string const& path) const = 0;
  virtual void load(std::string const& path) = 0;
  /// Appends so many bytes to a text, having seen its last `context` bytes.
  virtual void write(std::string& text, std::int64_t context, std::int64_t bytes,
                     sampling const& how) const = 0;
  /// The rows of each router, in the order of the forward pass: [layer][expert][hidden].
  virtual std::vector<std::vector<std::vector<double>>> routers() const = 0;

  routing_log const& log() const { return log_; }

 protected:
  routing_log log_;
};

/// A network that reads bytes and makes logits over bytes, and its trainer.
template <class Network>
class learner_of final : public learner {
 public:
  static_assert(Network::in == ids && Network::out == corpus::vocabulary,
                "learner_of: the network must read bytes and make 256 logits");

  learner_of(initialisation start, typename Network::executor on, adamw optimizer,
             training settings)
      : net_(start, std::move(on)), train_(net_, optimizer, settings) {
    log_ = Network::make_log();
  }

  std::int64_t steps() const override { return train_.steps(); }
  step_report step(windows const& w) override { return train_.step(w.batch(), w.y); }
  double evaluate(windows const& w, routing_request const& how = {}) override {
    batch b = w.batch();
    b.routing = how;
    b.log = &log_;
    return train_.evaluate(b, w.y);
  }
  void save(std::string const& path) const override { train_.save(path); }
  void load(std::string const& path) override { train_.load(path); }
  void write(std::string& text, std::int64_t context, std::int64_t bytes,
             sampling const& how) const override {
    std::vector<std::int32_t> seen;
    for (std::size_t at = text.size() - std::min(text.size(), static_cast<std::size_t>(context));
         at < text.size(); ++at)
      seen.push_back(static_cast<unsigned char>(text[at]));
    generate(net_, seen, bytes, how, [&](std::int32_t id) { text += static_cast<char>(id); });
  }
  std::vector<std::vector<std::vector<double>>> routers() const override {
    std::vector<std::vector<std::vector<double>>> all;
    for (weight_entry const& e : net_.entries()) {
      if (!e.name.ends_with(".router")) continue;
      all.emplace_back();
      std::vector<typename place<typename Network::executor>::sum> memory;
      auto const* row = place<typename Network::executor>::seen(
          net_.on(), memory, net_.parameters().data() + e.offset, e.rows * e.cols);
      for (std::int64_t r = 0; r < e.rows; ++r, row += e.cols)
        all.back().emplace_back(row, row + e.cols);
    }
    return all;
  }

 private:
  Network net_;
  trainer<Network> train_;
};

}  // namespace finegrain::inline FINEGRAIN_ABI
