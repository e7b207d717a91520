// needs: which code networks of an expression call on the device. It mirrors the plans.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config/ladder.hpp"
#include "../expr/latent_attention.hpp"
#include "../expr/own_router.hpp"
#include "../expr/tied.hpp"
#include "adamw.cuh"
#include "attention.cuh"
#include "attention/latent.cuh"
#include "bias.cuh"
#include "cached_rows.cuh"
#include "combine.cuh"
#include "dispatch.cuh"
#include "elementwise.cuh"
#include "embed.cuh"
#include "experts.cuh"
#include "linear.cuh"
#include "loss.cuh"
#include "memory.cuh"
#include "norm.cuh"
#include "random.cuh"
#include "rotary.cuh"
#include "route_few.cuh"
#include "routing/load.cuh"
#include "routing/rules.cuh"
#include "supported.hpp"

namespace finegrain::inline FINEGRAIN_ABI {
namespace device {

/// Of any network, whatever it computes: memory, sums of stages, losses, training.
template <class T>
using network_code =
    all_code<runtime_code<void>, blas_library_code<void>, linear_code<T>, elementwise_code<T>,
             loss_code<T>, adamw_code<T>, rounding_code<T>, random_code<T>, cached_rows_code<T>>;
template <class T>
using attention_code = all_code<linear_code<T>, rotary_code<T>, attend_code<T>>;
template <class T>
using latent_attention_code =
    all_code<linear_code<T>, linear_each_code<T>, norm_code<T>, rotary_neighbours_code<T>,
             heads_columns_code<T>, latent_attend_code<T>>;
/// A list where it is needed. (To name a list is to compile it: so specialisations and not conditions.)
template <bool Needed, template <class> class List, class T>
struct code_if {};
template <template <class> class List, class T>
struct code_if<true, List, T> : List<T> {};
/// Of experts of any kind; and of routed ones that lane_numbers has N for.
template <class T>
using layer_code = all_code<route_code<T>, experts_code<T>, combine_code<T>>;
template <class T, int N, bool Rarer>
struct router_code : all_code<choice_code<T, N>, plain_kinds_code<T>> {};
template <class T, int N>
struct router_code<T, N, true> : all_code<router_code<T, N, false>, rarer_kinds_code<T>> {};

/// Of a stage beside network_code: nothing of one of the user's own, which holds its code itself.
template <class T, class E>
struct stage_code {};
template <class T, Expr E>
requires Named<E>
struct stage_code<T, E> : stage_code<T, detail::inner_t<E>> {
};
template <class T, Expr A, Expr B>
struct stage_code<T, then<A, B>> : all_code<stage_code<T, A>, stage_code<T, B>> {};
template <class T, Expr A, Expr B>
struct stage_code<T, sum<A, B>> : all_code<stage_code<T, A>, stage_code<T, B>> {};
template <class T, Expr A, Expr B>
struct stage_code<T, blended<A, B>>
    : all_code<linear_code<T>, blend_code<T>, stage_code<T, A>, stage_code<T, B>> {};
template <class T, Expr A>
struct stage_code<T, residual_of<A>> : stage_code<T, A> {};
template <class T, int N, Expr A>
struct stage_code<T, repeated<N, A>> : stage_code<T, A> {};
template <class T, int D, real_number Epsilon>
struct stage_code<T, rmsnorm<D, Epsilon>> : norm_code<T> {};
template <class T, int In, int Out>
struct stage_code<T, finegrain::linear<In, Out>> : linear_code<T> {};
template <class T, int D, int V>
struct stage_code<T, head<D, V>> : linear_code<T> {};
template <class T, int V, int D>
struct stage_code<T, embedding<V, D>> : embed_code<T> {};
template <class T, int V, int D>
struct stage_code<T, detail::tied_embedding<V, D>> : embed_code<T> {};
template <class T, int D, int Heads, int KvHeads, int HeadDim, attention_form Form>
struct stage_code<T, attention<D, Heads, KvHeads, HeadDim, Form>>
    : all_code<attention_code<T>, code_if<Form.bias, bias_code, T>,
               code_if<Form.adjacent, rotary_neighbours_code, T>,
               code_if<Form.norm != head_norm::none, norm_code, T>> {};
template <class T, int D, int Heads, latent N>
struct stage_code<T, latent_attention<D, Heads, N>> : latent_attention_code<T> {};
template <class T, int D, int F, glu Act>
struct stage_code<T, mlp<D, F, Act>> : layer_code<T> {};
template <class T, config C>
struct stage_code<T, shared_experts<C>> : layer_code<T> {};
template <class T, config C>
struct stage_code<T, routed_experts<C>>
    : all_code<layer_code<T>, router_code<T, lane_numbers(C.routed), rarer(C)>,
               code_if<C.bias, biased_code, T>> {};
template <class T, config C, Expr Router>
struct stage_code<T, routed_experts<C, Router>>
    : all_code<stage_code<T, routed_experts<C>>, stage_code<T, Router>> {};

/// Of what a .cu file names: an expression, a ladder or nothing.
template <class T, class What>
struct code_for : all_code<network_code<T>, stage_code<T, What>> {
  static_assert(Expr<What>,
                "on_cuda is of an expression, of a ladder, or of void for all there is");
};
template <class T, class... Routers>
using any_code =
    all_code<network_code<T>, Routers..., layer_code<T>, norm_code<T>, bias_code<T>,
             attention_code<T>, latent_attention_code<T>, embed_code<T>, blend_code<T>>;
template <class T, config... Cs>
struct code_for<T, ladder<Cs...>>
    : any_code<T, router_code<T, lane_numbers(Cs.routed), rarer(Cs)>...,
               code_if<(false || ... || Cs.bias), biased_code, T>> {
  static_assert(
      (true && ... && !unsupported(Cs)),
      "a layer of this ladder does not run on cuda: cuda/supported.hpp says what does not");
};
template <class T>
struct code_for<T, void> : any_code<T, choice_code<T, 2>, choice_code<T, 8>, choice_code<T, 32>,
                                    plain_kinds_code<T>, rarer_kinds_code<T>, biased_code<T>> {};

}  // namespace device
}  // namespace finegrain::inline FINEGRAIN_ABI
