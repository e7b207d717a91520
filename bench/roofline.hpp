// The picture of a session: tokens a second over tokens, under the roofs that the machine sets.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <finegrain/lab/curves.hpp>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cases.hpp"
#include "session.hpp"

namespace bench {

namespace picture = fg::picture;

/// One panel: the contenders of one dtype on one layer; of a peer's ways of using threads, the
/// better one.
class roofline_panel {
 public:
  roofline_panel(picture::drawing& d, layer const& l, std::vector<figure> const& figures,
                 picture::point corner)
      : d_(d),
        layer_(l),
        type_(*figures[0].type),
        x_{0, 1, corner.x + 55, corner.x + width - 190},
        y_{0, 1, corner.y + height - 50, corner.y + 55} {
    std::map<std::string, std::map<double, double>> best;
    double low = HUGE_VAL;
    for (figure const& f : figures) {
      auto const tokens = double(f.task.tokens);
      std::string const name = f.ours ? f.by : f.by.substr(0, f.by.find(' '));
      best[name][tokens] = std::max(best[name][tokens], f.rate);
      sizes_.insert(tokens);
    }
    for (auto const& [name, rates] : best)
      for (auto const& [tokens, rate] : rates) {
        curves_[name].push_back({tokens, rate});
        low = std::min(low, rate);
      }
    for (double limits::*m : {&limits::f32, &limits::bf16, &limits::int8, &limits::read}) {
      std::vector<double> values;
      for (figure const& f : figures) values.push_back(f.limits.*m);
      limits_.*m = median(values);
    }
    x_.high = std::log2(*sizes_.rbegin());
    y_.low = std::log10(low) - 0.1;
    y_.high = std::log10(peak_rate()) + 0.15;
  }

  void draw(std::string const& title) const {
    axes(title);
    roofs();
    std::vector<picture::detail::edge_label> labels;
    std::size_t mine = 0;
    for (bool const ours : {false, true})  // ours on top
      for (auto const& [name, points] : curves_) {
        if ((name.rfind("finegrain", 0) == 0) != ours) continue;
        std::string const how = ours ? picture::series_colour(mine++ % 2 ? 5 : 2) : colour_of(name);
        std::vector<picture::point> line;
        for (auto const& p : points) line.push_back(place(p.x, p.y));
        d_.path(line, "fill=\"none\" stroke-width=\"" + std::string(ours ? "2.5" : "1.5") +
                          "\" stroke=\"" + how + "\"");
        for (auto const& p : line) d_.dot(p, ours ? 4 : 3, "fill=\"" + how + "\"");
        if (points.back().x == *sizes_.rbegin())
          labels.push_back(
              {"", fg::text::rounded(points.back().y) + "  " + name, how, "", line.back().y, 0});
      }
    picture::detail::draw_edge_labels(d_, {x_, y_}, std::move(labels));
  }

  static constexpr double width = 550, height = 430;

 private:
  static std::string colour_of(std::string const& peer) {
    constexpr struct {
      char const* peer;
      std::size_t colour;
    } known[] = {{"Eigen", 1}, {"OpenBLAS", 3},      {"oneDNN", 4},
                 {"torch", 1}, {"torch.compile", 3}, {"cuBLAS", 4}};
    for (auto const& k : known)
      if (peer == k.peer) return picture::series_colour(k.colour);
    return picture::series_colour(6);
  }
  picture::point place(double tokens, double rate) const {
    return {x_(std::log2(tokens)), y_(std::log10(rate))};
  }
  double peak() const { return limits_.*type_.peak > 0 ? limits_.*type_.peak : limits_.f32; }
  double peak_rate() const { return peak() / layer_.flops(1); }
  /// Tokens a second if reading the weights that T tokens need, sent evenly, were all.
  double read_rate(double tokens) const {
    return tokens * limits_.read / (layer_.numbers(tokens) * type_.bytes);
  }

