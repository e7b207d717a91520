#!/usr/bin/env python3
# Models that save_published wrote, loaded by the transformers library that is installed, which must find
# every weight and make the same logits; and as it writes them, weights and config, read by load_published.
# Its gradients of the text's cross-entropy must be those of backward.
# SPDX-License-Identifier: Apache-2.0
"""exchange.py tests_golden: exits with 77 where transformers is not installed, or has none of the models."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as missing:
    print("skipped:", missing)
    sys.exit(77)

MODEL = dict(hidden_size=16, vocab_size=32, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, intermediate_size=24, moe_intermediate_size=6,
             num_experts_per_tok=3, hidden_act="silu", rms_norm_eps=1e-6, attention_bias=False,
             max_position_embeddings=4096, tie_word_embeddings=False,
             pad_token_id=None)  # which OLMoE has: an id that learns nothing
GRANITE = dict(MODEL, num_local_experts=8, intermediate_size=6, rope_theta=1500000.0,
               tie_word_embeddings=True, embedding_multiplier=12.0, residual_multiplier=0.22,
               attention_multiplier=0.15, logits_scaling=6.0)
LATENT = dict(MODEL, num_key_value_heads=4, qk_rope_head_dim=4, v_head_dim=5)


def yarn(scale):
    return dict(type="yarn", factor=40, original_max_position_embeddings=4096, beta_fast=32,
                beta_slow=1, mscale=scale, mscale_all_dim=scale)


MODELS = {  # what their config.json says; the shapes are those of models.cpp and latent.cpp
    "olmoe": dict(MODEL, num_key_value_heads=4, num_experts=8, intermediate_size=6,
                  rms_norm_eps=1e-5, rope_theta=10000.0, norm_topk_prob=False),
    "qwen2_moe": dict(MODEL, num_experts=8, shared_expert_intermediate_size=24,
                      rope_theta=1000000.0, norm_topk_prob=False),
    "qwen3_moe": dict(MODEL, head_dim=6, num_experts=8, rope_theta=1000000.0, norm_topk_prob=True),
    "qwen3": dict(MODEL, head_dim=6, rope_theta=1000000.0, tie_word_embeddings=True),
    "mixtral": dict(MODEL, num_local_experts=8, intermediate_size=6, num_experts_per_tok=2,
                    rope_theta=1000000.0, rms_norm_eps=1e-5),
    "glm4_moe": dict(MODEL, head_dim=6, n_routed_experts=8, n_shared_experts=1,
                     first_k_dense_replace=1, n_group=1, topk_group=1, routed_scaling_factor=2.5,
                     norm_topk_prob=True, attention_bias=True, use_qk_norm=True,
                     partial_rotary_factor=4 / 6, rope_theta=1000000.0, rms_norm_eps=1e-5),
    "dots1": dict(MODEL, num_key_value_heads=4, n_routed_experts=8, n_shared_experts=2,
                  first_k_dense_replace=1, n_group=1, topk_group=1, routed_scaling_factor=2.5,
                  norm_topk_prob=True, scoring_func="noaux_tc", sliding_window=None,
                  rope_theta=10000000.0, rms_norm_eps=1e-5),
    "minimax_m2": dict(MODEL, head_dim=6, num_local_experts=8, intermediate_size=6,
                       use_qk_norm=True, rotary_dim=4, rope_theta=5000000.0,
                       scoring_func="sigmoid"),
    "granitemoe": GRANITE,
    "granitemoeshared": dict(GRANITE, shared_intermediate_size=12),
    "deepseek_v2": dict(LATENT, n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1,
                        q_lora_rank=None, kv_lora_rank=10, qk_nope_head_dim=6,
                        topk_method="greedy", norm_topk_prob=False, routed_scaling_factor=1.0,
                        rope_theta=10000.0, rope_scaling=yarn(0.75)),
    "deepseek_v3": dict(LATENT, n_routed_experts=16, num_experts_per_tok=4, n_shared_experts=1,
                        first_k_dense_replace=2, q_lora_rank=9, kv_lora_rank=11,
                        qk_nope_head_dim=5, n_group=4, topk_group=2, norm_topk_prob=True,
                        routed_scaling_factor=2.5, rope_theta=10000.0, rope_scaling=yarn(1.0),
                        num_nextn_predict_layers=0),
    "glm4_moe_lite": dict(LATENT, v_head_dim=10, n_routed_experts=8, n_shared_experts=1,
                          q_lora_rank=9, kv_lora_rank=11, qk_nope_head_dim=6, n_group=1,
                          topk_group=1, norm_topk_prob=True, routed_scaling_factor=1.8,
                          rope_theta=1000000.0, rms_norm_eps=1e-5),
}
MODELS["qwen3_moe tied"] = dict(MODELS["qwen3_moe"], tie_word_embeddings=True)


def compare(folder, family, numbers):
    """How far the logits are apart; None where this version has no such model."""
    (folder / "config.json").write_text(
        json.dumps({"model_type": family.split()[0], "torch_dtype": "float32", **numbers}))
    try:
        transformers.AutoConfig.from_pretrained(folder)
    except (KeyError, ValueError):
        return None
    newer = int(transformers.__version__.split(".")[0]) > 4
    how = {"experts_implementation": "eager"} if newer else {}  # others want wider experts
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, **how)
    strange = {key: names for key, names in said.items() if key.endswith("_keys") and names}
    if strange:
        print(f"{family}:", strange)
        return float("inf")
    model.eval().save_pretrained(folder / "again")
    results = load_file(folder / "results.safetensors")
    ids = results["ids"]
    logits = model(ids[None]).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).backward()
    for weight in model.parameters():  # under published names, however they are held here
        weight.data = torch.zeros_like(weight) if weight.grad is None else weight.grad
    model.save_pretrained(folder / "gradients")
    return float((logits - results["logits"]).abs().max() / results["logits"].abs().max())


def main():
    compared = wrong = 0
    with tempfile.TemporaryDirectory() as there:
        def exchange(**how):
            return subprocess.run([sys.argv[1], "[.exchange]"], **how,
                                  env={**os.environ, "FINEGRAIN_PUBLISH": there}).returncode

        if exchange(stdout=subprocess.DEVNULL):
            print("save_published failed")
            return 1
        for family, numbers in MODELS.items():
            apart = compare(pathlib.Path(there) / family, family, numbers)
            if apart is None:
                print(f"{family}: not in transformers {transformers.__version__}")
                continue
            compared += 1
            wrong += not apart < 1e-4
            print(f"{family}: logits {apart:.1e}")
        wrong += exchange() != 0  # as transformers wrote them
    print(f"transformers {transformers.__version__}: {compared} models read and written, {wrong} differ")
    return 1 if wrong else 0 if compared else 77


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    sys.exit(main())
