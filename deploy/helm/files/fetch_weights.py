"""Fetch mPLUG-Owl2 at one commit of the hub, compare its hash, and convert it to safetensors.

The result is a Hugging Face cache (HF_HOME) with this model alone, so servers find the weights by
the hub's name. It is made under another name, and renamed once it is complete.
"""

import argparse
import logging
import os
import shutil
import sys
from pathlib import Path

from ma_agiqa.checkpoints.downloads import HubDownload
from ma_agiqa.file_hashes import FileHashes
from ma_agiqa.lmm.mplug_owl2.loading import FLOATS
from ma_agiqa.lmm.mplug_owl2.weight_files import convert_weights
from ma_agiqa.lmm.weights_hash import note_conversion, weights_sha256

parser = argparse.ArgumentParser()
for option in ("--model", "--revision", "--sha256", "--dtype", "--folder"):
    parser.add_argument(option, required=True)
given = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(message)s")
folder = Path(given.folder)
if (folder / "complete").exists():
    logging.info("%s is complete.", folder)
    sys.exit()

partial, download = Path(f"{folder}.partial"), Path(f"{folder}.download")
logging.info("Fetching %s at %s.", given.model, given.revision)
HubDownload(download, given.model, os.environ.get("HF_ENDPOINT"), given.revision).run()
hashes = FileHashes.of_user()
found = weights_sha256(str(download), hashes)
if given.sha256 not in ("", found):  # the download is kept: it is that of the pinned commit
    sys.exit(
        f"The weights of {given.model} at {given.revision} have the hash {found}, not "
        f"{given.sha256}. Set weights.revision to the commit that the scorer was exported for, or "
        "correct weights.sha256."
    )

shutil.rmtree(partial, ignore_errors=True)
model = partial / "hub" / f"models--{given.model.replace('/', '--')}"
snapshot = model / "snapshots" / given.revision
snapshot.parent.mkdir(parents=True)
if given.dtype:
    logging.info("Converting to safetensors of %s.", given.dtype)
    convert_weights(str(download), snapshot, FLOATS[given.dtype])
    note_conversion(snapshot, str(download), given.dtype, hashes)
    shutil.rmtree(download)
else:
    download.rename(snapshot)
(model / "refs").mkdir()
(model / "refs" / "main").write_text(given.revision)
(partial / "complete").write_text(f"{found}\n")
shutil.rmtree(folder, ignore_errors=True)
partial.rename(folder)
logging.info("%s is complete; the hash of its weights is %s.", folder, found)
