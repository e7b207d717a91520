// Validation: what a model makes of the windows of a text that nothing is trained on.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <numbers>

#include "answer.hpp"
#include "corpus.hpp"
#include "learner.hpp"
#include "routing.hpp"
#include "settings.hpp"

namespace finegrain::inline FINEGRAIN_ABI {

/// Loss and the experts' load, of each text of a mixture by itself. As many windows as the settings
/// say must be there, and be shared out evenly among the texts.
inline answer validate(learner& model, corpus const& text, study_settings const& s,
                       routing_request const& how = {}) {
  answer a;
  windows some;
  std::int64_t const each = s.validation / text.texts();
  for (std::int64_t d = 0; d < text.texts(); ++d) {
    load_count load;
    double nats = 0;
    for (std::int64_t first = d * each, count; first < (d + 1) * each; first += count) {
      count = std::min(s.sequences, (d + 1) * each - first);
      text.validate(first, count, s.validation, s.length, some);
      nats += model.evaluate(some, how) * double(count);
      load.add(model.log());
    }
    a.bits.push_back(nats / double(each) / std::numbers::ln2);
    a.load.push_back(load.layers());
  }
  return a;
}

}  // namespace finegrain::inline FINEGRAIN_ABI
