"""A stand-in for the shipped ensemble, for tests that ask nothing of the networks.

It is the shipped repository with its card, tensors, decoding, deadlines and metrics, but models of
numpy take the place of the two networks: nothing imports torch, and the server starts in a second.
"""

import json
import shutil
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from support.servers import SHIPPED

NETWORKS = ("mplug_owl2", "maniqa_moe")

CALIBRATION = {
    "method": "by rule",
    "level": 0.9,
    "count": 100,
    "reach": 2.0,
    "reaches": {"0.5": 0.7, "0.9": 2.0},
    "errors": [-1.5, -0.75, 0.0, 0.75, 1.5],
    "familiarity": {"method": "brightness", "threshold": 0.1},
    "test": {"coverage": 0.91, "width": 1.2},
}
"""The calibration in the stand-in's card."""


def write_stand_in(folder: Path, seconds_per_image: float = 0.0) -> Path:
    """Write the stand-in's repository.

    The SCORE of an image is how bright its quality view is, 0 to 5, to the last bit whatever else
    is in the batch. PATCH_SCORE is the brightness of each patch, and GATE goes by the three colors.

    Args:
        folder: is made.
        seconds_per_image: how long the scorer sleeps for each image of a batch.
    """
    ignored = shutil.ignore_patterns("__pycache__", "model.pt", "mplug_owl2_answer")
    shutil.copytree(SHIPPED, folder, ignore=ignored)
    (folder / "maniqa_moe" / "1" / "model.pt").touch()  # a version is known by this file
    put_in_stand_ins(folder, seconds_per_image)
    for model in ("ma_agiqa", "ma_agiqa_v1"):
        file = folder / model / "config.pbtxt"
        config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
        config.parameters["calibration"].string_value = json.dumps(CALIBRATION)
        file.write_text(text_format.MessageToString(config))
    return folder


def put_in_stand_ins(folder: Path, seconds_per_image: float = 0.0) -> None:
    """Replace the networks of a repository, all versions of the scorer included."""
    for model in ("preprocess", *NETWORKS):
        file = folder / model / "config.pbtxt"
        config = text_format.Parse(file.read_text(), model_config_pb2.ModelConfig())
        del config.model_warmup[:]
        if model == "maniqa_moe":
            config.platform, config.backend = "", "python"
            config.instance_group[0].count = 1
            config.parameters["seconds_per_image"].string_value = str(seconds_per_image)
        if model == "preprocess":
            config.parameters["running_batches"].string_value = "3"  # one of each later step
        file.write_text(text_format.MessageToString(config))
    for model in NETWORKS:
        for version in (folder / model).glob("[0-9]*"):
            shutil.copyfile(Path(__file__).with_name(f"{model}.py"), version / "model.py")
