"""`python -m ma_agiqa benchmark scorer`."""

from pathlib import Path

import click
import torch

from ma_agiqa.benchmark.scorer import (
    Official,
    ScorerSpeed,
    measure_scorer,
    picture_deviation,
    random_scorer,
)
from ma_agiqa.commands._official_options import official_option, official_python_option
from ma_agiqa.commands._several_values import Several, SeveralCommand
from ma_agiqa.errors import ConfigError
from ma_agiqa.networks.scorer import MAAGIQA, MAAGIQAConfig

__all__ = ["scorer"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "exact": None}
_DEMO = Path(__file__).resolve().parents[2] / "checkpoints" / "demo"
_EPILOG = """\b
Examples:
  python -m ma_agiqa benchmark scorer --preset paper --random-weights --dtype bf16 --batch 1 4 8
  python -m ma_agiqa benchmark scorer --preset demo --dtype fp32
  python -m ma_agiqa benchmark scorer --checkpoint AGIQA_3k.pt --dtype bf16 --official MA-AGIQA
"""


@click.command(cls=SeveralCommand, epilog=_EPILOG)
@click.option(
    "--preset",
    type=click.Choice(["paper", "demo"]),
    default="paper",
    show_default=True,
    help="Sizes of the scorer.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights; else the preset's.")
@click.option("--random-weights", is_flag=True, help="Weights that need no checkpoint.")
@click.option(
    "--dtype",
    type=click.Choice(list(_DTYPES)),
    default="fp32",
    show_default=True,
    help="Of the fast arithmetic; exact: float32 in the order of the authors' code.",
)
@click.option(
    "--batch",
    "batches",
    cls=Several,
    type=click.IntRange(min=1),
    default=(1,),
    show_default=True,
    metavar="N...",
    help="Images in a forward pass; several may be given.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of the CPU. Default: torch's own.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@official_option
@official_python_option
def scorer(
    preset: str,
    checkpoint: Path | None,
    random_weights: bool,
    dtype: str,
    batches: tuple[int, ...],
    device: str,
    threads: int | None,
    rounds: int,
    official: Path | None,
    official_python: str,
) -> None:
    """Time the scorer and compare its scores with the exact arithmetic and the authors' code."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here. Leave it out to use the CPU.")
    if threads:
        torch.set_num_threads(threads)
    where = torch.device(device)
    model = _model(preset, checkpoint, random_weights, where)
    other = Official(official, official_python) if official else None
    machine = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU"
    click.echo(f"machine     {machine} threads, torch {torch.__version__}, {dtype}")
    for speed in measure_scorer(model, batches, _DTYPES[dtype], where, rounds, other):
        click.echo(_summary(speed))


def _model(preset: str, checkpoint: Path | None, random: bool, device: torch.device) -> MAAGIQA:
    from ma_agiqa.checkpoints import load_scorer

    if checkpoint is not None or (preset == "demo" and not random):
        return load_scorer(checkpoint or _DEMO)[0].to(device)
    if not random:
        raise ConfigError(
            "The paper's scorer needs weights: give --checkpoint, or --random-weights, which are "
            "as fast."
        )
    config = MAAGIQAConfig() if preset == "paper" else load_scorer(_DEMO)[0].config
    model = random_scorer(config, device)
    by_pictures = picture_deviation(model, device)
    click.echo(f"weights     random; scores deviate by 1, by pictures alone by {by_pictures:.2g}")
    return model


def _summary(speed: ScorerSpeed) -> str:
    lines = [
        f"batch {speed.batch}",
        f"  time      {speed.seconds_per_image:.4g} s/image, "
        f"{1 / speed.seconds_per_image:.3g} images/s",
        f"  work      {speed.flop_per_image / 1e9:.4g} GFLOP/image, "
        f"{speed.flop_per_s / 1e9:.4g} GFLOP/s: {speed.gemm_share:.0%} of the "
        f"{speed.gemm_flop_per_s / 1e9:.4g} of a matrix product",
        f"  memory    {speed.peak_memory_bytes / 2**30:.2f} GiB at most",
        f"  scores    differ by at most {speed.score_difference:.2g} from the exact arithmetic, "
        f"{speed.batch_difference:.2g} from the same image alone",
    ]
    if speed.official_seconds_per_image is not None:
        ratio = speed.official_seconds_per_image / speed.seconds_per_image
        lines.append(
            f"  official  {speed.official_seconds_per_image:.4g} s/image in float32: ours is "
            f"{ratio:.2f} times as fast, scores differ by at most {speed.official_difference:.2g}"
        )
    return "\n".join(lines)
