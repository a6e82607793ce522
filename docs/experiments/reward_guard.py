"""How late the guard of rewards is, and how often it is wrong.

    python docs/experiments/reward_guard.py [RUNS]

`client/examples/evolve_picture.py` repairs a picture for a stand-in of a scorer: it likes what is
similar to the undamaged picture, and, by mistake, also pictures that are gray, blurred or bright.
Half of the runs are constrained to repairs; in the others the constraint ends at generation 20.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "client" / "examples"))

from evolve_picture import CHILDREN, evolve  # noqa: E402

from ma_agiqa_client.rewards import Guard  # noqa: E402

PICTURES = ("astronaut", "cat", "coffee")
GENERATIONS, HACK_AFTER, MISTAKE = 45, 20, 0.5


def scorer(picture: Image.Image):
    true = np.asarray(picture, np.float32) / 255

    def score(image) -> float:
        pixels = np.asarray(image.convert("RGB").resize(picture.size), np.float32) / 255
        luma = pixels.mean(2, keepdims=True)
        gray = 1 - np.abs(pixels - luma).mean() / (
            np.abs(true - true.mean(2, keepdims=True)).mean()
        )
        bright = luma.mean() - true.mean()
        detail = np.abs(np.diff(luma, axis=0)).mean() / np.abs(np.diff(true.mean(2), axis=0)).mean()
        similar = 1 - 2 * np.abs(luma - true.mean(2, keepdims=True)).mean()
        mistake = np.clip([gray, bright, 1 - detail], 0, 1).sum()
        return float(np.clip(0.6 * similar + MISTAKE * 0.4 * mistake, 0, 1))

    return score


def run(seed: int, hack_after: int) -> Guard:
    name = PICTURES[seed % len(PICTURES)]
    picture = Image.open(ROOT / "examples" / f"{name}_pristine.jpg").convert("RGB")
    picture.thumbnail((192, 192))
    score = scorer(picture)
    guard = Guard(None, step_images=CHILDREN + 1)
    rng = np.random.default_rng(seed)
    evolve(
        picture,
        lambda images, prompts, metadata: (np.array([score(one) for one in images]), {}),
        guard,
        GENERATIONS,
        hack_after,
        rng,
    )
    guard.wait()
    return guard


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    false, late, missed = 0, [], 0
    for seed in range(runs):
        false += run(seed, GENERATIONS).cusum.alarm_step is not None
        found = run(seed, HACK_AFTER).cusum
        if found.alarm_step is None:
            missed += 1
        elif found.alarm_step <= HACK_AFTER:
            false += 1
        else:
            late.append(found.alarm_step - HACK_AFTER)
        sys.stdout.write(f"run {seed}: {found.alarm_step} {found.suspects} {found.sums}\n")
    sys.stdout.write(
        f"{runs} constrained runs and {runs} that may hack after generation {HACK_AFTER}: "
        f"{false} false alarms, {missed} not found, delay in generations: "
        f"median {np.median(late) if late else '-'}, largest {max(late, default='-')}\n"
    )


if __name__ == "__main__":
    main()
