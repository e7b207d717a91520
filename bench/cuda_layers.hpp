// The layers that bench cuda measures, and those of the models that bench cuda_step trains. The
// former's routers are the plain ones, so that an input can say who goes where; what a router's kind
// costs is not measured here.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/config/ladder.hpp>
#include <finegrain/config/presets.hpp>

namespace bench {

namespace fg = finegrain;

inline constexpr fg::config cuda_16b = fg::presets::deepseek_moe_16b.moe;
/// The shapes of SonicMoE's published figures on the H100.
inline constexpr fg::config sonic_1024{.hidden = 4096, .width = 1024, .routed = 64, .top_k = 4};
inline constexpr fg::config sonic_2048{.hidden = 4096, .width = 2048, .routed = 64, .top_k = 4};
inline constexpr fg::config sonic_256{.hidden = 4096, .width = 256, .routed = 256, .top_k = 16};
inline constexpr fg::config v3_like{
    .hidden = 7168, .width = 2048, .routed = 256, .top_k = 8, .shared = 1};
/// The shape of vLLM's published table.
inline constexpr fg::config e128{.hidden = 2816, .width = 704, .routed = 128, .top_k = 8};
/// Segmented by m it has the parameters and the arithmetic of m = 1; m = 4 has the 16B's width.
inline constexpr fg::config grain = fg::conventional<16, 2>({.hidden = 2048, .width = 5632});

/// Of models with some 100 M active parameters. Of DeepSeekMoE's 2 + 6 of 64 experts an eighth is
/// active, and AdamW moves the others too, which a step of 4096 tokens feels; of 32 it is a quarter.
inline constexpr fg::config eighth{
    .hidden = 1024, .width = 512, .routed = 64, .top_k = 6, .shared = 2, .bias = true};
inline constexpr fg::config quarter{
    .hidden = 1024, .width = 512, .routed = 32, .top_k = 6, .shared = 2, .bias = true};

using measured = fg::ladder<cuda_16b, sonic_1024, sonic_2048, sonic_256, v3_like, e128, grain,
                            grain.segmented(2), grain.segmented(4), grain.segmented(8),
                            grain.segmented(16), eighth, quarter>;

}  // namespace bench
