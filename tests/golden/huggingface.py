#!/usr/bin/env python3
# formulas.py beside the blocks of the transformers library that is installed, tiny and random.
# SPDX-License-Identifier: Apache-2.0
"""Exits with 77 where transformers is not installed, or its version has none of these blocks.

Classes, configs and the layout of weights differ between versions: blocks are found by what they
have, weights by their names and shapes.
"""
import importlib
import inspect
import re
import sys
from types import SimpleNamespace

try:
    import torch
    import transformers
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

import formulas as f
from make import NUMBERS

HIDDEN, WIDTH, TOKENS = 7, 5, 23
LIMITS = {"bf16 logits": 0.0, "bf16 weights": 2**-8}  # one unit in the last place
FAMILIES = {  # of transformers.models: (numbers of a layer, numbers of its config there)
    "deepseek_v2": [
        (dict(gate=f.deepseek_v2, routed=16, top_k=3, shared=2, scale=16.0, groups=4, limit=2),
         dict(topk_method="group_limited_greedy")),
        (dict(gate=f.deepseek_v2, routed=15, top_k=4, shared=2), dict(topk_method="greedy")),
    ],
    "deepseek_v3": [
        (dict(gate=f.deepseek_v3, routed=16, top_k=4, shared=1, scale=2.5, groups=4, limit=2,
              norm=True), {}),
        (dict(gate=f.deepseek_v3, routed=15, top_k=3, shared=1), {}),
    ],
    "deepseek_v4": [
        (dict(gate=f.deepseek_v4, routed=15, top_k=3, shared=1, scale=1.5), {}),
        (dict(gate=f.deepseek_v4, routed=15, top_k=3, shared=1, scale=1.5, table=32), {}),
    ],
    "mixtral": [(dict(gate=f.mixtral, routed=8, top_k=2, norm=True), {})],
    "qwen2_moe": [
        (dict(gate=f.mixtral, routed=15, top_k=4, shared=2, norm=norm), {})
        for norm in (False, True)
    ],
    "qwen3_moe": [
        (dict(gate=f.mixtral, routed=16, top_k=4, norm=norm), {}) for norm in (False, True)
    ],
    "olmoe": [(dict(gate=f.mixtral, routed=15, top_k=4, norm=norm), {}) for norm in (False, True)],
}


def make_block(family, c, more):
    """A block, in f32; None where this version has none."""
    try:
        configs = importlib.import_module(f"transformers.models.{family}.configuration_{family}")
        modeling = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    except ImportError:
        return None

    def only(module, pattern):
        (found,) = (kind for name, kind in vars(module).items()
                    if inspect.isclass(kind) and kind.__module__ == module.__name__ and
                    re.fullmatch(pattern, name))
        return found

    numbers = dict(
        hidden_size=HIDDEN, moe_intermediate_size=WIDTH, num_experts_per_tok=c.top_k,
        n_routed_experts=c.routed, num_experts=c.routed, num_local_experts=c.routed,
        n_shared_experts=c.shared, shared_expert_intermediate_size=c.shared * WIDTH,
        routed_scaling_factor=c.scale, n_group=c.groups, topk_group=c.limit,
        norm_topk_prob=c.norm, hidden_act="silu", num_attention_heads=1, num_key_value_heads=1,
        vocab_size=c.table or 32, num_hidden_layers=1,
    )
    if family in ("mixtral", "olmoe", "deepseek_v4"):
        numbers["intermediate_size"] = WIDTH
    if family == "deepseek_v4":
        numbers["mlp_layer_types"] = ["hash_moe" if c.table else "moe"]
    kind = only(configs, r"(?i)" + family.replace("_", "") + "config")
    accepted = inspect.signature(kind.__init__).parameters
    aliases = getattr(kind, "attribute_map", {})  # other names of numbers that are given too
    config = kind(**{key: value for key, value in {**numbers, **more}.items()
                     if key in accepted or key not in aliases})
    config._experts_implementation = "eager"
    block = only(modeling, r"\w+?(MoE|Moe|SparseMoeBlock)")
    layers = [0] if "layer_idx" in inspect.signature(block.__init__).parameters else []
    return block(config, *layers).float()


