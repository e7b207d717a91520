#!/usr/bin/env python3
# Writes golden.jsonl beside this file: what formulas.py says of every case. With --check, compares.
# SPDX-License-Identifier: Apache-2.0
"""One JSON object a line: a case's config by its name in golden.cpp, its numbers, its results.

Inputs are not stored. They are finegrain's numbered draws, integers over a power of two, which
golden.cpp draws again: see `draw`.
"""
import json
import pathlib
import sys
from types import SimpleNamespace

import torch

import formulas as f

HIDDEN, WIDTH = 7, 3
NUMBERS = {  # of a layer; of a request; of a case's inputs
    "groups": 1, "limit": 1, "scale": 1.0, "norm": False, "score": "softmax", "pre_softmax": False,
    "bias": False, "table": 0, "cosine": 0, "router": True, "shared_gate": False,
    "shared_scale": 1.0, "act": "swiglu", "act_limit": 0.0,
    "mask_best": 0, "without_shared": False, "training": True, "by_sequence": False, "devices": 1,
    "expert": 0.0, "device": 0.0, "communication": 0.0, "sequence": 0.0, "z": 0.0,
    "importance": 0.0, "capacity": 0.0, "drop_last": False, "device_capacity": 0.0,
    "unit": 64, "first_x": 0.0, "first_router": 0.0, "temperature": 0.0, "bias_span": 24,
}
WRITTEN = (  # these numbers go into a case's line if they are not as above
    "mask_best without_shared training by_sequence devices expert device communication sequence z "
    "importance capacity drop_last device_capacity unit first_x first_router temperature bias_span"
).split()


def layer(gate, routed, top_k, shared=0, **numbers):
    return dict(gate=gate, routed=routed, top_k=top_k, shared=shared, **numbers)


