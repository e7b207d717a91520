# The mixture layer as published implementations and papers write it, in double, with torch's
# gradients. Written from them alone: what finegrain computes is held against it.
# SPDX-License-Identifier: Apache-2.0
"""T tokens of D numbers, R routed experts of width F, K of them a token, S shared ones.

A gate takes (x, w, c) and returns a Choice. x is (T, D); w has the weights by finegrain's names;
c has the numbers of a layer and of a request: routed, top_k, groups, limit, scale, norm, ids, ...
"""
import math

import torch
from torch.nn.functional import linear, normalize, relu, silu, softplus


class Margins:
    """How near the decisions of a case came to falling otherwise, in units of what is compared.

    Two implementations agree on a decision only where the numbers behind it differ by more than
    rounding, or not at all; a case in which they are nearer is no test of anything.
    """

    least = math.inf
    ties = 0

    @classmethod
    def clear(cls):
        cls.least, cls.ties = math.inf, 0

    @classmethod
    def between(cls, a, b):
        """Numbers a and b, element by element, one of which has won."""
        gap, size = (a - b).abs(), torch.maximum(a.abs(), b.abs())
        known = torch.isfinite(gap) & (size > 0)
        cls.ties += int((known & (gap == 0)).sum())
        apart = (gap / size)[known & (gap > 0)]
        if apart.numel():
            cls.least = min(cls.least, float(apart.min()))


# ---- bf16: eight significant bits, to the nearest, halves to even; gradients pass straight through


def nearest_bf16(x):
    fraction, exponent = torch.frexp(x)
    scaled = fraction * 256
    halfway = (scaled - scaled.floor() - 0.5).abs() / scaled.abs().clamp(min=128)
    halfway = halfway[halfway > 0]
    if halfway.numel():  # a tenth of the room of other decisions is enough: one number, not two
        Margins.least = min(Margins.least, 10 * float(halfway.min()))
    return torch.ldexp(torch.round(scaled), exponent - 8)


class Bf16(torch.autograd.Function):
    @staticmethod
    def forward(_, x):
        return nearest_bf16(x)

    @staticmethod
    def backward(_, dy):
        return dy


class Bf16Softmax(torch.autograd.Function):
    """Rounded; as in torch, the gradient is made of the result, as rounded."""

    @staticmethod
    def forward(context, x):
        y = nearest_bf16(torch.softmax(x, -1))
        context.save_for_backward(y)
        return y

    @staticmethod
    def backward(context, dy):
        (y,) = context.saved_tensors
        return y * (dy - (y * dy).sum(-1, keepdim=True))


