"""Run the authors' scorer from a checkout of theirs, for `official.compare`.

A script of its own: the interpreter that runs it needs what the authors' code needs (torch,
einops), not this package. It speaks JSON lines on stdin and stdout:

    python run_scorer.py CHECKOUT THREADS DEVICE
    <- {"names": [...]}                       the parameters of their model
    -> {"weights": FILE}                      torch file of parameters by those names
    -> {"inputs": FILE}                       torch file: uint8 views and two embeddings
    <- {"seconds": 2.8, "score": [...]}       one forward pass over them
"""

import json
import sys
import time
from typing import Any


def main(checkout: str, threads: int, device: str) -> None:
    """Answer requests until stdin closes."""
    replies, sys.stdout = sys.stdout, sys.stderr  # their code prints
    import torch

    torch.set_num_threads(threads)
    if device == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # their forward pass calls it
    model = _build(checkout).to(device).eval()
    send(replies, names=list(model.state_dict()))
    for line in sys.stdin:
        request = json.loads(line)
        if "weights" in request:
            state = torch.load(request["weights"], map_location=device, weights_only=True)
            unknown = model.load_state_dict(state, strict=False).unexpected_keys
            send(replies, unknown=unknown)
        else:
            send(replies, **_run(model, request["inputs"], device))


def _build(checkout: str) -> Any:
    sys.path.insert(0, checkout)
    import timm

    create = timm.create_model
    timm.create_model = lambda name, **_: create(name, pretrained=False)
    from models.MA_AGIQA import MA_AGIQA

    return MA_AGIQA(embed_dim=768)


def _run(model: Any, file: str, device: str) -> dict:
    import torch

    view, semantic, coherence = (part.to(device) for part in torch.load(file, weights_only=True))
    pixels = (view.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        start = time.perf_counter()
        score = model(pixels.contiguous(), tensor1=semantic, tensor2=coherence)
        values = score.flatten().tolist()  # waits for the device
        return {"seconds": time.perf_counter() - start, "score": values}


def send(stream: Any, **message: Any) -> None:
    """Write one line."""
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