SIGMOID = dict(score="sigmoid", bias=True)
GROUPS = dict(groups=4, limit=2)
LAYERS = {
    "deepseek_v1": layer(f.deepseek_v1, 15, 3, 2),
    "deepseek_v1_norm": layer(f.deepseek_v1, 16, 4, 1, norm=True),
    "deepseek_v2": layer(f.deepseek_v2, 16, 3, 2, scale=16.0, **GROUPS),
    "deepseek_v2_norm": layer(f.deepseek_v2, 16, 3, 2, norm=True, **GROUPS),
    "deepseek_v2_greedy": layer(f.deepseek_v2, 15, 4, 1),
    "deepseek_v3": layer(f.deepseek_v3, 16, 4, 1, bias=True, norm=True, scale=2.5, **GROUPS),
    "deepseek_v3_raw": layer(f.deepseek_v3, 15, 3, 1, bias=True, scale=1.5),
    "deepseek_v3_official": layer(f.deepseek_v3_official, 16, 4, 1, scale=2.5, **GROUPS),
    "deepseek_v3_official_bias": layer(
        f.deepseek_v3_official, 16, 4, 1, bias=True, scale=2.5, **GROUPS
    ),
    "megatron_post": layer(f.megatron, 15, 3),
    "megatron_post_one": layer(f.megatron, 15, 1),
    "megatron_post_groups": layer(f.megatron, 16, 4, 1, scale=2.5, groups=4, limit=2),
    "megatron_pre": layer(f.megatron, 15, 3, pre_softmax=True),
    "megatron_pre_groups": layer(f.megatron, 18, 6, pre_softmax=True, groups=3, limit=2),
    "megatron_sigmoid": layer(f.megatron, 15, 4, 1, scale=2.5, **SIGMOID),
    "megatron_sigmoid_groups": layer(f.megatron, 18, 6, groups=3, limit=2, **SIGMOID),
    "megatron_sigmoid_one": layer(f.megatron, 15, 1, score="sigmoid"),
    "megatron_softplus": layer(f.megatron, 15, 3, score="sqrt_softplus", bias=True, scale=1.5),
    "mixtral": layer(f.mixtral, 8, 2, norm=True),
    "qwen2_moe": layer(f.mixtral, 15, 4, 2, shared_gate=True),
    "qwen2_moe_norm": layer(f.mixtral, 15, 4, 2, norm=True, shared_gate=True),
    "qwen3_moe": layer(f.mixtral, 16, 4, norm=True),
    "olmoe": layer(f.mixtral, 15, 4),
    "llama_cpp": layer(f.llama_cpp, 16, 4, 1, norm=True, scale=2.5, **SIGMOID, **GROUPS),
    "llama_cpp_softmax": layer(f.llama_cpp, 15, 3, norm=True),
    "llama_cpp_floor": layer(f.llama_cpp, 15, 2, norm=True, score="sigmoid"),
    "deepseek_v4": layer(f.deepseek_v4, 15, 3, 1, bias=True, scale=1.5),
    # (a limit that no gate or up here is nearer to than bf16 tells apart)
    "deepseek_v4_limit": layer(f.deepseek_v4, 15, 3, 1, bias=True, scale=1.5, act_limit=0.4375),
    "deepseek_v4_hash": layer(f.deepseek_v4, 15, 3, 1, table=32, scale=1.5),
    "ernie_4_5": layer(f.ernie_4_5, 15, 4, 2, bias=True),
    "switch": layer(f.paper, 15, 1),
    "gshard": layer(f.paper, 15, 2, norm=True),
    "gshard_without_chance": layer(f.paper, 15, 2, norm=True),
    "hash_layer": layer(f.hash_layer, 15, 2, table=32, router=False),
    "expert_choice": layer(f.expert_choice, 15, 2, 1),
    "expert_choice_sigmoid": layer(f.expert_choice, 6, 3, score="sigmoid", scale=2.5),
    "sinkhorn": layer(f.sinkhorn_gate, 15, 2),
    "sinkhorn_one": layer(f.sinkhorn_gate, 15, 1),
    "cosine": layer(f.cosine, 15, 2, 1, cosine=5),
    "cosine_norm": layer(f.cosine, 6, 3, cosine=4, norm=True),
    "dense": layer(f.paper, 4, 4, 1),
    "dense_sigmoid": layer(f.paper, 5, 5, score="sigmoid"),
    "shared_scale": layer(f.deepseek_v3, 15, 3, 2, bias=True, norm=True, shared_scale=0.5),
    "shared_scale_gate": layer(f.paper, 15, 3, 2, shared_gate=True, shared_scale=0.25),
    "softmax": layer(f.paper, 16, 3, 1),
    "softmax_f64": layer(f.paper, 16, 3, 1),
    "sigmoid": layer(f.deepseek_v3, 16, 3, 1, bias=True, norm=True, scale=2.5),
    "geglu": layer(f.paper, 15, 3, 1, act="geglu"),
    "reglu": layer(f.paper, 15, 3, 1, act="reglu"),
    "geglu_limit": layer(f.paper, 6, 3, 1, act="geglu", act_limit=0.25),
}


