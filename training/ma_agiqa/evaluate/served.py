"""Scores of a served model, through the client."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
from tqdm.auto import tqdm

from ma_agiqa.data import RatedImage
from ma_agiqa.data.table import listed
from ma_agiqa.errors import ConfigError, DataError
from ma_agiqa.evaluate.predictions import build_predictions

if TYPE_CHECKING:
    from ma_agiqa_client import ModelCard, Score


def score_served(
    url: str, images: Sequence[RatedImage], table: str, progress: bool = False
) -> "tuple[pd.DataFrame, ModelCard]":
    """Score images by the server at an address, several at a time.

    Args:
        url: HOST:PORT of the server's gRPC port.
        images: in the order wanted.
        table: their CSV file, for messages.
        progress: show a bar on stderr.

    Returns:
        Predictions with one row per image, in order, without gates (the client gives these as
        shares, not as the weights of Eq. 4) and with intervals, clipped to the scale, if the model
        is calibrated; and the card of the served model.

    Raises:
        ConfigError: the client is not installed, no server answers at the address, or it serves
            something else.
        DataError: images that the server cannot score, named with the table and their rows; or the
            server failed, at the image that is named.
    """
    try:
        from ma_agiqa_client import ClientError, Scorer
    except ImportError as error:
        raise ConfigError(
            "--url needs the client, which is not installed: run `pip install ./client`."
        ) from error
    try:
        with Scorer(url) as scorer:
            card = scorer.model()
            found = scorer.score_many(image.path for image in images)
            bar = tqdm(found, "scores", len(images), unit="image", disable=not progress)
            scores = _without_failures(images, bar, table)
    except DataError:
        raise
    except (ClientError, ValueError) as error:
        raise ConfigError(f"The server at {url} cannot be used: {error}") from error
    ends = [list(score.interval) for score in scores if score.interval is not None]
    intervals = ends if len(ends) == len(scores) else None
    return build_predictions(images, [score.mos for score in scores], None, intervals), card


def _without_failures(
    images: Sequence[RatedImage], found: "Sequence[Score] | tqdm[Score]", table: str
) -> "list[Score]":
    """The scores; bad images are collected, so that one message names them all."""
    from ma_agiqa_client import InvalidImageError

    scores: list[Score] = []
    bad = []
    for image, score in zip(images, found, strict=True):
        where = f"row {image.row}: {image.name}: {score.error}"
        if isinstance(score.error, InvalidImageError):
            bad.append(where)
        elif score.error is not None:
            raise DataError(f"{table}, {where}") from score.error
        else:
            scores.append(score)
    if bad:
        raise DataError(f"{table}: {listed(bad)}")
    return scores
