// Decoders on the device: read whole by published names beside the specification, and learning.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/finegrain.hpp>

#include "../folder.hpp"
#include "../tiny.hpp"
#include "device_layer.hpp"

namespace under_test {

/// A model read whole by published names, in f32: at the device's numbers choices of experts agree.
template <fg::architecture A>
void check_model(std::string (*name)(std::string_view) = fg::deepseek_name) {
  using E = fg::decoder<A>;
  fg::network<E, fg::reference> host({.deviation = 0.2, .seed = 3});
  std::vector<fg::tensor_view> tensors;
  std::vector<std::string> names;
  for (auto const& entry : host.entries()) names.push_back(name(entry.name));
  for (std::size_t i = 0; i < names.size(); ++i) {
    auto const& entry = host.entries()[i];
    std::uint64_t place = 0;
    for (double& w :
         std::span(host.parameters())
             .subspan(std::size_t(entry.offset), std::size_t(entry.rows * entry.cols))) {
      if (entry.role == fg::role::gain || entry.role == fg::role::bias)  // else all 1, all 0
        w += 0.2 * fg::random_normal(i, place++);
      w = static_cast<float>(w);
    }
    std::vector<std::int64_t> shape{entry.rows, entry.cols};
    if (entry.role != fg::role::projection) shape = {entry.rows * entry.cols};
    tensors.push_back({names[i], fg::dtype::f64, shape, host.parameters().data() + entry.offset});
  }
  folder const here;
  fg::write_safetensors(here / "model.safetensors", tensors);
  using X = fg::basic_cuda<float>;
  fg::network<E, X> net;
  fg::load_published(net, here.path, "", name);

  tiny::text const text(50);
  std::vector<double> right(50 * 32);
  host(text.inputs(), fg::matrix<double>{right.data(), 50, 32});
  fg::device_buffer<float> logits(50 * 32);
  net.infer({.tokens = 50, .ids = text.inputs()}, {}, {logits.data(), 50, 32});
  CHECK(off(right, download(logits)) < 1e-4);
  net.forward({.tokens = 50, .ids = text.inputs()}, {}, {logits.data(), 50, 32});
  CHECK(off(right, download(logits)) < 1e-4);

  auto const made = [&text](auto const& network) {
    std::vector<std::int32_t> ids;
    fg::generate(network, text.inputs().first(20), 12, {},
                 [&ids](std::int32_t id) { ids.push_back(id); });
    return ids;
  };
  CHECK(made(net) == made(host));
}

/// A decoder of 32 tokens learns a text in bf16 about as the host does.
template <class E>
void check_learning() {
  tiny::text const text(40);
  fg::network<E, fg::cuda> net({.deviation = 0.1});
  fg::network<E, fg::cpu> host({.deviation = 0.1});
  fg::trainer train{net, fg::adamw{.lr = 1e-2f}};
  fg::trainer plain{host, fg::adamw{.lr = 1e-2f}};
  double first = 0, last = 0, host_last = 0;
  for (int step = 0; step < 20; ++step) {
    last = train.step(text.inputs(), text.targets()).loss;
    host_last = plain.step(text.inputs(), text.targets()).loss;
    if (step == 0) first = last;
  }
  CHECK(last < 0.7 * first);
  CHECK(last == Approx(host_last).epsilon(0.2));
}

}  // namespace under_test
