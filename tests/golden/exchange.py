#!/usr/bin/env python3
# Models that save_published wrote, weights and config.json, loaded by the transformers library that is
# installed, which must find every weight and make the same logits; and as it writes them, read by
# load_published. Its gradients of the text's cross-entropy must be those of backward.
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


def is_known(folder):
    """Whether this version has such a model."""
    config = json.loads((folder / "config.json").read_text())
    return config["model_type"] in transformers.CONFIG_MAPPING


def compare(folder):
    """How far the logits are apart."""
    newer = int(transformers.__version__.split(".")[0]) > 4
    how = {"experts_implementation": "eager"} if newer else {}  # others want wider experts
    model, said = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", output_loading_info=True, **how)
    strange = {key: names for key, names in said.items() if key.endswith("_keys") and names}
    if strange:
        print(f"{folder.name}:", strange)
        return float("inf")
    model.eval().save_pretrained(folder / "again")
    results = load_file(folder / "results.safetensors")
    ids = results["ids"]
    logits = model(ids[None]).logits[0]
    torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).backward()
    for weight in model.parameters():  # under published names, however they are held here
        weight.data = torch.zeros_like(weight) if weight.grad is None else weight.grad
    model.save_pretrained(folder / "gradients")
    logits = logits.detach()
    return float((logits - results["logits"]).abs().max() / results["logits"].abs().max())


def miscounted(folder):
    """How many weights more than here a model of this config has, at its full size without numbers."""
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    biases = [bias for name, bias in model.named_buffers() if name.endswith("e_score_correction_bias")]
    count = sum(weight.numel() for weight in [*model.parameters(), *biases])
    return count - int((folder / "weights").read_text())


def other_defaults(path):
    """Keys of families for which this version, of the fifth on, has another default than is known here."""
    if int(transformers.__version__.split(".")[0]) < 5:
        return []
    others = []
    for family, values in json.loads(path.read_text()).items():
        config = transformers.CONFIG_MAPPING[family]()
        for key, here in values.items():
            there = config.rope_parameters.get(key, getattr(config, key, None))
            if there != here:
                others.append(f"{family}'s {key} is {there} by default, {here} here")
    return others


def main():
    compared = wrong = 0
    with tempfile.TemporaryDirectory() as there:
        def exchange(**how):
            return subprocess.run([sys.argv[1], "[.exchange]"], **how,
                                  env={**os.environ, "FINEGRAIN_PUBLISH": there}).returncode

        if exchange(stdout=subprocess.DEVNULL):
            print("save_published failed")
            return 1
        for line in other_defaults(pathlib.Path(there) / "defaults.json"):
            wrong += 1
            print(line)
        for folder in sorted(path for path in pathlib.Path(there).iterdir() if path.is_dir()):
            if not is_known(folder):
                print(f"{folder.name}: not in transformers {transformers.__version__}")
                continue
            compared += 1
            if (folder / "weights").exists():
                more = miscounted(folder)
                wrong += more != 0
                print(f"{folder.name}: {more} weights more than here")
                continue
            apart = compare(folder)
            wrong += not apart < 1e-4
            print(f"{folder.name}: logits {apart:.1e}")
        wrong += exchange() != 0  # as transformers wrote them
    print(f"transformers {transformers.__version__}: {compared} models compared, {wrong} differ")
    return 1 if wrong else 0 if compared else 77


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    sys.exit(main())
