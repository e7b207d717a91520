#!/usr/bin/env python3
# Writes latent.jsonl beside this file: latent attention, and whole models with it, as DeepSeek-V2 and
# V3 publish them, in double, with torch's gradients. With --check, compares.
# SPDX-License-Identifier: Apache-2.0
"""One JSON object a line: a case's config by its name in latent.cpp, its numbers, its results.

Written from modeling_deepseek.py of V2 and V3: DeepseekV2Attention, DeepseekV2YarnRotaryEmbedding,
DeepseekV2DecoderLayer. Inputs are drawn as make.py draws them; weights by their names, gains around 1.
"""
import json
import math
import pathlib
import sys
from types import SimpleNamespace

import torch
from torch.nn.functional import linear, silu

import formulas as f
from make import NUMBERS, differences, draw, numbers_of, seed_of, word

YARN = dict(factor=40.0, original=4096, fast=32, slow=1)
STAGES = {  # hidden, heads; of published configs q_lora_rank, kv_lora_rank, qk_nope_head_dim, ...
    "straight": dict(hidden=7, heads=3, q_rank=0, kv_rank=9, nope=5, rope=4, value=6, yarn=None),
    "compressed": dict(hidden=7, heads=2, q_rank=5, kv_rank=6, nope=4, rope=6, value=3, yarn=None,
                       theta=50000.0),
    "yarn": dict(hidden=7, heads=2, q_rank=6, kv_rank=8, nope=4, rope=12, value=5,
                 yarn=dict(YARN, mscale=0.75, mscale_all=0.5)),
    "short": dict(hidden=7, heads=2, q_rank=0, kv_rank=8, nope=4, rope=16, value=5,
                  yarn=dict(factor=4.0, original=64, fast=8, slow=2, mscale=1.0, mscale_all=1.0)),
}
MODEL = dict(hidden=16, vocabulary=32, dense_width=24, moe_width=6, heads=3, rope=4, value=5)
MODELS = {
    "v2": dict(MODEL, layers=3, dense=1, q_rank=0, kv_rank=10, nope=6, gate=f.deepseek_v2,
               routed=8, top_k=3, shared=2, yarn=dict(YARN, mscale=0.75, mscale_all=0.75)),
    "v3": dict(MODEL, layers=3, dense=2, q_rank=9, kv_rank=11, nope=5, gate=f.deepseek_v3,
               routed=16, top_k=4, shared=1, groups=4, limit=2, scale=2.5, norm=True, bias=True,
               yarn=dict(YARN, mscale=1.0, mscale_all=1.0)),
}


def rms_norm(x, gain):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * gain


# ---- rotary positions


def get_mscale(scale, mscale):
    return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0


def frequencies(dim, yarn, base):
    extra = 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.double) / dim)
    if not yarn:
        return extra
    inter = extra / yarn["factor"]

    def correction_dim(rotations):
        return (dim * math.log(yarn["original"] / (rotations * 2 * math.pi))) / (2 * math.log(base))

    low = max(math.floor(correction_dim(yarn["fast"])), 0)
    high = min(math.ceil(correction_dim(yarn["slow"])), dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.double) - low) / (high - low)).clamp(0, 1)
    mask = 1.0 - ramp
    return inter * (1 - mask) + extra * mask


