#!/usr/bin/env python3
# Models that save_published wrote, loaded by the transformers library that is installed: it must find
# every weight and make the same logits.
# SPDX-License-Identifier: Apache-2.0
"""reads.py tests_golden: exits with 77 where transformers is not installed, or has none of the models."""
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
             moe_intermediate_size=6, num_experts_per_tok=3, hidden_act="silu",
             max_position_embeddings=64, tie_word_embeddings=False, head_dim=4,
             attention_dropout=0.0, torch_dtype="float32")
MODELS = {  # small() in models.cpp; names of a config differ by family
    "olmoe": dict(MODEL, num_key_value_heads=4, num_experts=8, intermediate_size=6,
                  rms_norm_eps=1e-5, rope_theta=10000.0, norm_topk_prob=False),
    "qwen2_moe": dict(MODEL, num_key_value_heads=2, num_experts=8, rope_theta=1000000.0,
                      intermediate_size=6, shared_expert_intermediate_size=24, rms_norm_eps=1e-6,
                      norm_topk_prob=False, qkv_bias=True),
    "qwen3_moe": dict(MODEL, num_key_value_heads=2, head_dim=6, num_experts=8,
                      rope_theta=1000000.0, rms_norm_eps=1e-6, norm_topk_prob=True),
    "mixtral": dict(MODEL, num_key_value_heads=2, num_local_experts=8, intermediate_size=6,
                    num_experts_per_tok=2, rope_theta=1000000.0, rms_norm_eps=1e-5),
    "glm4_moe": dict(MODEL, num_key_value_heads=2, head_dim=6, n_routed_experts=8,
                     n_shared_experts=1, intermediate_size=24, first_k_dense_replace=1, n_group=1,
                     topk_group=1, routed_scaling_factor=2.5, norm_topk_prob=True,
                     attention_bias=True, use_qk_norm=True, partial_rotary_factor=4 / 6,
                     rope_theta=1000000.0, rms_norm_eps=1e-5),
}


def compare(folder, family, numbers):
    """How far the logits are apart; None where this version has no such model."""
    try:
        config = transformers.AutoConfig.for_model(family, **numbers)
    except ValueError:
        return None
    config.save_pretrained(folder)
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True)
    wrong = [name for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
             for name in said[key]]
    if wrong:
        return float("inf")
    results = load_file(folder / "results.safetensors")
    with torch.no_grad():
        logits = model(results["ids"][None]).logits[0]
    return float((logits - results["logits"]).abs().max() / results["logits"].abs().max())


def main():
    compared = wrong = 0
    with tempfile.TemporaryDirectory() as there:
        subprocess.run([sys.argv[1], "[.publish]"], check=True, stdout=subprocess.DEVNULL,
                       env={**os.environ, "FINEGRAIN_PUBLISH": there})
        for family, numbers in MODELS.items():
            apart = compare(pathlib.Path(there) / family, family, numbers)
            if apart is None:
                print(f"{family}: not in transformers {transformers.__version__}")
                continue
            compared += 1
            wrong += not apart < 1e-4
            print(f"{family}: logits {apart:.1e}")
    print(f"transformers {transformers.__version__}: {compared} models read, {wrong} differ")
    return 1 if wrong else 0 if compared else 77


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
