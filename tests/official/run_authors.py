"""Run a part of the authors' code from their own checkout, in an environment of theirs.

    python run_authors.py CHECKOUT SUBJECT FOLDER

Started by `official.authors`; needs what the authors' code needs, and nothing of this package. The
first job has the settings of the subject. Every line on stdin stands for a dictionary in FOLDER/job
(torch.save), and every line on stdout for its answer in FOLDER/answer.
"""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch


def main(checkout, subject, folder):
    sys.path.insert(0, checkout)
    answers, sys.stdout = sys.stdout, sys.stderr  # their code prints
    load, save = torch.load, torch.save
    job, answer = Path(folder, "job"), Path(folder, "answer")
    run = None
    for _ in sys.stdin:
        given = load(job, weights_only=True)
        if run is None:
            torch.set_num_threads(given.pop("threads"))
            run, answered = SUBJECTS[subject](**given), {}
        else:
            answered = run(**given)
        save(answered, answer)
        print(file=answers, flush=True)


def embedder(weights, dtype, device):
    """Their model of mPLUG-Owl2, around weights that are mapped: other processes share them.

    Job: pixels, normalized RGB (B, 3, S, S) in the model's dtype; prompts, their token ids by name.
    Answer: seconds, and features, float32 (B, hidden) by name.
    """
    from mplug_owl2.model import MPLUGOwl2Config, MPLUGOwl2LlamaForCausalLM
    from safetensors.torch import load_file
    from torch import nn
    from transformers.modeling_utils import no_init_weights

    for layer in (nn.Linear, nn.LayerNorm, nn.Embedding, nn.Conv2d):
        layer.reset_parameters = lambda self: None  # not first filled with random weights
    config = MPLUGOwl2Config(**json.loads(Path(weights, "config.json").read_text()))
    torch.set_default_dtype(getattr(torch, dtype))  # as their loader does
    with no_init_weights():
        model = MPLUGOwl2LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    state = {}
    for shard in sorted(Path(weights).glob("*.safetensors")):
        state.update(load_file(shard))
    missing, surplus = model.load_state_dict(state, strict=False, assign=True)
    missing = [name for name in missing if "rotary_emb" not in name]
    if missing or surplus:
        raise SystemExit(f"The weights do not fit: missing {missing}, unexpected {surplus}.")
    model.to(device).eval()

    @torch.inference_mode()
    def run(pixels, prompts):
        """Do what their getFeature.py does for a batch: every prompt runs twice."""
        pixels = pixels.to(device)
        start, features = time.perf_counter(), {}
        for name, ids in prompts.items():
            prompt = torch.tensor(ids, device=device).repeat(len(pixels), 1)
            model(prompt, images=pixels)["logits"]
            states = model(prompt, images=pixels, output_hidden_states=True)["hidden_states"]
            features[name] = states[-1].mean(dim=1)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "features": {k: v.float().cpu() for k, v in features.items()}}

    return run


def scorer(device):
    """Their scorer.

    Job: nothing; the answer has the names of its parameters.
    Job: weights, tensors by these names; the answer has those that are unknown.
    Job: inputs, three tensors as `MAAGIQA.forward` takes them; answer: seconds, and score (B,).
    """
    if device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # their forward pass calls it
    import timm

    create = timm.create_model
    timm.create_model = lambda name, **_: create(name, pretrained=False)
    from models.MA_AGIQA import MA_AGIQA

    model = MA_AGIQA(embed_dim=768).to(device).eval()

    @torch.no_grad()
    def run(weights=None, inputs=None):
        if weights is not None:
            return {"unknown": model.load_state_dict(weights, strict=False).unexpected_keys}
        if inputs is None:
            return {"names": list(model.state_dict())}
        view, semantic, coherence = (part.to(device) for part in inputs)
        pixels = (view.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
        start = time.perf_counter()
        score = model(pixels.contiguous(), tensor1=semantic, tensor2=coherence)
        score = score.flatten().cpu()  # waits for the device
        return {"seconds": time.perf_counter() - start, "score": score}

    return run


def preprocess(side):
    """What their main.py and getFeature.py do with image files, one after the other.

    Job: folder of the files, and their names.
    Answer: quality_s and semantic_s, seconds over all files for the input of either network; and
    quality, float32 (N, 3, 224, 224), and semantic, (N, 3, side, side), normalized.
    """
    from data.AIGC_general import AIGCgeneral
    from mplug_owl2.mm_utils import process_images
    from PIL import Image
    from torchvision.transforms import Compose
    from transformers import CLIPImageProcessor
    from utils.process import Normalize, ToTensor

    transform = Compose([Normalize(0.5, 0.5), ToTensor()])
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    pad = SimpleNamespace(image_aspect_ratio="pad")
    torch.load = lambda *_, **__: None  # their data set also reads two feature files: not counted

    def run(folder, names):
        dataset = AIGCgeneral(folder, [0] * len(names), names, transform, True, tensor_root=folder)
        start = time.perf_counter()
        quality = [dataset[index]["d_img_org"] for index in range(len(names))]
        between = time.perf_counter()
        images = (Image.open(os.path.join(folder, name)).convert("RGB") for name in names)
        semantic = [process_images([image], processor, pad)[0] for image in images]
        end = time.perf_counter()
        made = {"quality": torch.stack(quality), "semantic": torch.stack(semantic)}
        return {"quality_s": between - start, "semantic_s": end - between, **made}

    return run


SUBJECTS = {"embedder": embedder, "scorer": scorer, "preprocess": preprocess}

if __name__ == "__main__":
    main(*sys.argv[1:])
