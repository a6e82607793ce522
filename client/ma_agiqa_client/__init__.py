"""Score AI-generated images with a served MA-AGIQA.

    >>> from ma_agiqa_client import Scorer
    >>> with Scorer("localhost:8001") as scorer:
    ...     print(scorer.score("cat.png").mos)

Imports neither torch nor transformers.
"""

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import (
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.score import Gate, Score
from ma_agiqa_client.scorer import Scorer

__all__ = [
    "ClientError",
    "DeadlineExceededError",
    "Gate",
    "InvalidImageError",
    "ModelCard",
    "Score",
    "Scorer",
    "ServerError",
    "ServerUnavailableError",
    "WrongModelError",
]
