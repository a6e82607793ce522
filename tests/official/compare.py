"""Our code next to the authors' code: the same weights and images, alternating, on this machine.

    PYTHONPATH=tests python -m official.compare CHECKOUT --python PYTHON embedder WEIGHTS
    PYTHONPATH=tests python -m official.compare CHECKOUT --python PYTHON scorer
    PYTHONPATH=tests python -m official.compare CHECKOUT --python PYTHON preprocess

CHECKOUT is a clone of https://github.com/wangpuyi/MA-AGIQA, and PYTHON an interpreter in which its
code runs; docs/benchmarks.md says which packages that needs. WEIGHTS is a folder of mPLUG-Owl2, for
instance the random one that `python -m ma_agiqa benchmark embedder --random-weights` writes.
Nothing of the authors' code is part of this repository.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ma_agiqa.allocator import keep_freed_memory
from ma_agiqa.benchmark.embedder import load, random_images
from ma_agiqa.benchmark.machine import count_operations, describe, seconds, use_threads
from ma_agiqa.benchmark.preprocess import Views, generated_file, prepare_once
from ma_agiqa.benchmark.scorer import random_scorer, sample_inputs
from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.lmm.embedder import CLIP_MEAN, CLIP_STD, PROMPTS, PromptEmbedder
from ma_agiqa.lmm.mplug_owl2.loading import DTYPES, FLOATS, compute_dtype
from ma_agiqa.networks.fast_maniqa import accelerate
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig
from official.authors import Authors, give_weights

_CPU = torch.device("cpu")


def compare_embedder(
    authors: Authors, weights: Path, dtypes: Sequence[str], device: str, batch: int, rounds: int
) -> dict[str, float]:
    """Embed a batch of random images in every round, after one round that is not counted.

    Args:
        authors: the authors' code.
        weights: folder of mPLUG-Owl2.
        dtypes: our formats of the weights, of `loading.DTYPES`; all of them are in memory.
        device: device of ours.
        batch: number of images.
        rounds: number of passes of each that are timed.

    Returns:
        Seconds per image of the authors' code and of each dtype, operations per image of the
        authors' code, the largest absolute difference of an embedding from theirs, and the
        smallest cosine of an image's embeddings.
    """
    embedders = {dtype: load(str(weights), dtype, device)[0] for dtype in dtypes}
    first = next(iter(embedders.values()))
    images = random_images(first, batch)
    pixels = first.pixels(images).cpu()
    prompts = {name: list(ids) for name, ids in PROMPTS.items()}
    made = {dtype: embedder(images) for dtype, embedder in embedders.items()}
    answers = [authors.ask(pixels=pixels, prompts=prompts)]
    times: dict[str, list[float]] = {dtype: [] for dtype in dtypes}
    for _ in range(rounds):
        for dtype, embedder in embedders.items():
            times[dtype].append(seconds(lambda e=embedder: e(images), device))  # type: ignore[misc]
        answers.append(authors.ask(pixels=pixels, prompts=prompts))
    result = {
        "authors_s": median(answer["seconds"] for answer in answers[1:]) / batch,
        "authors_flop": authors_flop(first),
    }
    for dtype in dtypes:
        pairs = [(made[dtype][name].cpu(), answers[0]["features"][name]) for name in PROMPTS]
        cosines = [torch.nn.functional.cosine_similarity(a, b).min().item() for a, b in pairs]
        result[f"{dtype}_s"] = median(times[dtype]) / batch
        result[f"{dtype}_difference"] = max((a - b).abs().max().item() for a, b in pairs)
        result[f"{dtype}_cosine"] = min(cosines)
    return result


def authors_flop(embedder: PromptEmbedder) -> float:
    """Operations per image of the authors' feature extraction.

    They run every prompt twice, from its beginning to the language head.
    """
    config = embedder.model.config
    image = random_images(embedder, 1)
    once, _ = count_operations(lambda: embedder.full_sequence(image))
    positions = sum(len(ids) - 1 + config.num_image_tokens for ids in PROMPTS.values())
    return 2 * (once + 2 * positions * config.hidden_size * config.vocab_size)


@torch.inference_mode()
def compare_scorer(
    authors: Authors, model: MAAGIQA, dtype: torch.dtype | None, batch: int, rounds: int
) -> dict[str, float]:
    """Score a batch of made-up inputs in every round.

    Args:
        authors: the authors' code.
        model: the exact scorer, whose weights both use.
        dtype: dtype of our fast arithmetic; None: the exact arithmetic.
        batch: number of images in a forward pass.
        rounds: number of forward passes that are timed, after one that is not.

    Returns:
        Seconds per image of both, and the largest absolute difference of a score.
    """
    device = next(model.parameters()).device
    measured = model if dtype is None else accelerate(model, dtype)
    inputs = sample_inputs(model.config, batch, device)
    given = tuple(part.cpu() for part in inputs)
    give_weights(authors, model)
    first = measured(*inputs).score.flatten().cpu()
    expected = authors.ask(inputs=given)["score"]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(seconds(lambda: measured(*inputs), device))
        theirs.append(authors.ask(inputs=given)["seconds"])
    return {
        "authors_s": median(theirs) / batch,
        "ours_s": median(ours) / batch,
        "difference": float((first - expected).abs().max()),
    }


def compare_preprocess(
    authors: Authors, files: Sequence[bytes], semantic_size: int, rounds: int
) -> dict[str, float]:
    """Turn all files into the networks' inputs, normalized floats, in every round.

    Returns:
        Seconds per image: of the authors' code for MANIQA's input (`authors_quality_s`) and for
        mPLUG-Owl2's (`authors_semantic_s`, which they spend once for each of the two prompts), and
        of ours for both; and the largest difference of an input (values are in -2 to 2).
    """

    def prepare() -> list[tuple[Tensor, Tensor]]:
        return [network_inputs(prepare_once(data, semantic_size)) for data in files]

    made = [torch.stack(inputs) for inputs in zip(*prepare(), strict=True)]
    names = [f"{index}.jpg" for index in range(len(files))]  # the ending that their code wants
    for name, data in zip(names, files, strict=True):
        Path(authors.folder.name, name).write_bytes(data)
    job = {"folder": authors.folder.name, "names": names}
    first = authors.ask(**job)
    expected = first["quality"], first["semantic"]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(seconds(prepare, _CPU))
        theirs.append(authors.ask(**job))
    return {
        "authors_quality_s": median(answer["quality_s"] for answer in theirs) / len(files),
        "authors_semantic_s": median(answer["semantic_s"] for answer in theirs) / len(files),
        "ours_s": median(ours) / len(files),
        "difference": max(float((a - b).abs().max()) for a, b in zip(made, expected, strict=True)),
    }


def network_inputs(views: Views) -> tuple[Tensor, Tensor]:
    """Normalize an image's views as both networks do: float32 (3, 224, 224) and (3, S, S)."""
    quality, semantic = map(torch.from_numpy, views)
    mean, std = torch.tensor(CLIP_MEAN), torch.tensor(CLIP_STD)
    return (
        (quality.permute(2, 0, 1).float() / 255 - 0.5) / 0.5,
        ((semantic.float() / 255 - mean) / std).permute(2, 0, 1),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    subjects = parser.add_subparsers(dest="subject", required=True)
    embedder = subjects.add_parser("embedder")
    embedder.add_argument("weights", type=Path)
    embedder.add_argument(
        "--dtype", nargs="+", choices=DTYPES, default=["bfloat16"], help="ours; theirs is a float"
    )
    scorer = subjects.add_parser("scorer")
    scorer.add_argument("--checkpoint", type=Path, help="default: random weights")
    scorer.add_argument("--dtype", choices=[*FLOATS, "exact"], default="float32")
    preprocess = subjects.add_parser("preprocess")
    preprocess.add_argument("images", nargs="*", type=Path, help="default: generated ones")
    preprocess.add_argument("--side", type=int, default=1024, help="side of generated images")
    preprocess.add_argument("--semantic-size", type=int, default=448)
    return parser


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run one comparison and print its numbers."""
    given = _parser().parse_args(arguments)
    use_threads(given.threads)
    keep_freed_memory()  # as all commands do
    where = (given.python, given.checkout)
    if given.subject == "embedder":
        theirs = str(compute_dtype(given.dtype[0], given.device)).removeprefix("torch.")
        settings = {"weights": str(given.weights.resolve()), "dtype": theirs}
        with Authors("embedder", *where, **settings, device=given.device) as authors:
            result = compare_embedder(
                authors, given.weights, given.dtype, given.device, given.batch, given.rounds
            )
    elif given.subject == "scorer":
        device = torch.device(given.device)
        model = (
            load_scorer(given.checkpoint)[0].to(device)
            if given.checkpoint
            else random_scorer(MAAGIQAConfig(), device)
        )
        with Authors("scorer", *where, device=given.device) as authors:
            dtype = FLOATS.get(given.dtype)
            result = compare_scorer(authors, model, dtype, given.batch, given.rounds)
    else:
        files = [path.read_bytes() for path in given.images] or [
            generated_file(given.side, given.side, "JPEG", seed) for seed in range(8)
        ]
        with Authors("preprocess", *where, side=given.semantic_size) as authors:
            result = compare_preprocess(authors, files, given.semantic_size, given.rounds)
    print(f"machine  {describe(given.device)}")
    for name, value in result.items():
        print(f"{name}  {value:.6g}")
    return result


if __name__ == "__main__":
    main()