def rotate_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def apply_rotary(x, positions, yarn, theta):
    """x (T, heads, dim), whose pairs are neighbours as weights are stored."""
    T, heads, dim = x.shape
    x = x.view(T, heads, dim // 2, 2).transpose(3, 2).reshape(T, heads, dim)
    angles = torch.outer(positions, frequencies(dim, yarn, theta))
    angles = torch.cat((angles, angles), -1)[:, None]
    size = 1.0
    if yarn:
        size = (get_mscale(yarn["factor"], yarn["mscale"]) /
                get_mscale(yarn["factor"], yarn["mscale_all"]))
    return x * angles.cos() * size + rotate_half(x) * angles.sin() * size


# ---- attention


def attention(x, w, c, positions):
    T = x.shape[0]
    if c.q_rank:
        q = linear(rms_norm(linear(x, w["q_a"]), w["q_a_norm"]), w["q_b"])
    else:
        q = linear(x, w["q_proj"])
    q_nope, q_pe = q.view(T, c.heads, c.nope + c.rope).split([c.nope, c.rope], -1)
    compressed, k_pe = linear(x, w["kv_a"]).split([c.kv_rank, c.rope], -1)
    kv = linear(rms_norm(compressed, w["kv_a_norm"]), w["kv_b"])
    k_nope, values = kv.view(T, c.heads, c.nope + c.value).split([c.nope, c.value], -1)
    q_pe = apply_rotary(q_pe, positions, c.yarn, c.theta)
    k_pe = apply_rotary(k_pe.view(T, 1, c.rope), positions, c.yarn, c.theta)
    k_pe = k_pe.expand(T, c.heads, c.rope)
    queries, keys = torch.cat((q_nope, q_pe), -1), torch.cat((k_nope, k_pe), -1)
    scale = (c.nope + c.rope) ** -0.5
    if c.yarn and c.yarn["mscale_all"]:
        scale *= get_mscale(c.yarn["factor"], c.yarn["mscale_all"]) ** 2
    scores = torch.einsum("qhd,khd->hqk", queries, keys) * scale
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    return linear(torch.einsum("hqk,khd->qhd", weights, values).reshape(T, -1), w["output"])


def attention_shapes(c):
    shapes = {"q_proj": (c.heads * (c.nope + c.rope), c.hidden)}
    if c.q_rank:
        shapes = {"q_a": (c.q_rank, c.hidden), "q_a_norm": (1, c.q_rank),
                  "q_b": (c.heads * (c.nope + c.rope), c.q_rank)}
    return {**shapes, "kv_a": (c.kv_rank + c.rope, c.hidden), "kv_a_norm": (1, c.kv_rank),
            "kv_b": (c.heads * (c.nope + c.value), c.kv_rank),
            "output": (c.hidden, c.heads * c.value)}


PUBLISHED = {"q_proj": "q_proj", "q_a": "q_a_proj", "q_a_norm": "q_a_layernorm", "q_b": "q_b_proj",
             "kv_a": "kv_a_proj_with_mqa", "kv_a_norm": "kv_a_layernorm", "kv_b": "kv_b_proj",
             "output": "o_proj"}


def drawn(c, name, rows, cols):
    numbers = draw(c, name, rows, cols)
    if "norm" in name:
        numbers = 1 + numbers / 2
    return numbers


def stage_case(c, shapes, attention):
    """Values and gradients of attention(x, w, c, positions)."""
    w = {name: drawn(c, name, *shape).requires_grad_() for name, shape in shapes.items()}
    x = draw(c, "x", c.tokens, c.hidden, 96).requires_grad_()
    positions = torch.tensor(c.positions or range(c.tokens), dtype=torch.double)
    y = attention(x, w, c, positions)
    (y * draw(c, "dy", c.tokens, c.hidden)).sum().backward()
    return {"y": y, "dx": x.grad, **{"d" + name: number.grad for name, number in w.items()}}


def attention_case(c):
    return stage_case(c, attention_shapes(c), attention)


# ---- whole models, of weights by their published names


def model_case(c):
    def weight(name, rows, cols):
        return drawn(c, name, rows, cols) if "norm" in name or "bias" in name else drawn(
            c, name, rows, cols) / 2

    def expert_weights(place, width, names):
        shapes = {"gate": (width, c.hidden), "up": (width, c.hidden), "down": (c.hidden, width)}
        return {names + part: weight(f"{place}{part}_proj.weight", *shape)
                for part, shape in shapes.items()}

    ids = [word(seed_of(c.seed, "ids"), t) % c.vocabulary for t in range(c.tokens)]
    h = weight("model.embed_tokens.weight", c.vocabulary, c.hidden)[ids]
    positions = torch.arange(c.tokens, dtype=torch.double)
    for n in range(c.layers):
        layer = f"model.layers.{n}."
        gain = weight(layer + "input_layernorm.weight", 1, c.hidden)
        w = {name: weight(f"{layer}self_attn.{PUBLISHED[name]}.weight", *shape)
             for name, shape in attention_shapes(c).items()}
        h = h + attention(rms_norm(h, gain), w, c, positions)
        x = rms_norm(h, weight(layer + "post_attention_layernorm.weight", 1, c.hidden))
        mlp = layer + "mlp."
        if n < c.dense:
            w = expert_weights(mlp, c.dense_width, "")
            h = h + linear(silu(linear(x, w["gate"])) * linear(x, w["up"]), w["down"])
            continue
        w = expert_weights(mlp + "shared_experts.", c.shared * c.moe_width, "shared.")
        for i in range(c.routed):
            w.update(expert_weights(f"{mlp}experts.{i}.", c.moe_width, f"experts.{i}."))
        w["router"] = weight(mlp + "gate.weight", c.routed, c.hidden)
        if c.bias:
            w["bias"] = weight(mlp + "gate.e_score_correction_bias", 1, c.routed)
        choice = c.gate(x, w, c)
        h = h + f.mixture(x, w, c, choice, f.kept(choice, c))
    h = rms_norm(h, weight("model.norm.weight", 1, c.hidden))
    return {"logits": linear(h, weight("lm_head.weight", c.vocabulary, c.hidden))}


def cases():
    """(name, config, numbers) of each."""
    for config in STAGES:
        yield config + " of 11 tokens", config, dict(tokens=11)
        yield config + " of one token", config, dict(tokens=1)
    far = [0, 1, 2, 900, 901, 4095, 4096, 70000, 160000]
    for config in ("yarn", "short"):
        yield config + " at far positions", config, dict(tokens=len(far), positions=far)
    for config in MODELS:
        yield "model " + config, config, dict(tokens=13)


# ---- records, of any such file


def record(name, config, numbers, stages, models, attention_case, model_case):
    c = SimpleNamespace(**{**NUMBERS, "positions": None, "theta": 10000.0, "yarn": None,
                           "renormalise": False, **stages.get(config, {}),
                           **models.get(config, {}), **numbers})
    c.asked = 0
    first = seed_of(0, name)
    for n in range(1000):
        f.Margins.clear()
        c.seed = word(first, n) >> 32
        result = attention_case(c) if config in stages else model_case(c)
        if config in stages or (f.Margins.least > 2e-5 and f.Margins.ties == 0):
            break
    else:
        raise RuntimeError("no seed makes this case sound: " + name)
    line = {"name": name, "config": config, "seed": c.seed, "T": c.tokens}
    if c.positions:
        line["positions"] = c.positions
    line.update({key: numbers_of(value) for key, value in result.items()})
    return line


def main(path, cases, *makers):
    made = [record(*case, *makers) for case in cases]
    stored = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    by_name = {line["name"]: line for line in stored}
    if sys.argv[1:] != ["--check"]:
        lines = [line if any(differences(by_name.get(line["name"], {}), line))
                 else by_name[line["name"]] for line in made]
        path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
        print(f"{len(made)} cases: {path.stat().st_size} bytes")
        return 0
    wrong = [line["name"] for line in made] != [line["name"] for line in stored]
    for line in made:
        for what in differences(by_name.get(line["name"], {}), line):
            wrong = True
            print(f"{line['name']}: {what}")
    print(f"{len(made)} cases compared", "with differences" if wrong else "")
    return int(wrong)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(pathlib.Path(__file__).parent / "latent.jsonl", cases(), STAGES, MODELS,
                  attention_case, model_case))
