#!/usr/bin/env python3
"""What bench cuda is compared with in torch: one layer, bf16, on one GPU. Prints a JSON line for each
figure, which `bench_cuda --peers FILE` puts beside finegrain's.

  torch              sort, index_select, grouped_mm, silu * mul, grouped_mm, gather and sum
  torch.compile      the same, compiled (--compile default|max-autotune)
  transformers       DeepSeek's block of the transformers package (--experts eager,grouped_mm)
  sonicmoe           SonicMoE's kernels (package sonic-moe), of layers without shared experts
  liger              Liger's fused experts (package liger-kernel) behind torch's router

Whatever can be captured is timed by replay of a CUDA graph; "no graph" is the same called from Python.
Protocol: 20 warm-ups, then the median of up to 100 replays, random data, rotating weights where those
in use would stay in the cache; the router is part of the layer; FLOPs are the experts', unpadded.
"""
# SPDX-License-Identifier: Apache-2.0
import argparse
import functools
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

CASES = {  # D, F, routed, top_k, shared
    "16B": (2048, 1408, 64, 6, 2),
    "sonic 1024": (4096, 1024, 64, 4, 0),
    "sonic 2048": (4096, 2048, 64, 4, 0),
    "sonic 256": (4096, 256, 256, 16, 0),
    "V3": (7168, 2048, 256, 8, 1),
    "E128": (2816, 704, 128, 8, 0),
    **{f"grain {m}": (2048, 5632 // m, 16 * m, 2 * m, 0) for m in (1, 2, 4, 8, 16)},
}
BF16 = torch.bfloat16


def grouped_mm(a, b, offsets):
    if hasattr(F, "grouped_mm"):
        return F.grouped_mm(a, b, offs=offsets)
    return torch._grouped_mm(a, b, offs=offsets)


def layer(x, w, top_k):
    """x (T, D); w: router (R, D), up (R, 2F, D), down (R, D, F), and the shared expert's two."""
    routed = w["router"].shape[0]
    scores = F.linear(x, w["router"]).float().softmax(-1)
    weights, experts = scores.topk(top_k, dim=-1)
    chosen, order = experts.flatten().sort(stable=True)
    ids = torch.arange(routed, device=x.device)
    offsets = torch.searchsorted(chosen, ids, right=True).to(torch.int32)
    rows = x.index_select(0, order // top_k)
    gate, up = grouped_mm(rows, w["up"].transpose(1, 2), offsets).chunk(2, -1)
    rows = grouped_mm(F.silu(gate) * up, w["down"].transpose(1, 2), offsets)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
    y = rows.index_select(0, place).view(*experts.shape, -1)
    y = (y * weights.to(y.dtype).unsqueeze(-1)).sum(1)
    if "shared_up" in w:
        gate, up = F.linear(x, w["shared_up"]).chunk(2, -1)
        y = y + F.linear(F.silu(gate) * up, w["shared_down"])
    return y


def sonicmoe_layer(x, w, top_k, training=False):
    """The same, by SonicMoE: the rows of w["up"] are gate, up, gate, up ... there."""
    from sonicmoe import moe_TC_softmax_topk_layer

    return moe_TC_softmax_topk_layer(
        x, w["router"], w["up"].permute(1, 2, 0), None, w["down"].permute(1, 2, 0), None, top_k,
        torch.cuda.current_stream().cuda_stream, is_inference_mode_enabled=not training,
        is_softmax_over_topk=False)[0]


def liger_layer(x, w, top_k, training=False):
    from liger_kernel.ops import LigerFusedMoEFunction

    scores = F.linear(x, w["router"]).float().softmax(-1)
    weights, experts = scores.topk(top_k, dim=-1)
    return LigerFusedMoEFunction.apply(x, w["up"], w["down"], experts.to(torch.int32), weights)


PACKAGES = {"sonicmoe": sonicmoe_layer, "liger": liger_layer}


def make_weights(case, device, training=False):
    D, width, routed, _, shared = CASES[case]
    shapes = {"router": (routed, D), "up": (routed, 2 * width, D), "down": (routed, D, width)}
    if shared:
        shapes |= {"shared_up": (2 * shared * width, D), "shared_down": (D, shared * width)}
    made = {}
    for name, shape in shapes.items():
        made[name] = torch.empty(shape, dtype=BF16, device=device).normal_(0, 0.02)
        made[name].requires_grad_(training)
    return made


class Timer:
    """Seconds of f(i), i = 0 ... sets - 1 in turn."""

    def __init__(self, seconds):
        self.seconds = seconds

    def replay(self, f, sets):
        """In a graph, of as many passes as fill about a millisecond: small ones hide its launch."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for i in range(max(sets, 2)):
                f(i % sets)
        torch.cuda.synchronize()
        start = time.perf_counter()
        f(0)
        torch.cuda.synchronize()
        once = time.perf_counter() - start
        passes = sets * max(1, round(1e-3 / (sets * once)))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for i in range(passes):
                f(i % sets)
        took = self.events(lambda _: graph.replay(), 1)
        return took / passes

    def events(self, f, sets):
        """Median by events, each call queued behind the one before."""
        torch.cuda.synchronize()
        start = time.perf_counter()
        f(0)
        torch.cuda.synchronize()
        once = max(time.perf_counter() - start, 1e-6)
        wanted = min(100, max(5, int(self.seconds / once)))
        for i in range(min(20, max(2, int(self.seconds / 4 / once)))):
            f(i % sets)
        pairs = []
        for i in range(wanted):
            a, b = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            a.record()
            f(i % sets)
            b.record()
            pairs.append((a, b))
        torch.cuda.synchronize()
        return statistics.median(a.elapsed_time(b) for a, b in pairs) * 1e-3


def measure_limits(timer):
    """Dense product of 8192^3 in bf16, operations a second; and a copy of 2 GiB, bytes a second."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=BF16) for _ in range(2))
    flops = 2 * 8192**3 / timer.events(lambda _: a @ b, 1)
    from_, to = (torch.empty(2**31, dtype=torch.uint8, device="cuda") for _ in range(2))
    from_.random_()
    return flops, 2 * 2**31 / timer.events(lambda _: to.copy_(from_), 1)


class Bench:
    def __init__(self, options):
        self.options = options
        self.timer = Timer(options.seconds)
        self.out = open(options.out, "a") if options.out else None
        self.limits = measure_limits(self.timer)
        import triton

        self.stack = f"torch {torch.__version__}, triton {triton.__version__}"
        for by, value, unit in (("dense 8192^3", self.limits[0], "flops"),
                                ("copy", self.limits[1], "bytes/s")):
            self.write({"bench": "cuda", "config": "limits", "phase": "limits", "tokens": 0,
                        "by": "torch " + by, "value": value, "unit": unit})

    def write(self, record):
        record |= {"gpu": torch.cuda.get_device_name(), "stack": self.stack}
        line = json.dumps(record)
        if self.out:
            print(line, file=self.out, flush=True)

    def figure(self, case, phase, tokens, by, measure, numbers, factor=1):
        """factor: FLOPs in those of a forward pass. numbers: weights read, and gradients written."""
        D, width, routed, top_k, shared = CASES[case]
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            seconds = measure()
        except Exception as e:  # out of memory, or what cannot be captured
            why = str(e).strip().split("\n")[0][:120] or type(e).__name__
            print(f"{case:11} T={tokens:<6} {phase:17} {by:34} failed: {why}", flush=True)
            torch.cuda.synchronize()
            return None
        peak = torch.cuda.max_memory_allocated() - before
        flops = factor * 6.0 * tokens * (top_k + shared) * D * width
        least = max(flops / self.limits[0], 2 * numbers / self.limits[1])
        self.write({"bench": "cuda", "config": case, "dtype": "bf16", "phase": phase,
                    "tokens": tokens, "by": by, "median": seconds, "value": tokens / seconds,
                    "unit": "tokens/s", "tflops": flops / seconds * 1e-12,
                    "fraction": least / seconds, "peak_bytes": peak,
                    "dense_flops": self.limits[0], "copy_bytes": self.limits[1]})
        print(f"{case:11} T={tokens:<6} {phase:17} {by:34} {seconds * 1e6:10.1f} us "
              f"{flops / seconds * 1e-12:6.1f} TFLOP/s {100 * least / seconds:5.1f} % "
              f"{peak / 2**20:8.0f} MiB", flush=True)
        return seconds

    def compiled(self):
        torch._dynamo.reset()
        if self.options.compile == "default":
            return "torch.compile", torch.compile(layer, dynamic=False)
        mode = self.options.compile + "-no-cudagraphs"  # graphs are recorded here, for everyone
        return ("torch.compile " + self.options.compile,
                torch.compile(layer, dynamic=False, mode=mode))

    def torch_layer(self, case, tokens):
        D, width, routed, top_k, shared = CASES[case]
        used = min(routed, tokens * top_k) + shared
        sets = 3 if used * 3 * D * width * 2 < 180e6 else 1
        weights = [make_weights(case, "cuda") for _ in range(sets)]
        xs = [torch.randn(tokens, D, device="cuda", dtype=BF16) for _ in range(sets)]
        with torch.no_grad():
            touched = []
            for x, w in zip(xs, weights):
                choice = F.linear(x, w["router"]).float().softmax(-1).topk(top_k, dim=-1).indices
                touched.append(choice.unique().numel())
            numbers = (statistics.mean(touched) + shared) * 3.0 * D * width
            run = lambda i: layer(xs[i], weights[i], top_k)
            if "torch" in self.options.by:
                self.figure(case, "forward", tokens, "torch", lambda: self.timer.replay(run, sets),
                            numbers)
                if tokens in (1, 4096):
                    self.figure(case, "forward", tokens, "torch, no graph",
                                lambda: self.timer.events(run, sets), numbers)
            if "compile" in self.options.by:
                by, compiled = self.compiled()
                start = time.perf_counter()
                self.figure(case, "forward", tokens, by,
                            lambda: self.timer.replay(
                                lambda i: compiled(xs[i], weights[i], top_k), sets), numbers)
                print(f"  (compiled and timed in {time.perf_counter() - start:.1f} s)", flush=True)

    def torch_training(self, case, tokens):
        """forward in training, and forward and backward; backward is the difference."""
        D, width, routed, top_k, shared = CASES[case]
        w = make_weights(case, "cuda", training=True)
        x = torch.randn(tokens, D, device="cuda", dtype=BF16, requires_grad=True)
        dy = torch.randn(tokens, D, device="cuda", dtype=BF16)
        numbers = (routed + shared) * 3.0 * D * width
        kinds = [("torch", layer)] if "torch" in self.options.by else []
        if "compile" in self.options.by:
            kinds.append(self.compiled())
        for by, run in kinds:
            both = lambda _: torch.autograd.grad(run(x, w, top_k), [x, *w.values()], dy)
            forward = self.figure(case, "training forward", tokens, by,
                                  lambda: self.timer.replay(lambda _: run(x, w, top_k).detach(), 1),
                                  numbers)
            all_ = self.figure(case, "forward+backward", tokens, by,
                               lambda: self.timer.replay(both, 1), 3 * numbers, 3)
            if all_ is None:  # captured it cannot be
                all_ = self.figure(case, "forward+backward", tokens, by + ", no graph",
                                   lambda: self.timer.events(both, 1), 3 * numbers, 3)
            if forward and all_:
                self.figure(case, "backward", tokens, by, lambda: all_ - forward, 2 * numbers, 2)

    def package_layer(self, by, case, tokens):
        """Forward, of a package that synchronises with the host, and so is not captured."""
        D, width, routed, top_k, shared = CASES[case]
        if shared:
            return
        with torch.no_grad():
            w, x = make_weights(case, "cuda"), torch.randn(tokens, D, device="cuda", dtype=BF16)
            run = lambda: PACKAGES[by](x, w, top_k)
            same = dict(w)
            if by == "sonicmoe":
                same["up"] = torch.cat([w["up"][:, 0::2], w["up"][:, 1::2]], 1)
            y, expected = run().float(), layer(x, same, top_k).float()
            error = ((y - expected).norm() / expected.norm()).item()
            if not error < 0.02:
                print(f"{case} T={tokens} {by} differs from torch by {error:.1e}", flush=True)
            del same, y, expected
            touched = routed * (1 - (1 - top_k / routed) ** tokens)  # on average
            numbers = touched * 3.0 * D * width
            if self.figure(case, "forward", tokens, by, lambda: self.timer.replay(lambda _: run(), 1),
                           numbers) is None:
                self.figure(case, "forward", tokens, by + ", no graph",
                            lambda: self.timer.events(lambda _: run(), 1), numbers)

    def package_training(self, by, case, tokens):
        D, width, routed, top_k, shared = CASES[case]
        if shared:
            return
        w = make_weights(case, "cuda", training=True)
        x = torch.randn(tokens, D, device="cuda", dtype=BF16, requires_grad=True)
        dy = torch.randn(tokens, D, device="cuda", dtype=BF16)
        numbers = routed * 3.0 * D * width
        run = lambda: PACKAGES[by](x, w, top_k, True)
        both = lambda _: torch.autograd.grad(run(), [x, *w.values()], dy)
        forward = self.figure(case, "training forward", tokens, by,
                              lambda: self.timer.events(lambda _: run().detach(), 1), numbers)
        all_ = self.figure(case, "forward+backward", tokens, by,
                           lambda: self.timer.events(both, 1), 3 * numbers, 3)
        if forward and all_:
            self.figure(case, "backward", tokens, by, lambda: all_ - forward, 2 * numbers, 2)

    def transformers_layer(self, case, tokens):
        import transformers
        from transformers.models.deepseek_v3 import modeling_deepseek_v3 as v3
        from transformers.models.deepseek_v3.configuration_deepseek_v3 import DeepseekV3Config

        D, width, routed, top_k, shared = CASES[case]
        if shared == 0:
            return  # this block always has shared experts
        self.stack += "" if "transformers" in self.stack else f", transformers {transformers.__version__}"
        config = DeepseekV3Config(
            hidden_size=D, moe_intermediate_size=width, n_routed_experts=routed,
            num_experts_per_tok=top_k, n_shared_experts=shared, n_group=1, topk_group=1,
            num_hidden_layers=1, num_attention_heads=16, num_key_value_heads=16, vocab_size=128)
        for experts in self.options.experts.split(","):
            config._experts_implementation = experts
            with torch.device("cuda"):
                block = v3.DeepseekV3MoE(config).to(BF16)
            with torch.no_grad():
                for p in block.parameters():
                    p.normal_(0, 0.02)
                x = torch.randn(1, tokens, D, device="cuda", dtype=BF16)
                run = lambda _: block(x)
                touched = routed * (1 - (1 - top_k / routed) ** tokens)  # on average
                numbers = (touched + shared) * 3.0 * D * width
                by = "transformers " + experts
                if experts == "eager" or self.figure(case, "forward", tokens, by,
                                                     lambda: self.timer.replay(run, 1),
                                                     numbers) is None:
                    self.figure(case, "forward", tokens, by + ", no graph",
                                lambda: self.timer.events(run, 1), numbers)
            del block


def check():
    """layer() against a loop over experts in f64, small, on whatever device there is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    CASES["small"] = (64, 48, 8, 3, 1)
    torch.manual_seed(1)
    w = make_weights("small", device)
    x = torch.randn(40, 64, device=device, dtype=BF16)
    y = layer(x, w, 3).double()
    d = {name: m.double() for name, m in w.items()}
    scores = F.linear(x, w["router"]).float().softmax(-1)
    weights, experts = scores.topk(3, dim=-1)
    z = torch.zeros_like(y)
    ffn = lambda v, up, down: F.linear(F.silu((v @ up.T).chunk(2, -1)[0]) *
                                       (v @ up.T).chunk(2, -1)[1], down)
    for t in range(40):
        v = x[t].double()
        z[t] = ffn(v, d["shared_up"], d["shared_down"])
        for g, e in zip(weights[t].double(), experts[t]):
            z[t] += g * ffn(v, d["up"][e], d["down"][e])
    error = ((y - z).norm() / z.norm()).item()
    print(f"layer() differs from a loop in f64 by {error:.1e}")
    if not error < 0.02:
        sys.exit("that is too much")


def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ask.add_argument("--cases", default="16B", help="comma-separated: " + ", ".join(CASES))
    ask.add_argument("--tokens", default="1,8,64,512,4096,32768")
    ask.add_argument("--training", default="", help="tokens, for forward and backward")
    ask.add_argument("--by", default="torch", help="torch,compile,transformers,sonicmoe,liger")
    ask.add_argument("--compile", default="default")
    ask.add_argument("--experts", default="eager,grouped_mm")
    ask.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    ask.add_argument("--budget", type=float, default=math.inf, help="no figure begins after it")
    ask.add_argument("--out", default="", help="JSON lines are added to it")
    ask.add_argument("--check", action="store_true")
    options = ask.parse_args()
    start = time.perf_counter()
    if options.check:
        check()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    bench = Bench(options)
    print(f"{torch.cuda.get_device_name()}, {bench.stack}: dense {bench.limits[0] * 1e-12:.0f} "
          f"TFLOP/s, copy {bench.limits[1] * 1e-9:.0f} GB/s", flush=True)
    split = lambda text: [int(n) for n in text.split(",") if n]
    for case in options.cases.split(","):
        works = [(bench.torch_layer, t) for t in split(options.tokens)
                 if {"torch", "compile"} & set(options.by.split(","))]
        works += [(bench.torch_training, t) for t in split(options.training)
                  if {"torch", "compile"} & set(options.by.split(","))]
        for by in PACKAGES.keys() & set(options.by.split(",")):
            works += [(functools.partial(bench.package_layer, by), t) for t in split(options.tokens)]
            works += [(functools.partial(bench.package_training, by), t)
                      for t in split(options.training)]
        if "transformers" in options.by:
            works += [(bench.transformers_layer, t) for t in split(options.tokens)]
        for work, tokens in works:
            if time.perf_counter() - start > options.budget:
                print(f"{case} T={tokens}: no time left", flush=True)
                continue
            try:
                work(case, tokens)
            except Exception as e:  # a package that is not there, or not for this torch
                print(f"{case} T={tokens} {work} failed: {e!r:.300}", flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
