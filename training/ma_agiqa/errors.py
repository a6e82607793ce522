"""Errors of the package, all under one root.

    MAAGIQAError
    ├── ImageError                 the bytes cannot be scored
    │   ├── InvalidImageError      not an image, truncated, or a format we do not read
    │   │   └── CostlyImageError   takes far more time or memory than images of its size
    │   └── ImageTooLargeError     more bytes or pixels than the limit
    ├── CheckpointError            weights that do not fit the model, or cannot be read
    ├── ConfigError                a setting with an unknown name or an impossible value
    ├── DataError                  a table or image of a data set that cannot be used
    ├── QuestionError              a question to the LMM that is empty or too long
    ├── CannotAnswerError          an LMM without words: random weights, no head, no tokenizer
    └── DownloadError              weights that could not be downloaded

A message states what was received, what was expected, and what to do next. Those of images and
questions never hold a path of the server, so they may be shown to whoever sent the request.
"""


class MAAGIQAError(Exception):
    """Root of every error that this package raises on purpose."""


class ImageError(MAAGIQAError):
    """The given bytes cannot be scored."""


class InvalidImageError(ImageError):
    """The bytes are not an image, are truncated, or are of a format that is not read."""


class CostlyImageError(InvalidImageError):
    """Decoding takes far more time or memory than that of other images of the same size."""


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels than the limit."""


class CheckpointError(MAAGIQAError):
    """Weights that do not fit the model, or cannot be read."""


class ConfigError(MAAGIQAError):
    """A setting with an unknown name or an impossible value."""


class DataError(MAAGIQAError):
    """A table or an image of a data set that cannot be used."""


class QuestionError(MAAGIQAError):
    """A question to the LMM that is empty, too long, or asks for too long an answer."""


class CannotAnswerError(MAAGIQAError):
    """The served LMM cannot answer: random weights, no language head or no tokenizer."""


class DownloadError(MAAGIQAError):
    """Weights that could not be downloaded."""
