"""Run the authors' preparation of images from their own checkout, in an environment of theirs.

Started by `official.authors`; needs PyTorch, torchvision, OpenCV, transformers 4.31 and
icecream, and nothing of this package.

    python run_preprocess.py CHECKOUT SIDE < jobs > answers

A job is a line of JSON: {"folder": of image files, "names": [...], "inputs": file.pt}. Its answer
is a line {"quality": s, "semantic": s}: seconds over all files for the input of either network.
"""

import json
import os
import sys
import time
from types import SimpleNamespace


def main(checkout, side):
    sys.path.insert(0, checkout)
    answers, sys.stdout = sys.stdout, sys.stderr
    prepare = load(int(side))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(prepare(json.loads(line))), file=answers, flush=True)


def load(side):
    """Put together what their main.py and getFeature.py do with an image file."""
    import torch
    from data.AIGC_general import AIGCgeneral
    from mplug_owl2.mm_utils import process_images
    from PIL import Image
    from torchvision.transforms import Compose
    from transformers import CLIPImageProcessor
    from utils.process import Normalize, ToTensor

    transform = Compose([Normalize(0.5, 0.5), ToTensor()])
    processor = CLIPImageProcessor(size={"shortest_edge": side}, crop_size=side)
    pad = SimpleNamespace(image_aspect_ratio="pad")
    save = torch.save
    torch.load = lambda *_, **__: None  # their data set also reads two feature files: not counted

    def prepare(job):
        folder, names = job["folder"], job["names"]
        dataset = AIGCgeneral(folder, [0] * len(names), names, transform, True, tensor_root=folder)
        start = time.perf_counter()
        quality = [dataset[index]["d_img_org"] for index in range(len(names))]
        between = time.perf_counter()
        images = (Image.open(os.path.join(folder, name)).convert("RGB") for name in names)
        semantic = [process_images([image], processor, pad)[0] for image in images]
        end = time.perf_counter()
        save((torch.stack(quality), torch.stack(semantic)), job["inputs"])
        return {"quality": between - start, "semantic": end - between}

    return prepare


if __name__ == "__main__":
    main(*sys.argv[1:])
