"""The server that a program talks to: a running one, or an embedded one that it starts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import click

from ma_agiqa_client._programs.embedded import (
    DEFAULT_URL,
    embedded_server,
    find_serve_script,
    listens,
)
from ma_agiqa_client._programs.server_options import ServerOptions
from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.errors import (
    DeadlineExceededError,
    ServerUnavailableError,
    WrongModelError,
)
from ma_agiqa_client.retry import Retry
from ma_agiqa_client.scorer import Scorer

_FIRST_ANSWER_TIMEOUT_S = 30.0


@contextmanager
def connect(
    server: ServerOptions,
    *,
    timeout_s: float,
    notify: Callable[[str], None],
    explain: bool = False,
    retry: Retry | None = None,
    pin: bool = False,
) -> Iterator[tuple[Scorer, ModelCard]]:
    """Connect to the server and ask which model it serves.

    Args:
        server: its addresses. If there are none, the default address is used, or, if nothing
            listens there, an embedded server that runs as long as the connection is used.
        timeout_s: seconds that a call may take.
        notify: called with a message when a server is started, and with what it serves.
        explain: whether a server that is started has to answer questions about images.
        retry: how long to wait for a server that is not available; `Retry()` by default.
        pin: whether to ask for the active version by its number, if the servers keep it, so that
            the run does not follow when another version is activated.

    Raises:
        click.UsageError: the addresses or certificates cannot be used.
        ClientError: no server can be reached or started, or it does not serve MA-AGIQA.
    """
    with ExitStack() as stack:
        url: str | tuple[str, ...] = server.url or DEFAULT_URL
        embedded = not server.url and not listens(DEFAULT_URL)
        if embedded:
            script = find_serve_script()
            notify(f"Nothing listens at {DEFAULT_URL}: starting the embedded server ...")
            options = ("--explain",) if explain else ()
            url = stack.enter_context(embedded_server(script, *options))
        version = server.model_version

        def ask() -> tuple[Scorer, ModelCard]:
            scorer = open_scorer(server, url, version=version, timeout_s=timeout_s, retry=retry)
            stack.enter_context(scorer)
            return scorer, scorer.model(timeout_s=min(timeout_s, _FIRST_ANSWER_TIMEOUT_S))

        scorer, card = ask()
        if pin and version is None and keeps_version(server, url, card):
            version = card.version
            scorer, card = ask()
        if embedded:
            note = f" {card.note}" if card.note else ""
            notify(f"The embedded server runs at {url} for this run and serves {card.name}.{note}")
        yield scorer, card


def open_scorer(
    server: ServerOptions,
    url: str | Sequence[str],
    *,
    version: int | None,
    timeout_s: float = _FIRST_ANSWER_TIMEOUT_S,
    retry: Retry | None = None,
) -> Scorer:
    """Make the scorer that the options ask for, for one version of the model or the active one.

    Raises:
        click.UsageError: the addresses or certificates cannot be used.
    """
    try:
        return Scorer(
            url,
            timeout_s=timeout_s,
            retry=retry,
            tls=server.make_tls(),
            token=server.token,
            version=version,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def keeps_version(server: ServerOptions, url: str | Sequence[str], card: ModelCard) -> bool:
    """Return whether all servers serve the card's version by its number, as the same model.

    Servers that do not answer now are ignored. Older servers do not know versions by number.
    """
    for one in (url,) if isinstance(url, str) else url:
        if not card.version:
            return False
        with open_scorer(server, one, version=card.version) as scorer:
            try:
                if scorer.model().checkpoint_sha256 != card.checkpoint_sha256:
                    return False
            except WrongModelError:
                return False
            except (ServerUnavailableError, DeadlineExceededError):
                continue
    return True