def weights_of(block, c):
    """What the block computes with, by finegrain's names, in double."""
    w = {"router": block.gate.weight}
    bias = getattr(block.gate, "e_score_correction_bias", None)
    if bias is not None:
        w["bias"] = bias[None]
    if c.table:
        w["table"] = block.gate.tid2eid

    def parts(module):
        names = ("gate_proj", "up_proj", "down_proj")
        names = names if hasattr(module, "gate_proj") else ("w1", "w3", "w2")
        return [getattr(module, name).weight for name in names]

    for i in range(c.routed):
        if hasattr(block.experts, "gate_up_proj"):
            both, down = block.experts.gate_up_proj[i], block.experts.down_proj[i]
            both = both if both.shape == (2 * WIDTH, HIDDEN) else both.t()
            down = down if down.shape == (HIDDEN, WIDTH) else down.t()
            three = [*both.chunk(2), down]
        else:
            three = parts(block.experts[i])
        for part, weight in zip(("gate", "up", "down"), three):
            w[f"experts.{i}.{part}"] = weight
    shared = getattr(block, "shared_experts", getattr(block, "shared_expert", None))
    if shared is not None:
        for part, weight in zip(("gate", "up", "down"), parts(shared)):
            w["shared." + part] = weight
    if hasattr(block, "shared_expert_gate"):
        w["shared_gate"] = block.shared_expert_gate.weight
    return {name: weight.detach().double().requires_grad_(weight.is_floating_point())
            for name, weight in w.items()}


def apart(a, b):
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def compare(family, c, more):
    """How far apart each thing is that is compared; None without a block."""
    block = make_block(family, c, more)
    if block is None:
        return None
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for number in [*block.parameters(), *block.buffers()]:
            if number.is_floating_point():
                number.copy_(torch.randint(-64, 65, number.shape, generator=draw) / 64)
            else:  # a table of experts
                number.copy_(torch.stack([torch.randperm(c.routed, generator=draw)[: c.top_k]
                                          for _ in range(len(number))]))
        bias = getattr(block.gate, "e_score_correction_bias", None)
        if bias is not None:  # above 0: then it is the same whether other groups get 0 or -inf
            bias.copy_(bias / 4 + 1)
    x = torch.randint(-96, 97, (1, TOKENS, HIDDEN), generator=draw).float() / 64
    dy = torch.randint(-64, 65, (1, TOKENS, HIDDEN), generator=draw).float() / 64
    c.ids = torch.randint(0, c.table or 1, (TOKENS,), generator=draw)

    x.requires_grad_()
    y = block(x, c.ids[None]) if c.table else block(x)
    y = y[0] if isinstance(y, tuple) else y
    (y * dy).sum().backward()

    w = weights_of(block, c)
    exact_x = x[0].detach().double().requires_grad_()
    exact = {} if c.gate is not f.mixtral else {"rounded": lambda number: number}
    choice = c.gate(exact_x, w, c, **exact)
    exact_y = f.mixture(exact_x, w, c, choice, choice.experts >= 0)
    (exact_y * dy[0]).sum().backward()
    found = {"y": apart(y[0], exact_y), "dx": apart(x.grad[0], exact_x.grad),
             "drouter": apart(block.gate.weight.grad, w["router"].grad)}
    if c.gate is f.mixtral:
        found.update(compare_bf16(block, c, x, w))
    return found


def compare_bf16(block, c, x, w):
    """The router of a bf16 model. Of equal scores torch takes any: weights are compared by size."""
    choice = c.gate(x[0].detach().double(), w, c)
    with torch.no_grad():
        made = block.gate.bfloat16()(x[0].detach().bfloat16())
    if not isinstance(made, tuple):  # older versions: a linear map, the rest is in the block
        return {"bf16 logits": apart(made, choice.logits)}
    logits, weights, _ = made
    weights = weights.bfloat16()  # newer versions leave that to the product with Mixtral's outputs
    return {"bf16 logits": apart(logits, choice.logits),
            "bf16 weights": apart(weights.sort(-1).values, choice.weights.sort(-1).values)}


def main():
    compared = wrong = 0
    for family, members in FAMILIES.items():
        for numbers, more in members:
            c = SimpleNamespace(**{**NUMBERS, "shared": 0, **numbers})
            found = compare(family, c, more)
            if found is None:
                print(f"{family}: not in transformers {transformers.__version__}")
                break
            compared += 1
            wrong += any(not value <= LIMITS.get(key, 1e-5) for key, value in found.items())
            print(f"{family}:", ", ".join(f"{key} {value:.1e}" for key, value in found.items()))
    print(f"transformers {transformers.__version__}: {compared} blocks compared, {wrong} differ")
    return 1 if wrong else 0 if compared else 77


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
