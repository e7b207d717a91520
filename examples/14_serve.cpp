// Serving: requests come and go in the places of one cache, their tokens share the passes, and each
// text is the one that its prompt alone gives.
#include <algorithm>
#include <cstdio>
#include <optional>
#include <vector>

#include "byte_model.hpp"

namespace fg = finegrain;

namespace {

struct request {
  std::vector<std::int32_t> tokens;  // the prompt, and what is made of it
  std::size_t end;                   // tokens that there are to be
  fg::sampling how;
};

/// Who is in a place of the cache.
struct guest {
  request* of = nullptr;
  std::optional<fg::sampler> draw = {};
  std::size_t read = 0;    // tokens that the network has seen
  std::uint64_t made = 0;  // tokens that were drawn
};

// [example]
template <class Net>
void serve(Net const& net, std::span<request> requests) {
  constexpr std::int64_t places = 4, room = 150;  // sequences of the cache, and tokens of each
  constexpr std::int64_t most = 32;               // tokens of a pass
  auto cache = net.make_cache(room, places);
  fg::buffer<> const memory(net.workspace_bytes(net.extent_of(most)));
  fg::buffer<float> const logits(places * Net::out);
  std::vector<guest> guests(places);
  std::vector<std::int32_t> ids;
  std::vector<std::int64_t> starts, lasts;
  auto next = requests.begin();
  while (true) {
    std::int64_t behind = 0;  // guests whose tokens are not in the pass yet: each has one at least
    for (std::size_t place = 0; place < places; ++place) {
      guest& g = guests[place];
      if (!g.of && next != requests.end()) {
        g = {&*next, fg::sampler(next->how, Net::out)};
        cache.reset(static_cast<std::int64_t>(place));
        ++next;
      }
      behind += g.of != nullptr;
    }
    if (behind == 0) return;

    ids.clear(), lasts.clear(), starts.assign(1, 0);
    for (guest& g : guests) {
      if (g.of) {
        std::int64_t const unread = std::ssize(g.of->tokens) - static_cast<std::int64_t>(g.read);
        auto const n = std::min(unread, most - std::ssize(ids) - --behind);
        auto const from = g.of->tokens.begin() + static_cast<std::ptrdiff_t>(g.read);
        ids.insert(ids.end(), from, from + n);
        g.read += static_cast<std::size_t>(n);
        if (n == unread) lasts.push_back(std::ssize(ids) - 1);
      }
      starts.push_back(std::ssize(ids));
    }
    // In a pass of pieces of prompts alone nobody has something to say: y then has no rows.
    fg::matrix<float> const y(logits.data(), std::ssize(lasts), Net::out);
    net.infer({.tokens = std::ssize(ids), .ids = ids, .starts = starts, .wanted = lasts}, {}, y,
              memory, &cache);

    std::int64_t row = 0;
    for (guest& g : guests) {
      if (!g.of || g.read < g.of->tokens.size()) continue;
      g.of->tokens.push_back((*g.draw)(y.row(row++), g.made++));
      if (g.of->tokens.size() == g.of->end) g = {};
    }
  }
}
// [/example]

}  // namespace

int main() try {
  fg::network<byte_model, fg::cpu> const net({.deviation = 0.3});
  auto const frozen = fg::quantize<fg::format::int8>(net);
  std::vector<request> requests;
  for (std::size_t i = 0; i < 11; ++i) {  // prompts of 1 to 121 tokens, from greedy to hot
    request r{{}, 0, {.temperature = 0.4 * double(i % 4), .top_p = 0.95, .seed = i}};
    for (std::size_t t = 0; t < 1 + i * 12; ++t) r.tokens.push_back(std::int32_t(i * t % 256));
    r.end = r.tokens.size() + 5 + 2 * i;
    requests.push_back(r);
  }
  auto const asked = requests;
  serve(frozen, requests);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    request alone = asked[i];
    auto const count = static_cast<std::int64_t>(alone.end - alone.tokens.size());
    fg::generate(frozen, asked[i].tokens, count, alone.how,
                 [&](std::int32_t id) { alone.tokens.push_back(id); });
    if (requests[i].tokens != alone.tokens) return 1;
  }
  std::printf("%zu requests, each as it is alone\n", requests.size());
} catch (std::exception const& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
