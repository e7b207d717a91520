// A layer as the program sees it, whatever it was compiled for. No type here depends on that.
#pragma once

#include <finegrain/base/isa.hpp>
#include <finegrain/base/matrix.hpp>
#include <finegrain/config/config.hpp>
#include <span>

namespace fg = finegrain;

constexpr fg::config moe{.hidden = 128, .width = 64, .routed = 16, .top_k = 3, .shared = 1};

struct layer {
  virtual ~layer() = default;
  virtual std::span<float> parameters() = 0;
  virtual void operator()(fg::matrix<float const> x, fg::matrix<float> y) = 0;  // (T, D) -> (T, D)
};

extern "C" layer* make_layer();  // layer.cpp has it,
extern "C" fg::isa_variant const
    make_layer_variants[];  // and CMake compiles that for each of these
