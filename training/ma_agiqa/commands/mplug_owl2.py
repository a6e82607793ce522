"""`python -m ma_agiqa mplug-owl2`: convert mPLUG-Owl2's weights for serving."""

from pathlib import Path

import click

from ma_agiqa.commands._shared import Command
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.mplug_owl2.loading import FLOATS
from ma_agiqa.lmm.mplug_owl2.weight_files import convert_weights
from ma_agiqa.lmm.sources import DTYPE_ALIASES
from ma_agiqa.lmm.weights_hash import note_conversion

_EPILOG = """\b
Examples:
  python -m ma_agiqa mplug-owl2 MAGAer13/mplug-owl2-llama2-7b weights/mplug-owl2-bf16
  python -m ma_agiqa mplug-owl2 weights/mplug-owl2-llama2-7b weights/mplug-owl2-bf16
  python export/to_triton.py --checkpoint AGIQA_3k.pt --device cpu \\
      --embedder weights/mplug-owl2-bf16
"""


@click.command(cls=Command, epilog=_EPILOG)
@click.argument("source")
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--dtype",
    type=click.Choice([*DTYPE_ALIASES, *FLOATS]),
    default="bf16",
    show_default=True,
    help="Dtype of the weights, the one that you will serve.",
)
def main(source: str, folder: Path, dtype: str) -> None:
    """Convert the weights of SOURCE, a hub id or a folder, to safetensors of one dtype in FOLDER.

    On a CPU such a folder loads in seconds: weights in the served dtype are mapped, not read, and
    processes that serve them share their memory. Takes 16.4 GB of disk for the paper's model.
    """
    dtype = DTYPE_ALIASES.get(dtype, dtype)
    convert_weights(source, folder, FLOATS[dtype])
    note_conversion(folder, source, dtype, FileHashes.of_user())
    click.echo(f"Wrote {folder}.")
