// What the library costs a compiler: seconds and lines of including it, of a layer, with its kernels
// or without, and of each further config; and, where there is nvcc, of a program's .cu file.
//
//   bench_compile [compiler]     default $CXX or c++, and $CUDACXX or nvcc; out/bench/compile.jsonl
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace {

namespace fs = std::filesystem;

struct cost {
  double seconds;
  std::uintmax_t bytes;
  long lines;
};

/// Compiles a text so many times; the fastest counts.
cost compile(std::string const& compiler, std::string const& text, std::string const& name,
             std::string const& options, int times) {
  fs::path const folder = fs::temp_directory_path() / "finegrain_compile";
  fs::create_directories(folder);
  std::string const source = (folder / name).string();
  std::string const program = (folder / "program").string();
  std::ofstream(source) << text;
  std::string const include = (fs::path(__FILE__).parent_path().parent_path() / "include").string();
  std::string const flags = " -std=c++20 -I\"" + include + "\" \"" + source + "\" ";
  cost best{1e9, 0, 0};
  for (int i = 0; i < times; ++i) {
    auto const start = std::chrono::steady_clock::now();
    if (std::system((compiler + flags + options + " -o \"" + program + "\"").c_str()) != 0)
      std::exit(1);
    best.seconds =
        std::min(best.seconds,
                 std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  best.bytes = fs::file_size(program);
  if (std::FILE* const preprocessed = ::popen((compiler + flags + "-E").c_str(), "r")) {
    for (int c; (c = std::fgetc(preprocessed)) != EOF;) best.lines += c == '\n';
    ::pclose(preprocessed);
  }
  fs::remove_all(folder);
  return best;
}

/// Compiles and links a program for the cpu.
cost compile(std::string const& compiler, std::string const& text) {
  return compile(compiler, text, "program.cpp", "-O2 -s -pthread", 3);
}
constexpr char const* apart = "-c -O2 -DFINEGRAIN_KERNELS_APART";

/// Compiles a file of a program whose kernels are in another, with the library precompiled.
cost compile_precompiled(std::string const& compiler, std::string const& text) {
  fs::path const folder = fs::temp_directory_path() / "finegrain_precompiled";
  fs::create_directories(folder);
  std::string const header = (folder / "library.hpp").string();
  std::string const include = (fs::path(__FILE__).parent_path().parent_path() / "include").string();
  std::ofstream(header) << "#include <finegrain/finegrain.hpp>\n";
  std::string const make = compiler + " -std=c++20 -I\"" + include + "\" " + apart +
                           " -x c++-header \"" + header + "\" -o \"" + header + ".gch\"";
  if (std::system(make.c_str()) != 0) std::exit(1);
  cost const c = compile(compiler, text, "program.cpp",
                         std::string(apart) + " -include \"" + header + "\"", 3);
  fs::remove_all(folder);
  return c;
}
/// Compiles a .cu file that holds what on_cuda<what> does, for an architecture (and for no other: of
/// 90a, -arch makes PTX of 90 too). -O1 is of the host's code: kernels are always optimised.
cost compile_device(std::string const& nvcc, std::string const& what, std::string const& arch) {
  return compile(nvcc,
                 "#include <finegrain/cuda.cuh>\nnamespace fg = finegrain;\n"
                 "template struct fg::on_cuda<" +
                     what + ">;\n",
                 "program.cu", "-c -O1 -gencode arch=compute_" + arch + ",code=sm_" + arch, 1);
}

/// A program that trains layers of so many configs on the cpu.
std::string layers(int configs) {
  std::string text =
      "#include <finegrain/finegrain.hpp>\nnamespace fg = finegrain;\n"
      "template <fg::config C> void train(fg::matrix<float> m) {\n"
      "  fg::network<fg::mixture<C>, fg::cpu> net;\n"
      "  net.forward({.tokens = m.rows}, m, m);\n"
      "  net.backward(m);\n}\n"
      "int main() {\n";
  for (int i = 0; i < configs; ++i)
    text += "  train<fg::config{.hidden = 64, .width = " + std::to_string(16 * (i + 1)) +
            ", .routed = 16, .top_k = 2, .shared = 1}>({});\n";
  return text + "}\n";
}

/// One that runs a layer which is frozen in int4.
constexpr char const* frozen_layer =
    "#include <finegrain/finegrain.hpp>\nnamespace fg = finegrain;\n"
    "constexpr fg::config C{.hidden = 64, .width = 16, .routed = 16, .top_k = 2, .shared = 1};\n"
    "void run(float const* weights, fg::matrix<float> m) {\n"
    "  fg::frozen<fg::mixture<C>, fg::cpu, fg::format::int4> net(fg::cpu{}, weights);\n"
    "  net(m, m);\n}\n"
    "int main() {}\n";

}  // namespace

int main(int argc, char** argv) {
  char const* const named = std::getenv("CXX");
  std::string const compiler = argc > 1 ? argv[1] : named ? named : "c++";
  fs::create_directories("out/bench");
  std::FILE* const json = std::fopen("out/bench/compile.jsonl", "w");
  if (!json) return 1;
  auto line = [&](char const* what, double seconds, double bytes, long lines) {
    std::printf("%-30s %6.2f s  %8.0f bytes  %6ld lines\n", what, seconds, bytes, lines);
    std::fprintf(json,
                 "{\"bench\":\"compile\",\"what\":\"%s\",\"seconds\":%.3f,\"bytes\":%.0f,"
                 "\"lines\":%ld}\n",
                 what, seconds, bytes, lines);
    std::fflush(stdout);
  };
  auto show = [&](char const* what, cost const& c) {
    line(what, c.seconds, static_cast<double>(c.bytes), c.lines);
  };
  show("nothing", compile(compiler, "int main() {}\n"));
  show("configs and expressions",
       compile(compiler, "#include <finegrain/expr/layers.hpp>\nint main() {}\n"));
  show("the whole library",
       compile(compiler, "#include <finegrain/finegrain.hpp>\nint main() {}\n"));
  show("networks on the cpu alone", compile(compiler,
                                            "#include <finegrain/cpu/cpu.hpp>\n"
                                            "#include <finegrain/model/network.hpp>\n"
                                            "int main() {}\n"));
  cost const one = compile(compiler, layers(1));
  show("a layer on the cpu", one);
  // Of further configs, seconds without the kernels', which vary by more from run to run.
  constexpr int more = 16;
  cost const all = compile(compiler, layers(1 + more), "program.cpp", "-O2 -s -pthread", 1);
  cost const one_apart = compile(compiler, layers(1), "program.cpp", apart, 3);
  cost const all_apart = compile(compiler, layers(1 + more), "program.cpp", apart, 3);
  show("a layer, kernels apart", one_apart);
  line("each further config", (all_apart.seconds - one_apart.seconds) / more,
       (static_cast<double>(all.bytes) - static_cast<double>(one.bytes)) / more, 0);
  show("the same, precompiled header", compile_precompiled(compiler, layers(1)));
  show("the kernels",
       compile(compiler, "#include <finegrain/cpu/kernels.cpp>\n", "kernels.cpp", "-c -O2", 3));
  std::string const int4 = "-c -O2 -DFINEGRAIN_KERNELS_APART_INT4";
  show("a layer in int4", compile(compiler, frozen_layer));
  show("a layer in int4, kernels apart", compile(compiler, frozen_layer, "program.cpp", int4, 3));
  show(
      "int4's kernels",
      compile(compiler,
              "#define FINEGRAIN_KERNELS_APART_INT4\n#include <finegrain/cpu/frozen_kernels.cpp>\n",
              "kernels.cpp", "-c -O2", 3));
  char const* const named_nvcc = std::getenv("CUDACXX");
  std::string const nvcc = named_nvcc ? named_nvcc : "nvcc";
  if (std::system((nvcc + " --version >/dev/null 2>&1").c_str()) == 0)
    for (std::string const arch : {"80", "90a"}) {
      show(("the 16B's layer, sm_" + arch).c_str(),
           compile_device(nvcc,
                          "fg::mixture<fg::config{.hidden = 2048, .width = 1408, .routed = 64, "
                          ".top_k = 6, .shared = 2}>",
                          arch));
      show(("any network, sm_" + arch).c_str(), compile_device(nvcc, "void", arch));
    }
  std::fclose(json);
}
