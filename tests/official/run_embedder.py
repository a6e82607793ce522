"""Run the authors' feature extraction from their own checkout, in an environment of theirs.

Started by `official.authors`; needs PyTorch >= 2.1, transformers 4.31 and safetensors,
and nothing of this package. Weights are mapped, so that another process shares their memory.

    python run_embedder.py CHECKOUT WEIGHTS DTYPE DEVICE THREADS < jobs > answers

A job is a line of JSON: {"pixels": file.pt, "prompts": {name: token ids}, "features": file.pt}.
Its answer is a line {"seconds": s}.
"""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


def main():
    checkout, weights, dtype, device, threads = sys.argv[1:]
    sys.path.insert(0, checkout)
    torch.set_num_threads(int(threads))
    answers, sys.stdout = sys.stdout, sys.stderr
    model = load(Path(weights), getattr(torch, dtype), device)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        seconds, features = run(model, job, device)
        torch.save(features, job["features"])
        print(json.dumps({"seconds": seconds}), file=answers, flush=True)


def load(weights, dtype, device):
    """Build their model around the mapped weights, without first filling it with random ones."""
    from mplug_owl2.model import MPLUGOwl2Config, MPLUGOwl2LlamaForCausalLM
    from transformers.modeling_utils import no_init_weights

    for layer in (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d):
        layer.reset_parameters = lambda self: None
    config = MPLUGOwl2Config(**json.loads((weights / "config.json").read_text()))
    torch.set_default_dtype(dtype)  # as their loader does
    with no_init_weights():
        model = MPLUGOwl2LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    state = {}
    for shard in sorted(weights.glob("*.safetensors")):
        state.update(load_file(shard))
    missing, surplus = model.load_state_dict(state, strict=False, assign=True)
    missing = [name for name in missing if "rotary_emb" not in name]
    if missing or surplus:
        raise SystemExit(f"The weights do not fit: missing {missing}, unexpected {surplus}.")
    return model.to(device).eval()


@torch.inference_mode()
def run(model, job, device):
    """Do what their getFeature.py does for a batch: every prompt runs twice."""
    pixels = torch.load(job["pixels"], weights_only=True).to(device)
    start, features = time.perf_counter(), {}
    for name, ids in job["prompts"].items():
        prompt = torch.tensor(ids, device=device).repeat(len(pixels), 1)
        model(prompt, images=pixels)["logits"]
        states = model(prompt, images=pixels, output_hidden_states=True)["hidden_states"]
        features[name] = states[-1].mean(dim=1)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start, {k: v.float().cpu() for k, v in features.items()}


if __name__ == "__main__":
    main()
