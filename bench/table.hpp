// The figures of a session as a Markdown table: finegrain's, and how many times the peers' they are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "session.hpp"

namespace bench {

/// The best that a library reaches, in whichever way it uses threads; 0 if it was not measured.
inline double best_of(std::vector<figure> const& figures, task const& t, dtype const* type,
                      std::string const& library) {
  double best = 0;
  for (figure const& f : figures)
    if (!f.ours && f.type == type && f.by.rfind(library, 0) == 0 && f.task.config == t.config &&
        f.task.phase == t.phase && f.task.tokens == t.tokens)
      best = std::max(best, f.rate);
  return best;
}

inline std::string markdown(std::vector<figure> const& figures) {
  std::vector<std::string> peers;
  for (figure const& f : figures)
    if (std::string const library = f.by.substr(0, f.by.find(' '));
        !f.ours && std::find(peers.begin(), peers.end(), library) == peers.end())
      peers.push_back(library);
  std::string text = "| layer | pass | tokens | weights | | tokens/s | of the limit |";
  for (std::string const& peer : peers) text += " x " + peer + " |";
  text += "\n|---|---|---|---|---|---|---|";
  for (std::size_t i = 0; i < peers.size(); ++i) text += "---|";
  text += "\n";
  for (figure const& f : figures) {
    if (!f.ours) continue;
    char line[200];
    std::snprintf(line, sizeof line, "| %s | %s | %lld | %s | %s | %.0f%s | %.0f %% of %s |",
                  f.task.config.c_str(), f.task.phase.c_str(),
                  static_cast<long long>(f.task.tokens), f.type->name,
                  f.by == "finegrain" ? "as stored" : "frozen", f.rate, f.undisturbed() ? "" : "*",
                  100 * f.fraction, session::limit_of(f).c_str());
    text += line;
    for (std::string const& peer : peers) {
      double const rate = best_of(figures, f.task, f.type, peer);
      char ratio[40] = " |";
      if (rate > 0) std::snprintf(ratio, sizeof ratio, " %.2f |", f.rate / rate);
      text += ratio;
    }
    text += "\n";
  }
  return text;
}

}  // namespace bench
