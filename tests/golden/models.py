#!/usr/bin/env python3
# Writes models.jsonl beside this file: attention in the forms of published mixtures, and whole models
# of OLMoE, Qwen, Mixtral, GLM-4.5 and MiniMax-M2, in double, with torch's gradients. With --check, compares.
# SPDX-License-Identifier: Apache-2.0
"""One JSON object a line: a case's config by its name in models.cpp, its numbers, its results.

Written from modeling_olmoe.py, modeling_qwen2_moe.py, modeling_qwen3_moe.py, modeling_mixtral.py,
modeling_glm4_moe.py, modeling_minimax_m2.py, modeling_granitemoe.py and modeling_rope_utils.py of transformers. Inputs are drawn as latent.py draws them.
"""
import math
import pathlib
import sys

import torch
from torch.nn.functional import linear, silu

import formulas as f
from latent import drawn, frequencies, get_mscale, main, rotate_half, stage_case
from make import draw, seed_of, word

STAGE = dict(hidden=7, heads=4, kv_heads=2, head_dim=6, rotary=6, bias=False, norm="none", eps=1e-6)
STAGES = {
    "biased": dict(STAGE, bias=True, theta=1000000.0),
    "each": dict(STAGE, norm="each", theta=1000000.0),
    "all": dict(STAGE, norm="all", eps=1e-5),
    "yarn": dict(STAGE, bias=True, norm="each", eps=0.25, theta=1000.0,
                 yarn=dict(factor=4.0, original=64, fast=8, slow=1, mscale=1.0, mscale_all=0.0)),
    "yarn_all": dict(STAGE, theta=1000.0, yarn=dict(factor=4.0, original=64, fast=8, slow=1,
                                                    mscale=0.75, mscale_all=0.5)),
    "partial": dict(STAGE, bias=True, norm="each", rotary=4, theta=1000000.0),
    "scaled": dict(STAGE, theta=1500000.0, attention_multiplier=0.15),  # Granite's
}
MODEL = dict(STAGE, hidden=16, vocabulary=32, layers=3, moe_width=6, routed=8, top_k=3, shared=0,
             block="mlp.", gate="gate_proj", up="up_proj", down="down_proj", dense=0,
             shared_name="shared_expert.", shared_gate=False, selection_bias="")
MIXTRAL = dict(MODEL, block="block_sparse_moe.", gate="w1", up="w3", down="w2", renormalise=True)
MODELS = {
    "olmoe": dict(MODEL, kv_heads=4, head_dim=4, rotary=4, norm="all", eps=1e-5),
    "qwen2_moe": dict(MODEL, head_dim=4, rotary=4, bias=True, theta=1000000.0, shared=4, shared_gate=True),
    "qwen3_moe": dict(MODEL, norm="each", theta=1000000.0, renormalise=True),
    "mixtral": dict(MIXTRAL, head_dim=4, rotary=4, theta=1000000.0, eps=1e-5, top_k=2),
    "glm4_moe": dict(MODEL, bias=True, norm="each", rotary=4, theta=1000000.0, eps=1e-5, dense=1,
                     dense_width=24, shared=1, shared_name="shared_experts.", scale=2.5,
                     renormalise=True, selection_bias="gate.e_score_correction_bias"),
    "minimax_m2": dict(MIXTRAL, norm="all", rotary=4, theta=5000000.0,
                       selection_bias="e_score_correction_bias"),
}


