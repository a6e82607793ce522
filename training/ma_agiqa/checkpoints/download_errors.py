"""What the download libraries raise, as one sentence that says what to do."""

import errno
from collections.abc import Iterator

from huggingface_hub import errors as hub_errors

from ma_agiqa.errors import DownloadError

_NO_ACCESS = (
    "it is private, renamed or deleted, or you need permission. Ask for access on the model's "
    "page, put a valid token into HF_TOKEN, and run this again"
)
_HUB_STATUS = {
    401: _NO_ACCESS,
    403: _NO_ACCESS,
    404: "it was moved, renamed or deleted. Find its new name and give that with --embedder",
}
_TRY_LATER = "Run this again later"


def explain(error: BaseException, what: str, by_hand: str) -> DownloadError:
    """Explain why a download failed.

    Args:
        error: what huggingface_hub or gdown raised.
        what: the model's id on the hub, or "Google Drive".
        by_hand: sentence that explains how to get the files by hand.
    """
    reasons = (_reason(cause, what) for cause in _chain(error))
    reason = next(filter(None, reasons), None)
    return DownloadError(
        f"{reason or f'{what}: the download failed ({_first_line(error)}). Run this again'}. "
        f"{by_hand}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _reason(cause: BaseException, what: str) -> str | None:
    number = cause.errno if isinstance(cause, OSError) else None
    # the hub's transfer library, written in Rust, gives the number in the text only
    if number in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(cause):
        return "The disk is full. Free some space and run this again: complete files are kept"
    if number in (errno.EACCES, errno.EROFS) and isinstance(cause, OSError):
        return f"{cause.filename} cannot be written. Give another folder with --output"
    if isinstance(cause, hub_errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE forbids using the hub. Unset it and run this again"
    if isinstance(cause, hub_errors.HFValidationError):
        return f"{what!r} is neither a folder nor the id of a model on the hub"
    if type(cause).__name__ == "FileURLRetrievalError":  # of gdown, which may not be installed
        return _drive_refusal(str(cause))
    response = getattr(cause, "response", None)
    if response is not None:
        status = response.status_code
        return f"{what}: the server refuses (HTTP {status}): {_HUB_STATUS.get(status, _TRY_LATER)}"
    if isinstance(cause, hub_errors.HTTPError) or _is_connection_error(cause):
        *_, bottom = _chain(cause)
        fault = f"{type(cause).__name__}: {_first_line(bottom)}"
        return (
            f"{what} cannot be reached ({fault}). Check the network, the proxy settings and the "
            "firewall, and run this again"
        )
    return None


def _is_connection_error(error: BaseException) -> bool:
    """Whether it is one of Python's or of requests, which gdown uses."""
    names = {"ConnectionError", "Timeout", "TimeoutError"}
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _drive_refusal(page: str) -> str:
    """Distinguish a used-up quota from a file that is gone, by the text of Google's page."""
    words = " ".join(page.split()).lower()
    if "too many users" in words or "quota" in words:
        return (
            "Too many people downloaded the checkpoint from Google Drive lately. Run this again "
            "in a day, or open it in a browser where you are signed in"
        )
    return (
        "Google Drive refuses to send the checkpoint: it was moved, deleted or made private, or "
        "was downloaded too often. Run this again later, or look for its new place in the "
        "authors' README (https://github.com/wangpuyi/MA-AGIQA)"
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")