def cases():
    """(name, config, numbers) of each; T and starts are among the numbers."""
    made = []

    def add(config, what="", tokens=11, starts=(), **numbers):
        starts = [0, *starts, tokens]
        made.append((config + (" " + what if what else ""), config,
                     dict(numbers, tokens=tokens, starts=starts)))

    special = {
        "cosine": dict(temperature=0.75),
        "cosine_norm": dict(temperature=1.25),
        "llama_cpp_floor": dict(first_x=4.0, first_router=-3.0),
        "gshard": dict(training=False),
    }
    for config in LAYERS:
        numbers = special.get(config, {})
        add(config, "of 9 tokens", 9, **numbers)
        add(config, "of 5 tokens", 5, **numbers)

    # Inputs: what bf16 must round; many equal scores; strong biases; too high a temperature.
    for config in ("deepseek_v1", "deepseek_v3_official_bias", "mixtral", "qwen2_moe"):
        add(config, "of inputs to be rounded", 7, unit=4096)
    for config in ("softmax", "sigmoid", "deepseek_v3", "deepseek_v2", "mixtral", "expert_choice"):
        add(config, "of equal scores", 9, unit=2)
    for config in ("deepseek_v3", "llama_cpp", "deepseek_v4", "megatron_sigmoid_groups",
                   "ernie_4_5"):
        add(config, "of strong biases", 7, bias_span=192)
    add("cosine_norm", "beyond the temperature's bound", 7, temperature=5.0)
    add("sinkhorn", "outside training", 7, training=False)
    add("deepseek_v3", "of one token", 1)

    # Requests.
    add("softmax", "asked for fewer", 7, top_k=2)
    add("deepseek_v3", "asked for one more", 7, top_k=5, training=False)
    add("softmax", "without each token's best 2", 7, mask_best=2)
    add("deepseek_v2", "without each token's best", 7, mask_best=1, training=False)
    add("sigmoid", "without shared experts", 7, without_shared=True)

    # Every loss by itself, on a router of softmax and on one of sigmoid with a bias.
    split = dict(tokens=11, starts=(4, 6))
    for config in ("softmax", "sigmoid"):
        add(config, "expert loss", **split, expert=3.0)
        add(config, "expert loss of sequences", **split, expert=3.0, by_sequence=True)
        add(config, "device loss", **split, device=3.0, devices=4)
        add(config, "device loss of sequences", **split, device=3.0, devices=4, by_sequence=True)
        add(config, "communication loss", **split, communication=3.0, devices=4)
        add(config, "communication loss of sequences", **split, communication=3.0, devices=2,
            by_sequence=True)
        add(config, "sequence loss", **split, sequence=3.0)
        add(config, "z loss", **split, z=0.5)
        add(config, "importance loss", **split, importance=2.0)
    add("deepseek_v3", "communication loss", **split, communication=3.0, devices=4)
    add("deepseek_v3", "sequence loss", **split, sequence=3.0)
    add("deepseek_v2", "losses of the report", **split, expert=0.003, device=0.05,
        communication=0.02, devices=4, by_sequence=True)
    add("deepseek_v1", "expert loss", **split, expert=3.0)
    add("deepseek_v1", "z loss", **split, z=0.5)
    add("deepseek_v3_official_bias", "expert and sequence loss", **split, expert=3.0, sequence=2.0)
    add("mixtral", "expert and z loss", **split, expert=3.0, z=0.5)
    add("expert_choice", "expert and z loss", **split, expert=3.0, z=0.5)
    add("deepseek_v4", "sequence loss", **split, sequence=3.0)
    add("deepseek_v4_hash", "expert loss", **split, expert=3.0)
    add("megatron_post", "expert and z loss", **split, expert=3.0, z=0.5)
    add("cosine", "expert and z loss", **split, expert=3.0, z=0.5, temperature=0.75)
    add("sinkhorn", "z loss", **split, z=0.5)
    add("switch", "expert loss", **split, expert=3.0)
    add("softmax", "expert loss, asked for fewer", **split, expert=3.0, top_k=2)
    add("sigmoid", "all losses", **split, expert=1.0, device=2.0, communication=3.0, sequence=1.5,
        z=0.25, importance=1.25, devices=8, by_sequence=True)

    # Capacity.
    for config in ("softmax", "sigmoid", "switch"):
        add(config, "of capacity 1", 13, capacity=1.0)
        add(config, "of capacity 1.25, first come", 13, capacity=1.25, drop_last=True)
    add("gshard_without_chance", "of capacity 0.5, first come", 13, capacity=0.5, drop_last=True)
    add("deepseek_v2", "of a device budget", 13, device_capacity=1.0, devices=4)
    add("sigmoid", "of a device budget", 13, device_capacity=0.75, devices=8)
    add("softmax", "of capacity 1 and expert loss", 13, capacity=1.0, expert=3.0)
    return made


# ---- inputs

MASK = 2**64 - 1