  void axes(std::string const& title) const {
    for (double decade = std::floor(y_.low); decade <= y_.high; ++decade)
      for (double step : {1.0, 2.0, 5.0}) {
        double const rate = step * std::pow(10, decade), y = y_(std::log10(rate));
        if (y > y_.from || y < y_.to) continue;
        d_.line({x_.from, y}, {x_.to, y}, R"(stroke="#e8e8e8")");
        d_.text({x_.from - 8, y + 4}, fg::text::rounded(rate), R"(text-anchor="end")");
      }
    for (double const tokens : sizes_) {
      double const x = x_(std::log2(tokens));
      d_.line({x, y_.from}, {x, y_.from + 5}, R"(stroke="#444")");
      d_.text({x, y_.from + 19}, fg::text::fixed(tokens, 0), R"(text-anchor="middle")");
    }
    d_.path({{x_.from, y_.to}, {x_.from, y_.from}, {x_.to, y_.from}},
            R"(stroke="#444" fill="none")");
    d_.text({x_.from - 40, y_.to - 30}, title, R"(font-size="15" font-weight="bold")");
    d_.text({x_.from - 40, y_.to - 11}, "tokens/s", R"(fill="#555")");
    d_.text({(x_.from + x_.to) / 2, y_.from + 38}, "tokens in a batch",
            R"(text-anchor="middle" fill="#555")");
  }

  /// Both limits, each faint where the other one is lower, and their names above them.
  void roofs() const {
    std::vector<picture::point> reading, computing, roof;
    double free = y_.from;  // above the name of reading
    for (int i = 0; i <= 64; ++i) {
      double const tokens = std::exp2(x_.high * i / 64), rate = read_rate(tokens);
      reading.push_back(place(tokens, rate));
      computing.push_back(place(tokens, peak_rate()));
      roof.push_back(place(tokens, std::min(rate, peak_rate())));
      if (roof.back().x < x_.from + 130) free = std::min(free, roof.back().y);
    }
    d_.clip({x_.from, y_.to}, x_.to - x_.from + 4, y_.from - y_.to);
    for (auto const* faint : {&reading, &computing})
      d_.path(*faint, R"(fill="none" stroke="#999" stroke-dasharray="3 4")");
    d_.path(roof, R"(fill="none" stroke="#444" stroke-width="1.5")");
    d_.unclip();
    char const* const grey = R"(fill="#666" font-size="11")";
    d_.text({x_.from + 6, computing[0].y - 6},
            "computing at " + fg::text::rounded(peak()) + "FLOP/s", grey);
    d_.text({x_.from + 6, free - 6}, "reading at " + fg::text::rounded(limits_.read) + "B/s", grey);
  }

  picture::drawing& d_;
  layer const& layer_;
  dtype const& type_;
  std::map<std::string, std::vector<picture::point>> curves_;
  std::set<double> sizes_;  // tokens that were measured
  picture::scale x_, y_;
  limits limits_;
};

/// A panel for each dtype of which two batch sizes were measured; nothing where there is none.
inline std::string draw_roofline(layer const& l, std::vector<figure> const& all, int threads) {
  std::vector<std::vector<figure>> panels;
  for (dtype const* type : {&f32, &bf16, &int8, &int8_block, &fp8, &int4}) {
    std::vector<figure> of_type;
    std::set<std::int64_t> sizes;
    for (figure const& f : all)
      if (f.type == type && f.task.config == l.name && f.task.phase == "forward") {
        of_type.push_back(f);
        sizes.insert(f.task.tokens);
      }
    if (sizes.size() > 1) panels.push_back(of_type);
  }
  if (panels.empty()) return "";
  std::size_t const across = std::min<std::size_t>(panels.size(), 2);
  std::size_t const down = (panels.size() + across - 1) / across;
  picture::drawing d(roofline_panel::width * double(across), roofline_panel::height * double(down));
  for (std::size_t i = 0; i < panels.size(); ++i)
    roofline_panel(
        d, l, panels[i],
        {roofline_panel::width * double(i % across), roofline_panel::height * double(i / across)})
        .draw(l.name + ", " + panels[i][0].type->name + ", forward, " + std::to_string(threads) +
              " threads");
  return d.svg();
}

}  // namespace bench