def rms_norm(x, gain, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * gain


def apply_rotary(x, positions, c):
    """x (T, heads, dim), of whose first numbers pairs are half of these apart."""
    x, rest = x[..., :c.rotary], x[..., c.rotary:]
    angles = torch.outer(positions, frequencies(c.rotary, c.yarn, c.theta))
    angles = torch.cat((angles, angles), -1)[:, None]
    factor = 1.0  # "attention_factor"
    if c.yarn:
        factor = (get_mscale(c.yarn["factor"], c.yarn["mscale"]) /
                  get_mscale(c.yarn["factor"], c.yarn["mscale_all"]))
    x = x * (angles.cos() * factor) + rotate_half(x) * (angles.sin() * factor)
    return torch.cat((x, rest), -1)


def attention(x, w, c, positions):
    def projected(name, heads, norm):
        made = linear(x, w[name], w[name + "_bias"][0] if c.bias else None)
        if norm and c.norm == "all":
            made = rms_norm(made, w[name + "_norm"], c.eps)
        made = made.view(x.shape[0], heads, c.head_dim)
        if norm and c.norm == "each":
            made = rms_norm(made, w[name + "_norm"], c.eps)
        return made

    q = apply_rotary(projected("query", c.heads, True), positions, c)
    k = apply_rotary(projected("key", c.kv_heads, True), positions, c)
    v = projected("value", c.kv_heads, False)
    k, v = (m.repeat_interleave(c.heads // c.kv_heads, 1) for m in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k)
    multiplier = getattr(c, "attention_multiplier", None)
    scores = scores * multiplier if multiplier else scores / math.sqrt(c.head_dim)
    later = torch.ones(scores.shape[1:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, -math.inf).softmax(-1)
    mixed = torch.einsum("hqk,khd->qhd", weights, v).reshape(x.shape[0], -1)
    return linear(mixed, w["output"])


def attention_shapes(c):
    wide = {"query": c.heads * c.head_dim, "key": c.kv_heads * c.head_dim,
            "value": c.kv_heads * c.head_dim}
    shapes = {name: (rows, c.hidden) for name, rows in wide.items()}
    shapes["output"] = (c.hidden, wide["query"])
    if c.bias:
        shapes.update({name + "_bias": (1, rows) for name, rows in wide.items()})
    if c.norm != "none":
        shapes.update({name + "_norm": (1, wide[name] if c.norm == "all" else c.head_dim)
                       for name in ("query", "key")})
    return shapes


PUBLISHED = {"query": "q_proj.weight", "key": "k_proj.weight", "value": "v_proj.weight",
             "output": "o_proj.weight", "query_bias": "q_proj.bias", "key_bias": "k_proj.bias",
             "value_bias": "v_proj.bias", "query_norm": "q_norm.weight",
             "key_norm": "k_norm.weight"}


def attention_case(c):
    return stage_case(c, attention_shapes(c), attention)


def model_case(c):
    def weight(name, rows, cols):
        whole = "norm" in name or "bias" in name
        return drawn(c, name, rows, cols) / (1 if whole else 2)

    def expert_weights(place, width, names):
        shapes = {"gate": (width, c.hidden), "up": (width, c.hidden), "down": (c.hidden, width)}
        words = {"gate": c.gate, "up": c.up, "down": c.down}
        return {names + part: weight(f"{place}{words[part]}.weight", *shape)
                for part, shape in shapes.items()}

    ids = [word(seed_of(c.seed, "ids"), t) % c.vocabulary for t in range(c.tokens)]
    h = weight("model.embed_tokens.weight", c.vocabulary, c.hidden)[ids]
    positions = torch.arange(c.tokens, dtype=torch.double)
    c.norm_heads, c.routing_norm = c.norm, c.renormalise
    for n in range(c.layers):
        layer = f"model.layers.{n}."
        w = {name: weight(f"{layer}self_attn.{PUBLISHED[name]}", *shape)
             for name, shape in attention_shapes(c).items()}
        gain = weight(layer + "input_layernorm.weight", 1, c.hidden)
        h = h + attention(rms_norm(h, gain, c.eps), w, c, positions)
        gain = weight(layer + "post_attention_layernorm.weight", 1, c.hidden)
        x = rms_norm(h, gain, c.eps)
        moe = layer + c.block
        if n < c.dense:
            w = expert_weights(moe, c.dense_width, "")
            h = h + linear(silu(linear(x, w["gate"])) * linear(x, w["up"]), w["down"])
            continue
        w = {"router": weight(moe + "gate.weight", c.routed, c.hidden)}
        if c.selection_bias:
            w["bias"] = weight(moe + c.selection_bias, 1, c.routed)
        if c.shared:
            w.update(expert_weights(moe + c.shared_name, c.shared * c.moe_width, "shared."))
        if c.shared_gate:
            w["shared_gate"] = weight(moe + "shared_expert_gate.weight", 1, c.hidden)
        for i in range(c.routed):
            w.update(expert_weights(f"{moe}experts.{i}.", c.moe_width, f"experts.{i}."))
        c.norm = c.routing_norm
        choice = (f.deepseek_v3(x, w, c) if c.selection_bias else
                  f.mixtral(x, w, c, rounded=lambda number: number))
        h = h + f.mixture(x, w, c, choice, f.kept(choice, c))
        c.norm = c.norm_heads
    h = rms_norm(h, weight("model.norm.weight", 1, c.hidden), c.eps)
    return {"logits": linear(h, weight("lm_head.weight", c.vocabulary, c.hidden))}


def cases():
    """(name, config, numbers) of each."""
    far = [0, 1, 2, 900, 901, 4095, 4096, 70000, 160000]
    for config in STAGES:
        yield config + " of 11 tokens", config, dict(tokens=11)
        yield config + " at far positions", config, dict(tokens=len(far), positions=far)
    for config in MODELS:
        yield "model " + config, config, dict(tokens=13)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main(pathlib.Path(__file__).parent / "models.jsonl", cases(), STAGES, MODELS,
                  attention_case, model_case))
