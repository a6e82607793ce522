"""Score AI-generated images with a served MA-AGIQA.

    >>> from ma_agiqa_client import Scorer
    >>> with Scorer("localhost:8001") as scorer:
    ...     print(scorer.score("cat.png").mos)

Imports neither torch nor transformers.
"""

from ma_agiqa_client._core.transport import AsyncTransport, Transport
from ma_agiqa_client.async_scorer import AsyncScorer
from ma_agiqa_client.card import Alignment, Calibration, ModelCard
from ma_agiqa_client.comparison import Comparison
from ma_agiqa_client.connection import Tls
from ma_agiqa_client.errors import (
    AuthenticationError,
    CannotAlignError,
    CannotExplainError,
    ClientError,
    DeadlineExceededError,
    InvalidImageError,
    InvalidPromptError,
    InvalidQuestionError,
    RequestCancelledError,
    ServerError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.explain import AnswerPart
from ma_agiqa_client.retry import Retry
from ma_agiqa_client.score import Failure, Gate, Interval, Score
from ma_agiqa_client.scorer import Scorer

__all__ = [
    "Alignment",
    "AnswerPart",
    "AsyncScorer",
    "AsyncTransport",
    "AuthenticationError",
    "Calibration",
    "CannotAlignError",
    "CannotExplainError",
    "ClientError",
    "Comparison",
    "DeadlineExceededError",
    "Failure",
    "Gate",
    "Interval",
    "InvalidImageError",
    "InvalidPromptError",
    "InvalidQuestionError",
    "ModelCard",
    "RequestCancelledError",
    "Retry",
    "Score",
    "Scorer",
    "ServerError",
    "ServerUnavailableError",
    "Tls",
    "Transport",
    "WrongModelError",
]
