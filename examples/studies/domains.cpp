// Do experts divide texts among them? Four kinds of English, and which experts read what.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "small.hpp"

std::vector<std::string> const models = {"1+7/63", "0+2/16"};

// Mutual information of expert and domain, in millibits a slot, a seed each.
std::vector<double> information(std::vector<fg::answer> const& answers, std::size_t layer) {
  std::vector<double> out;
  for (auto const& a : answers) out.push_back(1e3 * fg::mutual_information(a.by_domain(layer)));
  return out;
}

void report(fg::study& s, fg::page& page, std::vector<fg::claim>& claims) {
  fg::table t({"model, layer", "at the start", "trained", "mean |cosine| of router rows"});
  std::vector<fg::picture::grid> routes, alike;
  for (auto const& model : models) {
    auto const start = s.ask(model, {}, false), trained = s.ask(model);
    auto const rows = s.routers(model);
    for (std::size_t l = 0; l < rows.size(); ++l) {
      std::string const name = model + ", layer " + std::to_string(l);
      auto const before = information(start, l), after = information(trained, l);
      auto const likes = fg::preference(trained[0].by_domain(l));
      auto const order = fg::by_favourite(likes);
      fg::number_table sorted;
      for (std::size_t e : order) sorted.push_back(rows[l][e]);
      auto const similar = fg::cosines(sorted);
      if (l + 1 == rows.size())
        alike.push_back({name, similar, {}, rows[l].size() > 20 ? 5.0 : 12.0});
      routes.push_back({name, fg::columns_in(likes, order), s.domains()});
      for (auto& row : routes.back().cells)
        for (double& v : row) v = std::max(std::log2(v), -2.0);
      t.add({name, fg::text::fixed(fg::estimate_mean(before).mean, 1),
             fg::mean_text(fg::estimate_mean(after), 1),
             fg::text::fixed(fg::mean_similarity(similar), 3)});
      claims.emplace_back(name + ": at the start < trained (millibits)", before, after);
    }
    if (model != models[0]) continue;
    std::size_t const last = rows.size() - 1;
    claims.emplace_back("millibits of the last layer: 0+2/16 < 1+7/63",
                        information(s.ask("0+2/16"), last), information(trained, last));
  }
  page.heading("Experts and domains");
  page.text(
      "What the expert of a slot tells of the domain of its token, in thousandths of a bit of "
      "the 2 bits that name one of four domains; at the start of training, and after it. This is "
      "an estimate that is too high, the more experts and the fewer windows the more, since tokens "
      "of a window are alike: windows that are dealt to domains at random tell something of them "
      "too. Only what lies above the figure of labels permuted among the windows says that experts "
      "differ by domain.");
  page.add(t, "information");
  page.picture(
      fg::picture::draw_grids(
          "Which experts read what",
          "log2 of an expert's share of a domain over its share of all; 0 is even", routes, -2, 2),
      "domains", "Columns are experts, by the domain that each prefers; first seed.");
  page.picture(fg::picture::draw_grids("How alike routers see two experts",
                                       "cosine of the two experts' rows in the router's matrix",
                                       alike, -1, 1),
               "similarity", "Experts in the order of the picture above; first seed.");
}

int main(int count, char** words) {
  return run_study(
      count, words,
      {.name = "domains",
       .title = "Routing by domain: the King James Bible, the Jargon File, Perl's "
                "manuals, WordNet",
       .paper = "The paper claims that fine-grained experts specialise, and does not "
                "look at domains. The claims asked here: training makes the choice of "
                "experts tell more of a token's domain, and finer experts tell more.",
       .orderings = {{"1+7/63", "0+2/16"}},
       .texts = {"kjv", "jargon", "perl", "wordnet"}},
      [](fg::study& s) {
        s.add<moe<deepseek>>("1+7/63");
        s.add<moe<base>>("0+2/16");
      },
      report);
}
