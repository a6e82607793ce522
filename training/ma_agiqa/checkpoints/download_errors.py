"""From what the download libraries raise to a sentence that says what to do."""

import errno
from collections.abc import Iterator

from huggingface_hub import errors as hub_errors

from ma_agiqa.errors import DownloadError

__all__ = ["explain_drive", "explain_hub", "explain_lack_of_space"]

_OFFLINE = "Check the network, the proxy settings and the firewall, and run this again"


def explain_hub(error: BaseException, repo: str, by_hand: str) -> DownloadError:
    """Say why a model could not be fetched from the hub.

    Args:
        error: what huggingface_hub raised.
        repo: the model's id.
        by_hand: the sentence that tells the manual way.
    """
    return DownloadError(f"{_local_reason(error) or _hub_reason(error, repo)}. {by_hand}")


def explain_drive(error: BaseException, by_hand: str) -> DownloadError:
    """Say why the checkpoint could not be fetched from Google Drive.

    Args:
        error: what gdown raised.
        by_hand: the sentence that tells the manual way.
    """
    return DownloadError(f"{_local_reason(error) or _drive_reason(error)}. {by_hand}")


def explain_lack_of_space(need: str, free: str, folder: str, by_hand: str) -> DownloadError:
    """Say that what is to be fetched does not fit on the disk."""
    return DownloadError(
        f"{need} are still to be fetched, but the disk of {folder} has only {free} free. Free "
        f"some space, or give a folder on a larger disk with --output. {by_hand}"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Give an error and those that led to it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _local_reason(error: BaseException) -> str | None:
    """Explain what failed on this machine, if it did."""
    for cause in _chain(error):
        number = cause.errno if isinstance(cause, OSError) else None
        # the hub's transfer library, written in Rust, gives the number in the text only
        if number in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in str(cause):
            return (
                "The disk is full. Free some space and run this again: what is complete stays, "
                "and only the rest is fetched"
            )
        if number in (errno.EACCES, errno.EROFS) and isinstance(cause, OSError):
            return f"{cause.filename} cannot be written. Give another folder with --output"
    return None


def _hub_reason(error: BaseException, repo: str) -> str:
    for cause in _chain(error):
        if isinstance(cause, hub_errors.OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE forbids to use the hub. Unset it and run this again"
        if isinstance(cause, hub_errors.HfHubHTTPError):
            return _hub_status(cause, repo)
        # the base of what the transport raises, and of the statuses above
        if isinstance(cause, (hub_errors.HTTPError, ConnectionError, TimeoutError)):
            return f"The hub cannot be reached ({_connection_fault(cause)}). {_OFFLINE}"
        if isinstance(cause, hub_errors.HFValidationError):
            return f"{repo!r} is neither a folder nor the id of a model on the hub"
    return f"{repo} could not be fetched from the hub ({_first_line(error)}). Run this again"


def _hub_status(error: hub_errors.HfHubHTTPError, repo: str) -> str:
    status = error.response.status_code
    if isinstance(error, hub_errors.GatedRepoError) or status == 403:
        return (
            f"The hub gives {repo} only to people it let in (HTTP {status}). Sign in and ask for "
            "access on the model's page, put a token of yours into HF_TOKEN, and run this again"
        )
    if status == 401:
        return (
            f"The hub does not give {repo} to strangers (HTTP 401): it is private, renamed or "
            "deleted, or the token is wrong. Put a valid token into HF_TOKEN and run this again"
        )
    if status == 404:
        return (
            f"The hub has no such model or file (HTTP 404): {repo} was moved, renamed or deleted. "
            "Find its new name on the hub, and give that with --owl"
        )
    return f"The hub answers with an error (HTTP {status}). Run this again later"


def _drive_reason(error: BaseException) -> str:
    import requests
    from gdown.exceptions import FileURLRetrievalError

    for cause in _chain(error):
        if isinstance(cause, requests.HTTPError) and cause.response is not None:
            return (
                f"Google Drive answers with an error (HTTP {cause.response.status_code}): the "
                "file was moved, or asked for too often. Run this again later"
            )
        if isinstance(cause, (requests.ConnectionError, requests.Timeout)):
            return f"Google Drive cannot be reached ({_connection_fault(cause)}). {_OFFLINE}"
        if isinstance(cause, FileURLRetrievalError):
            return _drive_refusal(str(cause))
    return f"Google Drive did not give the checkpoint ({_first_line(error)}). Run this again"


def _drive_refusal(page: str) -> str:
    """Tell a used-up quota from a file that is gone; `page` is what Google's page says."""
    words = " ".join(page.split()).lower()
    if "too many users" in words or "quota" in words:
        return (
            "Too many people fetched the checkpoint from Google Drive lately. Run this again in "
            "a day, or open it in a browser where you are signed in"
        )
    return (
        "Google Drive does not give the checkpoint out: it was moved, deleted or made private, "
        "or was asked for too often. Run this again later, or look for its new place in the "
        "authors' README (https://github.com/wangpuyi/MA-AGIQA)"
    )


def _connection_fault(error: BaseException) -> str:
    """Name a fault of the connection by its kind and by what the system said."""
    *_, bottom = _chain(error)
    return f"{type(error).__name__}: {_first_line(bottom)}"


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(". ")
