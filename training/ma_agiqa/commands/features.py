"""Make the features of a data set, see `ma_agiqa.data.features`."""

import sys
from pathlib import Path

import click

from ma_agiqa.commands._shared import Command, config_option, overrides_option, read_config
from ma_agiqa.data import read_images
from ma_agiqa.data.features import Features, ensure_features
from ma_agiqa.torchrun import on_main, process_state

_EPILOG = """\b
Examples:
  python -m ma_agiqa features --config training/configs/demo.yaml
  python -m ma_agiqa features --config training/configs/agiqa_3k.yaml --url localhost:8001
  torchrun --nproc-per-node 8 -m ma_agiqa features --config training/configs/aigcqa_20k.yaml

\b
Exit status:
  0  the features of all images are there
  1  some could not be computed; the message says what to do before running it again
"""


@click.command(cls=Command, epilog=_EPILOG)
@config_option()
@click.option(
    "--url",
    metavar="HOST:PORT",
    help="Use the mPLUG-Owl2 that a Triton server has loaded, instead of one in this process.",
)
@click.option("--device", help="Device of mPLUG-Owl2, such as cuda:0. Default: a GPU, if any.")
@click.option(
    "--overwrite", is_flag=True, help="Remove existing features, and compute all of them again."
)
@overrides_option
def main(
    config_path: str,
    url: str | None,
    device: str | None,
    overwrite: bool,
    overrides: tuple[str, ...],
) -> None:
    """Compute both prompt embeddings and the quality view of every image, once.

    The features go to the folder `features` next to the table, or to the config's features.folder.
    The command can be interrupted at any time; run it again to continue. Later, only images that
    are new or have changed are computed. Under torchrun every process takes its share, each on a
    GPU of its own.
    """
    config = read_config(config_path, overrides)
    images = on_main(lambda: read_images(config.data))
    features = ensure_features(
        config.embedder,
        config.features,
        config.feature_folder,
        images,
        config.scorer_config().semantic_dim,
        url=url,
        device=device,
        overwrite=overwrite,
        progress=sys.stderr.isatty(),
    )
    if process_state().is_main_process:
        click.echo(_summary(features, config.feature_folder))


def _summary(features: Features, folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    rate = f", {features.made / features.seconds:.1f} images/s" if features.made else ""
    return (
        f"images  {len(features):,}: {features.made:,} new, "
        f"{len(features) - features.made:,} already there\n"
        f"time    {features.seconds:.1f} s{rate}\n"
        f"folder  {folder}, {size / 1e6:,.1f} MB"
    )
