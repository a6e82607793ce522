"""Repair a damaged picture by evolution, with the served score as the only guide.

    python client/examples/evolve_picture.py examples/coffee_pristine.jpg --url localhost:8001

Swaps parts of the picture, adds noise and removes detail (JPEG). Evolution starts there, sees only
rewards, and searches for the best amount of each. What it finds is what the served model likes,
which may differ from the undamaged picture. With --hack-after, it may then also remove color, blur
and brighten, which people do not like. Writes before_after.png, curve.csv and guard.png.
"""

import argparse
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from ma_agiqa_client import Scorer
from ma_agiqa_client.rewards import Guard, ma_agiqa_score

START = np.array([0.8, 0.8, 0.8, 0, 0, 0])  # swaps, noise, loss of detail; and the hacks
DAMAGES, CHILDREN, STEP = 3, 15, 0.25


def render(picture: Image.Image, genes: np.ndarray) -> Image.Image:
    swaps, noise, detail, gray, blur, light = genes.tolist()
    rng, pixels = np.random.default_rng(0), np.array(picture, np.float32)
    size = min(picture.size) // 8
    places = rng.integers(0, np.array(pixels.shape[:2]) - size, (64, 2, 2))
    for (y, x), (v, u) in places[: round(64 * swaps)]:
        one, other = pixels[y : y + size, x : x + size], pixels[v : v + size, u : u + size]
        one[:], other[:] = other.copy(), one.copy()
    pixels += rng.normal(0, 70 * noise, pixels.shape)
    file = io.BytesIO()
    damaged = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    damaged.save(file, "JPEG", quality=round(95 - 93 * detail))
    image = ImageEnhance.Color(Image.open(file).convert("RGB")).enhance(1 - gray)
    image = image.filter(ImageFilter.GaussianBlur(4 * blur))
    return ImageEnhance.Brightness(image).enhance(1 + light)


def evolve(picture, reward, guard, generations: int, hack_after: int, rng: np.random.Generator):
    parent, curve = START, []
    for generation in range(generations):
        children = parent + rng.normal(0, STEP, (CHILDREN, START.size))
        family = np.vstack([parent, children]).clip(0, 1)
        if generation < hack_after:
            family[:, DAMAGES:] = 0
        images = [render(picture, genes) for genes in family]
        scores, _ = reward(images, None, None)
        guard.watch(images, scores.tolist())
        curve.append([scores[0], *parent])  # the parent's
        parent = family[scores.argmax()]
    return parent, np.array([*curve, [scores.max(), *parent]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("--url", default="localhost:8001", help="gRPC address of the server")
    parser.add_argument(
        "--output", type=Path, default=Path("evolved"), help="folder of the results"
    )
    parser.add_argument("--generations", type=int, default=20)
    parser.add_argument(
        "--hack-after", type=int, default=10**6, help="generations under constraints"
    )
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    picture = Image.open(options.picture).convert("RGB")
    with Scorer(options.url) as scorer:
        reward, rng = ma_agiqa_score(scorer=scorer), np.random.default_rng(options.seed)
        guard = Guard(
            lambda images: reward(images, None, None)[0].tolist(), step_images=CHILDREN + 1
        )
        genes, curve = evolve(picture, reward, guard, options.generations, options.hack_after, rng)
        guard.wait()
    options.output.mkdir(parents=True, exist_ok=True)
    pair = np.hstack([render(picture, START), render(picture, genes)])
    Image.fromarray(pair).save(options.output / "before_after.png")
    np.savetxt(
        options.output / "curve.csv", curve, "%.4f", ",", header="reward,amounts of each change"
    )
    (options.output / "guard.png").write_bytes(guard.strip_chart())
    sys.stdout.write(f"{guard.state()}\n")


if __name__ == "__main__":
    main()
