"""Errors of the package, all under one root.

    MAAGIQAError
    ├── ImageError                 the bytes cannot be scored
    │   ├── InvalidImageError      not an image, truncated, or a format we do not read
    │   └── ImageTooLargeError     more bytes or pixels than the limit
    ├── CheckpointError            weights that do not fit the model, or cannot be read
    ├── ConfigError                a setting with an unknown name or an impossible value
    ├── DataError                  a table or image of a data set that cannot be used
    ├── QuestionError              a question to the LMM that is empty or too long
    ├── CannotAnswerError          an LMM that has no words: random weights, no head, no tokenizer
    └── DownloadError             weights that could not be fetched

A message says what was received, what was expected, and what to do next; it never holds a path
of the server, so it may be shown to whoever sent the request.
"""


class MAAGIQAError(Exception):
    """Root of every error this package raises on purpose."""


class ImageError(MAAGIQAError, ValueError):
    """The given bytes cannot be scored."""


class InvalidImageError(ImageError):
    """The bytes are not an image, are truncated, or are of a format that is not read."""


class ImageTooLargeError(ImageError):
    """The image has more bytes or pixels than the limit."""


class CheckpointError(MAAGIQAError, ValueError):
    """Weights that do not fit the model, or cannot be read."""


class ConfigError(MAAGIQAError, ValueError):
    """A setting with an unknown name or an impossible value."""


class DataError(MAAGIQAError, ValueError):
    """A table or an image of a data set that cannot be used."""


class QuestionError(MAAGIQAError, ValueError):
    """A question to the LMM that is empty, too long, or asks for too long an answer."""


class CannotAnswerError(MAAGIQAError, RuntimeError):
    """The LMM that is served has no words: random weights, no language head or no tokenizer."""


class DownloadError(MAAGIQAError, RuntimeError):
    """Weights that could not be fetched."""
