#!/usr/bin/env python3
"""What bench train is compared with: the same decoder, on the CPU, as one writes it with PyTorch.

  train_torch.py MODEL.json WEIGHTS.safetensors IDS [THREADS]

MODEL.json holds the numbers of a config, WEIGHTS a checkpoint of finegrain's trainer, IDS batches of
32-bit ids (sequences, length + 1). Prints "ready"; then answers each line "WAY N" on its input with a
line of JSON: the seconds of the next N steps, and their losses.

A step is forward, cross-entropy and expert-level balance loss, backward, clipping, AdamW. The way is how
experts are run: "loop" sorts the tokens by expert, once, and multiplies expert by expert; "padded" pads
every expert's tokens to the longest list, and multiplies all in one bmm. A dense model has one way.
"""
# SPDX-License-Identifier: Apache-2.0
import json
import math
import struct
import sys
import time

import numpy
import torch
import torch.nn.functional as F


def read_weights(path):
    """The tensors of a checkpoint whose names begin with "weights."."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        data = file.read()
    found = {}
    for name, entry in header.items():
        if name.startswith("weights."):
            begin, end = entry["data_offsets"]
            numbers = numpy.frombuffer(data[begin:end], dtype=numpy.float32).copy()
            found[name[len("weights."):]] = torch.from_numpy(numbers).view(*entry["shape"])
    return found


class decoder(torch.nn.Module):
    def __init__(self, m, w):
        super().__init__()
        self.m = m
        self.experts = "loop"
        self.decayed, self.plain = [], []

        def keep(numbers, decays=True):
            p = torch.nn.Parameter(numbers.contiguous())
            (self.decayed if decays else self.plain).append(p)
            return p

        def matrix(name):
            return keep(w[name])

        def gain(name):
            return keep(w[name].flatten(), decays=False)

        self.table = matrix("embedding.table")
        self.layers = []
        for i in range(m["layers"]):
            at = f"layers.{i}."
            layer = {
                "norm": gain(at + "rmsnorm.gain"),
                # one product for query, key and value, one for gate and up
                "qkv": keep(torch.cat([w[at + f"attention.{n}"] for n in ("query", "key", "value")])),
                "out": matrix(at + "attention.output"),
                "norm_2": gain(at + "rmsnorm_2.gain"),
            }
            if m["routed"] == 0:
                layer["up"] = keep(torch.cat([w[at + "mlp.gate"], w[at + "mlp.up"]]))
                layer["down"] = matrix(at + "mlp.down")
            else:
                at += "mixture."
                layer["router"] = matrix(at + "router")
                each = range(m["routed"])
                layer["up"] = keep(torch.stack([torch.cat([w[at + f"experts.{e}.gate"],
                                                           w[at + f"experts.{e}.up"]]) for e in each]))
                layer["down"] = keep(torch.stack([w[at + f"experts.{e}.down"] for e in each]))
                if m["shared"] > 0:
                    layer["shared_up"] = keep(torch.cat([w[at + "shared.gate"], w[at + "shared.up"]]))
                    layer["shared_down"] = matrix(at + "shared.down")
            self.layers.append(layer)
        self.norm = gain("rmsnorm.gain")
        self.head = matrix("head.weight")

        length, dim = m["length"], m["hidden"] // m["heads"]
        angle = torch.arange(length).double()[:, None] * 10000.0 ** (
            -2.0 * torch.arange(dim // 2).double() / dim)
        self.cos, self.sin = angle.cos().float(), angle.sin().float()
        self.mask = torch.full((length, length), -math.inf).triu(1)

    def turned(self, x):  # (S, heads, length, dim)
        u, v = x.chunk(2, -1)
        return torch.cat([u * self.cos - v * self.sin, u * self.sin + v * self.cos], -1)

    def attention(self, x, layer):
        m = self.m
        sequences, length, heads = x.shape[0] // m["length"], m["length"], m["heads"]
        q, k, v = F.linear(x, layer["qkv"]).view(sequences, length, 3, heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.turned(q), self.turned(k)
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            flat = [a.reshape(sequences * heads, length, -1) for a in (q, k, v)]
            scores = torch.baddbmm(self.mask, flat[0], flat[1].transpose(1, 2),
                                   alpha=1 / math.sqrt(q.shape[-1]))
            y = torch.bmm(scores.softmax(-1), flat[2]).view(sequences, heads, length, -1)
        return F.linear(y.transpose(1, 2).reshape(x.shape), layer["out"])

    def mixture(self, x, layer):
        m = self.m
        if m["routed"] == 0:
            return swiglu(x, layer["up"], layer["down"]), None
        routed, top_k, tokens = m["routed"], m["top_k"], x.shape[0]
        scores = F.linear(x, layer["router"]).softmax(-1)
        weights, experts = scores.topk(top_k, dim=-1)
        flat = experts.flatten()
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=routed)
        balance = routed / (top_k * tokens) * (counts * scores.mean(0)).sum()
        rows = x.index_select(0, order // top_k)
        if self.experts == "loop":
            parts = [swiglu(part, up, down) if len(part) else part
                     for part, up, down in zip(rows.split(counts.tolist()), layer["up"].unbind(0),
                                               layer["down"].unbind(0))]
            rows = torch.cat(parts)
        else:
            most = int(counts.max())
            first = counts.cumsum(0) - counts
            chosen = flat.index_select(0, order)
            place = chosen * most + torch.arange(len(order)) - first.index_select(0, chosen)
            padded = x.new_zeros(routed * most, x.shape[1]).index_copy(0, place, rows)
            gate, up = torch.bmm(padded.view(routed, most, -1),
                                 layer["up"].transpose(1, 2)).chunk(2, -1)
            padded = torch.bmm(F.silu(gate) * up, layer["down"].transpose(1, 2))
            rows = padded.view(routed * most, -1).index_select(0, place)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
        y = torch.bmm(weights.unsqueeze(1), rows.index_select(0, back).view(tokens, top_k, -1)).squeeze(1)
        if m["shared"] > 0:
            y = y + swiglu(x, layer["shared_up"], layer["shared_down"])
        return y, balance

    def forward(self, ids, targets):
        x, balance = F.embedding(ids, self.table), 0.0
        for layer in self.layers:
            x = x + self.attention(rmsnorm(x, layer["norm"]), layer)
            y, loss = self.mixture(rmsnorm(x, layer["norm_2"]), layer)
            x = x + y
            if loss is not None:
                balance = balance + self.m["balance"] * loss
        loss = F.cross_entropy(F.linear(rmsnorm(x, self.norm), self.head), targets)
        return loss, loss + balance


def rmsnorm(x, gain):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain


def swiglu(x, up, down):
    gate, up = F.linear(x, up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, down)


def main():
    m = json.load(open(sys.argv[1]))
    torch.set_num_threads(int(sys.argv[4]) if len(sys.argv) > 4 else 2)
    net = decoder(m, read_weights(sys.argv[2]))
    ids = torch.from_numpy(numpy.fromfile(sys.argv[3], dtype=numpy.int32).astype(numpy.int64))
    ids = ids.view(-1, m["sequences"], m["length"] + 1)
    optimizer = torch.optim.AdamW(
        [{"params": net.decayed, "weight_decay": m["weight_decay"]},
         {"params": net.plain, "weight_decay": 0.0}],
        lr=m["lr"], betas=(0.9, 0.95), eps=1e-8, foreach=True)
    done = 0

    def steps(count):
        nonlocal done
        losses, begin = [], time.perf_counter()
        for _ in range(count):
            batch = ids[done % len(ids)]
            optimizer.zero_grad(set_to_none=True)
            loss, total = net(batch[:, :-1].reshape(-1), batch[:, 1:].reshape(-1))
            total.backward()
            torch.nn.utils.clip_grad_norm_(net.decayed + net.plain, 1.0)
            optimizer.step()
            losses.append(loss.detach())
            done += 1
        return time.perf_counter() - begin, [float(loss) for loss in losses]

    print("ready", flush=True)
    for line in sys.stdin:
        net.experts, count = line.split()
        seconds, losses = steps(int(count))
        print(json.dumps({"seconds": seconds, "losses": losses}), flush=True)


main()
