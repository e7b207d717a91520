// PyTorch as a peer of one layer, in a process of its own: see torch_layer.py.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "cases.hpp"
#include "child.hpp"
#include "session.hpp"

namespace bench {

/// Numbers in a file that two processes have mapped.
class shared_numbers {
 public:
  shared_numbers(std::string path, std::int64_t count) : path_(std::move(path)), count_(count) {
    int const file = ::open(path_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool const made = file >= 0 && ::ftruncate(file, bytes()) == 0;
    void* const at =
        made ? ::mmap(nullptr, std::size_t(bytes()), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
             : MAP_FAILED;
    if (file >= 0) ::close(file);
    if (at == MAP_FAILED) throw std::runtime_error("cannot write " + path_);
    data_ = static_cast<float*>(at);
  }
  shared_numbers(shared_numbers const&) = delete;
  ~shared_numbers() {
    ::munmap(data_, std::size_t(bytes()));
    ::unlink(path_.c_str());
  }

  std::string const& path() const { return path_; }
  float* data() const { return data_; }

 private:
  std::int64_t bytes() const { return count_ * std::int64_t{sizeof(float)}; }

  std::string path_;
  std::int64_t count_;
  float* data_;
};

class torch_peer {
 public:
  /// Starts `python` on the layer's weights, which go through files FILES.torch_*; it takes no part where
  /// that fails, as where Python has no PyTorch.
  torch_peer(fg::cpu const& on, layer const& l, std::string const& python, std::string files)
      : files_(std::move(files)) {
    std::printf("\nPyTorch reads the weights of %s\n", l.name.c_str());
    fg::config const& c = l.c;
    const_view const router = l.w.router.router;
    std::vector<std::span<float const>> const parts{{router.data, std::size_t(router.size())},
                                                    all_of(l.w.gate),
                                                    all_of(l.w.up),
                                                    all_of(l.w.down),
                                                    all_of(l.w.shared_gate),
                                                    all_of(l.w.shared_up),
                                                    all_of(l.w.shared_down)};
    std::int64_t count = 0;
    for (auto const& part : parts) count += std::ssize(part);
    shared_numbers const numbers(files_ + ".torch_weights", count);
    float* to = numbers.data();
    for (auto const& part : parts) to = std::copy(part.begin(), part.end(), to);
    auto const script = std::filesystem::path(__FILE__).parent_path() / "torch_layer.py";
    std::vector<std::string> words{python, script.string(), numbers.path()};
    for (std::int64_t n : {c.hidden, c.width, c.routed, c.top_k, c.shared, on.threads.workers()})
      words.push_back(std::to_string(n));
    process_ = std::make_unique<child>(words);
    auto const version = process_->line();
    auto const ways = version ? process_->line() : std::nullopt;
    if (!ways) {
      std::printf("%s does not run torch_layer.py: PyTorch takes no part\n", python.c_str());
      process_.reset();
      return;
    }
    std::printf("PyTorch %s: %s\n", version->c_str(), ways->c_str());
    std::istringstream words_of(*ways);
    for (std::string way; words_of >> way;) ways_.push_back(way);
  }

  /// Every way in which it computes y from x, in the types that are wanted.
  void add_forward(std::vector<contender>& to, inputs const& x, view y,
                   std::function<bool(dtype const&)> const& wanted) {
    if (!process_) return;
    std::int64_t const size = y.size();
    batches_.reset();  // a file of the same name
    batches_ = std::make_unique<shared_numbers>(files_ + ".torch_batches", (x.sets() + 1) * size);
    for (std::int64_t i = 0; i < x.sets(); ++i)
      std::copy_n(x[i].data, size, batches_->data() + i * size);
    ask("batches " + batches_->path() + " " + std::to_string(x.sets()) + " " +
        std::to_string(y.rows));
    for (dtype const* type : {&f32, &bf16})
      if (wanted(*type))
        for (std::string const& way : ways_)
          to.push_back({"PyTorch " + way, type,
                        [this, y, type, way, sets = x.sets()](std::int64_t i) {
                          ask(std::string("run ") + type->name + " " + way + " " +
                              std::to_string(i % sets));
                          std::copy_n(batches_->data() + sets * y.size(), y.size(), y.data);
                        },
                        true});
  }

 private:
  template <class S>
  static std::span<float const> all_of(S const& stack) {
    return {stack.data, std::size_t(stack.count * stack.rows * stack.cols)};
  }
  void ask(std::string const& question) const {
    if (process_->ask(question) != "ok")
      throw std::runtime_error("bench/torch_layer.py has failed at \"" + question + "\"");
  }

  std::string files_;
  std::vector<std::string> ways_;
  std::unique_ptr<shared_numbers> batches_;
  std::unique_ptr<child> process_;
};

}  // namespace bench