def word(seed, n):
    """finegrain::random_word."""
    z = (seed * 0xD1342543DE82EF95 + (n + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def seed_of(seed, name):
    for letter in name:
        seed = word(seed, ord(letter))
    return seed


def draw(c, name, rows, cols, span=64):
    """Whole numbers from -span to span over 64; or, of another unit, as many over that."""
    seed, span = seed_of(c.seed, name), span * c.unit // 64
    numbers = [(word(seed, i) % (2 * span + 1) - span) / c.unit for i in range(rows * cols)]
    return torch.tensor(numbers, dtype=torch.double).reshape(rows, cols)


def draw_table(c):
    """K different experts for each id: from anywhere, in equal steps that miss none (R is 15)."""
    rows = []
    for i in range(c.table):
        seed = seed_of(c.seed, "table")
        first, step = word(seed, 2 * i) % 15, (1, 2, 4, 7, 8, 11, 13, 14)[word(seed, 2 * i + 1) % 8]
        rows.append([float((first + k * step) % 15) for k in range(c.top_k)])
    return torch.tensor(rows, dtype=torch.double)


def inputs(c):
    w = {}
    if c.router:
        w["router"] = draw(c, "router", c.routed, c.cosine or HIDDEN)
        if c.first_router:
            w["router"][:, 0] = c.first_router
    if c.bias:
        w["bias"] = draw(c, "bias", 1, c.routed, c.bias_span)
    if c.cosine:
        w["project"] = draw(c, "project", c.cosine, HIDDEN)
        w["temperature"] = torch.full((1, 1), c.temperature, dtype=torch.double)
    if c.shared:
        width = c.shared * WIDTH
        for name, shape in (("gate", (width, HIDDEN)), ("up", (width, HIDDEN)),
                            ("down", (HIDDEN, width))):
            w["shared." + name] = draw(c, "shared." + name, *shape)
        if c.shared_gate:
            w["shared_gate"] = draw(c, "shared_gate", 1, HIDDEN)
    for i in range(c.routed):
        for name, shape in (("gate", (WIDTH, HIDDEN)), ("up", (WIDTH, HIDDEN)),
                            ("down", (HIDDEN, WIDTH))):
            w[f"experts.{i}.{name}"] = draw(c, f"experts.{i}.{name}", *shape)
    for number in w.values():
        number.requires_grad_()
    if c.bias:
        w["bias"].requires_grad_(False)
    if c.table:
        w["table"] = draw_table(c)
        ids = seed_of(c.seed, "ids")
        c.ids = torch.tensor([word(ids, t) % c.table for t in range(c.tokens)])
    x = draw(c, "x", c.tokens, HIDDEN, 96)
    if c.first_x:
        x[:, 0] = c.first_x
    return x.requires_grad_(), draw(c, "dy", c.tokens, HIDDEN), w


# ---- results


def compute(c):
    f.Margins.clear()
    x, dy, w = inputs(c)
    choice = c.gate(x, w, c)
    keep = f.kept(choice, c)
    y = f.mixture(x, w, c, choice, keep)
    loss = f.balance(choice, c)
    counts = f.counts(choice.experts, c.routed)
    result = {
        "experts": choice.experts,
        "weights": torch.where(keep, choice.weights, torch.zeros(()).double()),
        "load": counts,
        "dropped": counts - f.counts(choice.experts.masked_fill(~keep, -1), c.routed),
        "loss": loss,
        "y": y,
    }
    if float(loss.detach()) > 0:
        result["mean_score"] = choice.probabilities.mean(0)
    if c.training:
        ((y * dy).sum() + loss).backward()
        zero = torch.zeros(()).double()

        def d(name):
            return zero.expand(w[name].shape) if w[name].grad is None else w[name].grad

        result["dx"] = x.grad
        for name in ("router", "project", "temperature", "shared_gate"):
            if name in w:
                result["d" + name] = d(name)
        parts = ("gate", "up", "down")
        if c.shared:
            result["dshared"] = torch.stack([d(f"shared.{part}").sum() for part in parts])
        result["dexperts"] = torch.stack(
            [d(f"experts.{i}.{part}").sum() for i in range(c.routed) for part in parts])
        busiest = counts.argmax()
        result["busiest"] = busiest  # all of its gradients but up's; of the others', sums
        result["dbusiest"] = torch.cat(
            [d(f"experts.{busiest}.{part}").flatten() for part in ("gate", "down")])
    return result


def sound(c, result):
    """Whether every decision is by a margin that rounding cannot turn; ties are where they may be.

    Ties are exact where bf16 makes numbers equal, and where coarse inputs make logits so. And
    where there is a capacity, some experts must be beyond it.
    """
    may_tie = c.unit == 2 or c.gate in (f.deepseek_v1, f.deepseek_v3_official, f.mixtral)
    drops = int(result["dropped"].sum()) > 1
    return (f.Margins.least > 2e-5 and (may_tie or f.Margins.ties == 0) and
            drops == (c.capacity > 0 or c.device_capacity > 0))


def numbers_of(tensor):
    """15 digits: a thousandth of what --check lets pass."""
    flat = [float(x) for x in tensor.detach().flatten()]
    flat = [int(x) if x == int(x) else float(f"{x:.15g}") for x in flat]
    return flat if tensor.dim() else flat[0]


def setting(config, numbers):
    return SimpleNamespace(**{**NUMBERS, **LAYERS[config], **numbers})


def record(name, config, numbers):
    c = setting(config, numbers)
    c.asked = c.top_k if "top_k" in numbers else 0
    first = seed_of(0, name)  # by its name, so that a new case leaves the others as they are
    for n in range(100):
        c.seed = word(first, n) >> 32
        result = compute(c)
        if sound(c, result):
            break
    else:
        raise RuntimeError("no seed makes this case sound: " + name)
    line = {"name": name, "config": config, "seed": c.seed, "T": c.tokens, "D": HIDDEN, "F": WIDTH,
            "R": c.routed, "K": LAYERS[config]["top_k"], "S": c.shared}
    if len(c.starts) > 2:
        line["starts"] = c.starts
    if c.asked:
        line["top_k"] = c.asked
    line.update({key: getattr(c, key) * 1 for key in WRITTEN if getattr(c, key) != NUMBERS[key]})
    line.update({key: numbers_of(value) for key, value in result.items()})
    return line


def differences(old, new):
    """What is different in two records, by more than 1e-12 of the largest number of a list."""
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        a, b = ([v] if not isinstance(v, list) else v for v in (a, b))
        if any(isinstance(v, str) or v is None for v in a + b) or len(a) != len(b):
            if a != b:
                yield key
        elif a:
            largest = max(map(abs, a + b))
            worst = max(abs(p - q) for p, q in zip(a, b))
            if not worst <= 1e-12 * largest:  # nor NaN
                yield f"{key} (by {worst:.3g} of {largest:.3g})"


def torch_bf16(c):
    """Weights as torch's own bf16 makes them of a case of deepseek_v1 or deepseek_v3_official."""
    x, _, w = inputs(c)
    logits = torch.nn.functional.linear(x.bfloat16(), w["router"].bfloat16())
    softmax = c.gate is f.deepseek_v1
    scores = logits.softmax(-1) if softmax else logits.sigmoid()
    weights = scores.gather(1, c.gate(x, w, c).experts)
    if softmax and c.norm:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    if not softmax:
        weights = weights / weights.sum(-1, keepdim=True) * c.scale
    return numbers_of(weights.double())


def main():
    path = pathlib.Path(__file__).parent / "golden.jsonl"
    made = [record(*case) for case in cases()]
    assert len({line["name"] for line in made}) == len(made), "two cases have one name"
    assert {line["config"] for line in made} == set(LAYERS)
    stored = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    by_name = {line["name"]: line for line in stored}
    if sys.argv[1:] != ["--check"]:
        # Sums may end in another digit on another day: a line that holds stays as it is.
        lines = [line if any(differences(by_name.get(line["name"], {}), line))
                 else by_name[line["name"]] for line in made]
        path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
        print(f"{len(made)} cases of {len(LAYERS)} configs: {path.stat().st_size} bytes")
        return 0
    names, stored_names = ([line["name"] for line in lines] for lines in (made, stored))
    wrong = 0
    if names != stored_names:
        wrong += 1
        print("the file has other cases:", sorted({*names} ^ {*stored_names}) or "in another order")
    for (name, config, numbers), line in zip(cases(), made):
        c = setting(config, dict(numbers, seed=line["seed"]))
        if c.gate in (f.deepseek_v1, f.deepseek_v3_official) and torch_bf16(c) != line["weights"]:
            wrong += 1
            print(f"{name}: weights are not those of torch's bf16")
    for line in made:
        for what in differences(by_name.get(line["name"], line), line):
            wrong += 1
            print(f"{line['name']}: {what}")
    print(f"{len(made)} cases compared, {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
