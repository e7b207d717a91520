// Frozen networks out of files, a stage's weights at a time: the whole network never stands unpacked.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../model/frozen.hpp"
#include "packed.hpp"
#include "published.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

namespace detail {

template <class N>
inline constexpr bool is_frozen = false;
template <Expr E, class X, formats F>
inline constexpr bool is_frozen<frozen<E, X, F>> = true;

/// The weights that stand in files, for frozen_weights::fill: one stage's in memory at a time, or some of
/// its experts'.
template <class X>
class weights_in_files {
 public:
  using S = typename X::scalar;

  /// `found` in the order of the network's array.
  weights_in_files(X const& on, std::vector<stored_weight> const& found) : on_(on), found_(found) {}

  struct part {
    weights_in_files& all;
    std::int64_t first;
    friend part operator+(part const& p, std::int64_t n) { return {p.all, p.first + n}; }
    S const* numbers(std::int64_t count) const { return all.read(first, count); }
  };
  part all() { return {*this, 0}; }

 private:
  S const* read(std::int64_t first, std::int64_t count) {
    auto const from = [&](std::int64_t offset) {
      return std::partition_point(found_.begin(), found_.end(), [&](stored_weight const& weight) {
        return weight.to->offset < offset;
      });
    };
    std::span const mine(from(first), from(first + count));
    if (stage_.size() != count) {
      stage_ = {};
      stage_ = typename place<X>::template buffer<S>(count);
    }
    place<X>::write(on_, span_of(stage_.data(), count), [&](S* numbers, parallel const& threads) {
      std::int64_t behind = 0;  // the last weight; up to the next there is padding
      for (stored_weight const& weight : mine) {
        weight_entry const& to = *weight.to;
        std::int64_t const at = to.offset - first, size = to.rows * to.cols;
        std::fill(numbers + behind, numbers + at, S(0));
        behind = at + size;
        if (has_rest(to.role)) {
          behind = at + stored_size(size, to.role);
          std::fill(numbers + at, numbers + behind, S(0));
        }
      }
      std::fill(numbers + behind, numbers + count, S(0));
      read_each(threads, mine, first, numbers);
    });
    return stage_.data();
  }

  X const& on_;
  std::vector<stored_weight> const& found_;
  typename place<X>::template buffer<S> stage_;
};

template <class N>
N frozen_from(typename N::executor on, std::vector<stored_weight> const& found) {
  weights_in_files<typename N::executor> files(on, found);
  return N(on, files.all());
}

}  // namespace detail

/// A frozen network whose weights are read as a published model has them: the codes that quantize makes
/// of a network after load_published, in the memory of these and of one stage's numbers.
///
///   using reader = frozen<decoder<presets::deepseek_v2_lite>, cpu, format::int4>;
///   reader model = load_published<reader>("DeepSeek-V2-Lite");
///
/// Arguments and errors are load_published's; throws invalid_argument too, for a weight that is not
/// finite where the format is quantised.
template <class N, class Name = std::string (*)(std::string_view)>
requires(detail::is_frozen<N>) N
    load_published(std::string const& path, std::string const& prefix = {},
                   Name&& name = deepseek_name, typename N::executor on = {},
                   std::optional<std::string> const& config = {}) {
  using E = typename N::expression;
  tensor_files const files(path);
  auto const entries = list_weights<E>();
  return detail::frozen_from<N>(std::move(on),
                                detail::find_published<E>(files, entries, prefix, name, config));
}

/// Writes a frozen network's weights as they are packed, atomically: load_weights<N>(path) then makes no
/// codes anew. Such a file is for networks of the same expression, formats and executor, and on cpu of
/// instruction sets that pack alike. Throws file_error; a file that was there is then still there.
template <class N>
requires(detail::is_frozen<N>) void save_weights(N const& net, std::string const& path) {
  static_assert(
      Packing<typename N::executor>,
      "save_weights: this executor does not say how it packs weights: declare packed_form<X> "
      "(plan/frozen.hpp), or save the network that this one was made of");
  if constexpr (Packing<typename N::executor>) detail::write_packed(net, path);
}
/// A frozen network whose weights save_weights wrote: of a frozen one, which are read as they are, straight
/// to their place; or of one that learns, of which codes are made a stage at a time (load_published).
///
/// Throws file_error, also where a checksum shows that packed weights were damaged, or where their file is one
/// of several; mismatch with the list of differences, of packed weights in the expression, the executor, the
/// formats, how it packs them, or the version of such files.
template <class N>
requires(detail::is_frozen<N>) N
    load_weights(std::string const& path, typename N::executor on = {}) {
  tensor_files const files(path);
  if constexpr (Packing<typename N::executor>)
    if (auto const* const file = detail::packed_file(files))
      return detail::read_packed<N>(*file, std::move(on));
  auto const entries = list_weights<typename N::expression>();
  return detail::frozen_from<N>(std::move(on), detail::find_own(files, entries));
}

// A frozen network where one of weights that learn is asked for.
template <class N, class... Rest>
requires(detail::is_frozen<N>) void save_published(N const&, std::string const&, Rest&&...) {
  static_assert(
      detail::never<N>,
      "save_published: other programs read no packed weights: save the network that they were made "
      "of, or save_weights(net, path) for this one");
}
template <class N>
requires(detail::is_frozen<N>) void load_weights(N const&, std::string const&) {
  static_assert(detail::never<N>,
                "load_weights: a frozen network is made of a file anew: load_weights<N>(path)");
}
template <class N, class... Rest>
requires(detail::is_frozen<N>) void load_published(N const&, std::string const&, Rest&&...) {
  static_assert(detail::never<N>,
                "load_published: a frozen network is made of files anew: load_published<N>(path)");
}

}  // namespace finegrain::inline FINEGRAIN_ABI
