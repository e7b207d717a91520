#!/usr/bin/env python3
"""What bench cpu is compared with in PyTorch: one layer on the CPU, as one writes it there.

  torch_layer.py NUMBERS D F ROUTED TOP_K SHARED THREADS

NUMBERS holds the layer's f32 weights, one after the other: router, gates, ups and downs of the routed
experts, and the shared one's. Prints the version and a line of the ways it knows; then answers each line
on its input with a line, "ok":

  batches FILE SETS TOKENS     f32 inputs (SETS, TOKENS, D), behind which is room for one y
  run DTYPE WAY SET            y of an input, the router included

The way is how experts are run: "loop" multiplies expert by expert, "grouped" sorts tokens and calls
grouped_mm, as cuda_peers.py does on a GPU, "compiled" is that through torch.compile. Weights and inputs
are in DTYPE, f32 or bf16, before the call; the router's softmax is in f32.
"""
# SPDX-License-Identifier: Apache-2.0
import sys

import torch
import torch.nn.functional as F

import cuda_peers

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def read(path, count):
    return torch.from_file(path, shared=True, size=count, dtype=torch.float32)


class layer:
    def __init__(self, path, hidden, width, routed, top_k, shared):
        self.top_k = top_k
        sizes = [routed * hidden, *[routed * width * hidden] * 3, *[shared * width * hidden] * 3]
        router, *experts = read(path, sum(sizes)).split(sizes)
        gate, up = (w.view(routed, width, hidden) for w in experts[:2])
        exact = {"router": router.view(routed, hidden).clone(), "up": torch.cat([gate, up], 1),
                 "down": experts[2].view(routed, hidden, width).clone()}
        if shared > 0:
            exact["shared_up"] = torch.cat([w.view(-1, hidden) for w in experts[3:5]])
            exact["shared_down"] = experts[5].view(hidden, -1).clone()
        self.weights = {"f32": exact,
                        "bf16": {name: w.to(torch.bfloat16) for name, w in exact.items()}}

    def loop(self, x, w):
        weights, experts = F.linear(x, w["router"]).float().softmax(-1).topk(self.top_k, dim=-1)
        y = swiglu(x, w["shared_up"], w["shared_down"]) if "shared_up" in w else torch.zeros_like(x)
        for e in experts.unique().tolist():
            token, k = torch.where(experts == e)
            part = swiglu(x[token], w["up"][e], w["down"][e])
            y.index_add_(0, token, part * weights[token, k, None].to(x.dtype))
        return y

    def grouped(self, x, w):
        return cuda_peers.layer(x, w, self.top_k)


def swiglu(x, up, down):
    gate, up = F.linear(x, up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, down)


def main():
    hidden, *numbers, threads = map(int, sys.argv[2:])
    torch.set_num_threads(threads)
    model = layer(sys.argv[1], hidden, *numbers)
    ways = {"loop": model.loop}
    if hasattr(F, "grouped_mm"):
        ways["grouped"] = model.grouped
        ways["compiled"] = torch.compile(model.grouped, dynamic=True)
    print(torch.__version__, flush=True)
    print(" ".join(ways), flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        if word == "batches":
            sets, tokens = map(int, rest[1:])
            size = sets * tokens * hidden
            both = read(rest[0], size + tokens * hidden)
            x, y = both[:size].view(sets, tokens, hidden), both[size:].view(tokens, hidden)
            inputs = {name: x.to(dtype) for name, dtype in DTYPES.items()}
        else:
            dtype, way, index = rest
            y.copy_(ways[way](inputs[dtype][int(index)], model.weights[dtype]))
        print("ok", flush=True)


with torch.no_grad():
    main()
