// A text and settings of a study that is done in no time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <finegrain/lab/study.hpp>
#include <string>

namespace small_study {

inline finegrain::corpus const& text() {
  static finegrain::corpus const corpus = [] {
    std::string words;
    while (words.size() < 6000) words += "line " + std::to_string(words.size()) + " of the text\n";
    return finegrain::corpus(words);
  }();
  return corpus;
}
inline finegrain::study_settings settings(std::string out) {
  return {.out = std::move(out),
          .seeds = 2,
          .steps = 7,
          .sequences = 2,
          .length = 16,
          .evaluations = 3,
          .validation = 4,
          .deviation = 0.1,
          .optimizer = {.lr = 1e-2},
          .training = {.routing = {.balance = {.expert = 0.01}}}};
}

}  // namespace small_study