class Bf16Sigmoid(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        y = nearest_bf16(torch.sigmoid(x))
        context.save_for_backward(y)
        return y

    @staticmethod
    def backward(context, dy):
        (y,) = context.saved_tensors
        return dy * y * (1 - y)


bf16, bf16_softmax, bf16_sigmoid = Bf16.apply, Bf16Softmax.apply, Bf16Sigmoid.apply


# ---- the choice


def ranked(keys):
    """Indices by falling key, equal keys by rising index."""
    return torch.sort(keys.detach(), dim=-1, descending=True, stable=True).indices


def best(keys, count, skip=0):
    """The indices of the highest `count` keys of each row, but for the first `skip`."""
    order = ranked(keys)
    compared = keys.detach().gather(-1, order[..., : skip + count + 1])
    Margins.between(compared[..., :-1], compared[..., 1:])
    return order[..., skip : skip + count]


def only_best_groups(keys, c, worth):
    """Keys with -inf wherever an expert's group is not among the `limit` of highest worth."""
    if c.groups == 1:
        return keys
    grouped = keys.detach().unflatten(-1, (c.groups, -1))
    allowed = torch.zeros(grouped.shape[:-1], dtype=torch.bool)
    allowed.scatter_(1, best(worth(grouped), c.limit), True)
    return keys.masked_fill(~allowed.repeat_interleave(grouped.shape[-1], 1), -math.inf)


def group_max(grouped):
    return grouped.max(-1).values


def group_top(n):
    return lambda grouped: grouped.topk(n, -1).values.sum(-1)


class Choice:
    """logits, scores (T, R); experts (T, k), -1 where there is none; weights (T, k).

    probabilities (T, R): scores made to add up to 1, whose means the balance losses take.
    """

    def __init__(self, logits, scores, experts, weights, distribution=False):
        self.logits, self.scores, self.experts, self.weights = logits, scores, experts, weights
        self.distribution = distribution

    @property
    def probabilities(self):
        s = self.scores
        return s if self.distribution else s / s.sum(-1, keepdim=True)

    def rows(self, begin, end):
        parts = (self.logits, self.scores, self.experts, self.weights)
        return Choice(*(part[begin:end] for part in parts), self.distribution)


# ---- gates of published implementations


def deepseek_v1(x, w, c):
    """deepseek-moe-16b, modeling_deepseek.py: MoEGate. The gate runs in bf16, softmax included."""
    logits = bf16(linear(bf16(x), bf16(w["router"])))
    scores = bf16_softmax(logits)
    experts = best(scores, c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.norm and c.top_k > 1:
        weights = bf16(weights / bf16(bf16(weights.sum(-1, keepdim=True)) + 1e-20))
    return Choice(logits, scores, experts, weights, True)


def deepseek_v2(x, w, c):
    """DeepSeek-V2, modeling_deepseek.py: greedy or group_limited_greedy; normalise or scale."""
    logits = linear(x, w["router"])
    scores = logits.softmax(-1)
    experts = best(only_best_groups(scores, c, group_max), c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.norm and c.top_k > 1:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    else:
        weights = weights * c.scale
    return Choice(logits, scores, experts, weights, True)


def deepseek_v3(x, w, c):
    """DeepSeek-V3, modeling_deepseek.py: noaux_tc."""
    logits = linear(x, w["router"])
    scores = logits.sigmoid()
    keys = only_best_groups(scores + w["bias"], c, group_top(2))
    experts = best(keys, c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.norm and c.top_k > 1:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Choice(logits, scores, experts, weights * c.scale)


def deepseek_v3_official(x, w, c):
    """DeepSeek-V3, inference/model.py: Gate, with scores of sigmoid, in bf16 but for the bias."""
    logits = bf16(linear(bf16(x), bf16(w["router"])))
    scores = bf16_sigmoid(logits)
    keys, worth = scores, group_max
    if "bias" in w:
        keys, worth = scores + w["bias"], group_top(2)
    experts = best(only_best_groups(keys, c, worth), c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    weights = bf16(weights / bf16(weights.sum(-1, keepdim=True)))
    return Choice(logits, scores, experts, bf16(weights * c.scale))


def megatron(x, w, c):
    """Megatron-Core, topk_routing_with_score_function; group_limited_topk."""
    logits = linear(x, w["router"])
    worth = group_top(max(c.top_k // c.limit, 1))
    softmax = c.score == "softmax"
    if softmax and not c.pre_softmax:  # what is chosen and what is summed are logits
        scores = logits.softmax(-1)
        experts = best(only_best_groups(logits, c, worth), c.top_k, c.mask_best)
        weights = logits.gather(1, experts).softmax(-1)
    else:
        scores = (logits.softmax(-1) if softmax else
                  logits.sigmoid() if c.score == "sigmoid" else softplus(logits).sqrt())
        keys = scores + w["bias"] if "bias" in w else scores
        experts = best(only_best_groups(keys, c, worth), c.top_k, c.mask_best)
        weights = scores.gather(1, experts)
        if not softmax and c.top_k > 1:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Choice(logits, scores, experts, weights * c.scale, softmax)


def mixtral(x, w, c, rounded=bf16):
    """transformers, modeling_mixtral.py; with norm False modeling_qwen2_moe.py, modeling_olmoe.py.

    In a bf16 model logits are bf16, softmax is f32, and weights are cast back.
    """
    logits = rounded(linear(rounded(x), rounded(w["router"])))
    scores = logits.softmax(-1)
    experts = best(scores, c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.norm:
        weights = weights / weights.sum(-1, keepdim=True)
    return Choice(logits, scores, experts, rounded(weights * c.scale), True)


def llama_cpp(x, w, c):
    """llama.cpp, build_moe_ffn: the sum that divides is at least the smallest normal f16."""
    logits = linear(x, w["router"])
    softmax = c.score == "softmax"
    scores = logits.softmax(-1) if softmax else logits.sigmoid()
    keys = scores + w["bias"] if "bias" in w else scores
    experts = best(only_best_groups(keys, c, group_top(2)), c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.norm:
        total, floor = weights.sum(-1, keepdim=True), 2.0**-14
        Margins.between(total.detach(), torch.full_like(total, floor))
        weights = weights / total.clamp(min=floor)
    return Choice(logits, scores, experts, weights * c.scale, softmax)


def deepseek_v4(x, w, c):
    """DeepSeek-V4: sqrt(softplus), a bias; in the first layers a token's id says its experts."""
    logits = linear(x, w["router"])
    scores = softplus(logits).sqrt()
    if "table" in w:
        experts = w["table"][c.ids].long()
    else:
        experts = best(scores + w["bias"], c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.top_k > 1:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Choice(logits, scores, experts, weights * c.scale)


def ernie_4_5(x, w, c):
    """ERNIE 4.5, transformers' modeling_ernie4_5_moe.py: a bias beside softmax; f32.

    Its last step, which casts weights to the model's numbers, is left out.
    """
    logits = linear(x, w["router"])
    scores = logits.softmax(-1)
    experts = best(scores + w["bias"], c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-12)
    return Choice(logits, scores, experts, weights, True)


# ---- gates of papers


def paper(x, w, c):
    """DeepSeekMoE eq. 9-11, Switch (top_k = 1), GShard (top_k = 2, norm, both experts used)."""
    logits = linear(x, w["router"])
    softmax = c.score == "softmax"
    scores = logits.softmax(-1) if softmax else logits.sigmoid()
    experts = best(scores, c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.norm:
        weights = weights / weights.sum(-1, keepdim=True)
    return Choice(logits, scores, experts, weights * c.scale, softmax)


def hash_layer(x, w, c):
    """Hash layers: the experts of the token id, all alike."""
    experts = w["table"][c.ids].long()
    weights = torch.full(experts.shape, c.scale / c.top_k, dtype=x.dtype)
    return Choice(None, None, experts, weights, True)


def expert_choice(x, w, c):
    """Expert choice: S = softmax(X W) over experts; each takes its n = T K / R best tokens."""
    logits = linear(x, w["router"])
    softmax = c.score == "softmax"
    scores = logits.softmax(-1) if softmax else logits.sigmoid()
    tokens = best(scores.t(), -(-x.shape[0] * c.top_k // c.routed))  # (R, n)
    taken = torch.zeros(scores.shape, dtype=torch.bool)
    taken.t().scatter_(1, tokens, True)
    order = torch.arange(c.routed).expand(scores.shape)
    order = torch.sort(torch.where(taken, order, c.routed), -1).values  # a token's experts, rising
    none = order == c.routed
    weights = scores.gather(1, order.masked_fill(none, 0)) * c.scale
    experts, weights = order.masked_fill(none, -1), weights.masked_fill(none, 0)
    return Choice(logits, scores, experts, weights, softmax)


def sinkhorn(cost, tolerance=1e-4):
    """Megatron-Core, moe_utils.sinkhorn."""
    cost = cost.exp()
    d0, d1 = torch.ones(cost.shape[0]).double(), torch.ones(cost.shape[1]).double()
    change = math.inf
    while change > tolerance:
        old = d1
        d0 = 1 / d0.shape[0] / ((d1 * cost).sum(1) + 1e-8)
        d1 = 1 / d1.shape[0] / ((d0[:, None] * cost).sum(0) + 1e-8)
        change = float((old - d1).abs().mean())
        Margins.between(torch.tensor(change), torch.tensor(tolerance))
    return d1 * cost * d0[:, None]


def sinkhorn_gate(x, w, c):
    """Megatron-Core, sinkhorn_load_balancing: in training the choice alone goes by it."""
    logits = linear(x, w["router"])
    scores = logits.sigmoid() if c.top_k == 1 else logits.softmax(-1)
    experts = best(sinkhorn(logits.detach()) if c.training else scores, c.top_k)
    return Choice(logits, scores, experts, scores.gather(1, experts), c.top_k > 1)


def cosine(x, w, c):
    """X-MoE, as Tutel's gates/cosine_top.py: cosines in a smaller space over a temperature."""
    turned = normalize(linear(x, w["project"]), dim=1)
    sharp = w["temperature"].clamp(max=math.log(100)).exp()
    logits = linear(turned, normalize(w["router"], dim=1)) * sharp
    scores = logits.softmax(-1)
    experts = best(scores, c.top_k, c.mask_best)
    weights = scores.gather(1, experts)
    if c.norm:
        weights = weights / weights.sum(-1, keepdim=True)
    return Choice(logits, scores, experts, weights, True)


# ---- balance losses. Counts have no gradient.


def counts(experts, routed):
    return torch.bincount(experts[experts >= 0], minlength=routed).double()


def expert_level(choice, c):
    """DeepSeekMoE eq. 12-14."""
    f = c.routed / (c.top_k * choice.experts.shape[0]) * counts(choice.experts, c.routed)
    return (f * choice.probabilities.mean(0)).sum()


def device_level(choice, c):
    """DeepSeekMoE eq. 15-17."""
    f = c.routed / (c.top_k * choice.experts.shape[0]) * counts(choice.experts, c.routed)
    means = f.reshape(c.devices, -1).mean(1)
    return (means * choice.probabilities.mean(0).reshape(c.devices, -1).sum(1)).sum()


def communication(choice, c):
    """DeepSeek-V2 2.2.2: M is the most devices that a token is sent to."""
    most = c.limit if 1 < c.groups == c.devices else min(c.top_k, c.devices)
    sent = torch.zeros(choice.experts.shape[0], c.devices, dtype=torch.double)
    sent.scatter_(1, choice.experts // (c.routed // c.devices), 1)
    f = c.devices / (most * choice.experts.shape[0]) * sent.sum(0)
    return (f * choice.probabilities.mean(0).reshape(c.devices, -1).sum(1)).sum()


def sequence_wise(choice, c):
    """DeepSeek-V3: counts are of the K highest scores, without bias and groups."""
    highest = best(choice.scores, c.top_k)
    f = c.routed / (c.top_k * highest.shape[0]) * counts(highest, c.routed)
    return (f * choice.probabilities.mean(0)).sum()


def z_loss(choice):
    """ST-MoE eq. 5."""
    return choice.logits.logsumexp(-1).square().mean()


def importance(choice, c):
    """Shazeer et al. 2017 eq. 6-7: the squared coefficient of variation of the experts' weights."""
    total = torch.zeros(c.routed, dtype=torch.double)
    total = total.index_add(0, choice.experts.flatten(), choice.weights.flatten())
    return total.var(unbiased=False) / total.mean().square()


def balance(choice, c):
    def over(loss, starts):
        values = [loss(choice.rows(begin, end), c) for begin, end in zip(starts, starts[1:])]
        return sum(values) / len(values)

    window = c.starts if c.by_sequence else [0, choice.experts.shape[0]]
    total = torch.zeros((), dtype=torch.double)
    if c.expert:
        total = total + c.expert * over(expert_level, window)
    if c.device:
        total = total + c.device * over(device_level, window)
    if c.communication:
        total = total + c.communication * over(communication, window)
    if c.sequence:
        total = total + c.sequence * over(sequence_wise, c.starts)
    if c.z:
        total = total + c.z * z_loss(choice)
    if c.importance:
        total = total + c.importance * importance(choice, c)
    return total


# ---- capacity


def kept(choice, c):
    """(T, k): whether a slot's expert and device have room for it."""
    tokens, slots = choice.experts.shape
    keep = choice.experts >= 0
    values = choice.weights.detach()

    def fill(room, owner, by_weight):
        for place in range(int(owner.max()) + 1):
            mine = [(t, k) for t in range(tokens) for k in range(slots) if owner[t, k] == place]
            if by_weight:
                mine.sort(key=lambda slot: (-float(values[slot]), slot))
                if len(mine) > room:
                    Margins.between(values[mine[room - 1]], values[mine[room]])
            else:
                mine.sort(key=lambda slot: (slot[1], slot[0]))
            for slot in mine[room:]:
                keep[slot] = False

    if c.capacity:
        room = math.ceil(c.capacity * tokens * c.top_k / c.routed)
        fill(room, choice.experts, not c.drop_last)
    if c.device_capacity:
        room = math.ceil(c.device_capacity * tokens * c.top_k / c.devices)
        fill(room, choice.experts // (c.routed // c.devices), True)
    return keep


# ---- the layer


def expert(x, w, name, activation=silu, limit=0.0):
    gate, up = linear(x, w[name + ".gate"]), linear(x, w[name + ".up"])
    if limit:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return linear(activation(gate) * up, w[name + ".down"])


def gelu_tanh(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mixture(x, w, c, choice, keep):
    """DeepSeekMoE eq. 9 without the residual."""
    act = {"swiglu": silu, "geglu": gelu_tanh, "reglu": relu}[c.act]
    y = torch.zeros_like(x)
    if c.shared and not c.without_shared:
        together = expert(x, w, "shared", act, c.act_limit) * c.shared_scale
        if "shared_gate" in w:
            together = together * linear(x, w["shared_gate"]).sigmoid()
        y = y + together
    for i in range(c.routed):
        tokens, slots = torch.nonzero((choice.experts == i) & keep, as_tuple=True)
        if len(tokens):
            out = expert(x[tokens], w, f"experts.{i}", act, c.act_limit)
            y = y.index_add(0, tokens, out * choice.weights[tokens, slots, None])
    return y
