"""The server that the command line and the page talk to: a running one, or one of their own."""

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

__all__ = ["connect", "keeps_version", "open_scorer"]

_FIRST_ANSWER_TIMEOUT_S = 30.0


@contextmanager
def connect(
    server: ServerOptions,
    *,
    timeout_s: float,
    say: Callable[[str], None],
    explain: bool = False,
    retry: Retry | None = None,
    pin: bool = False,
) -> Iterator[tuple[Scorer, ModelCard]]:
    """Connect to the server and ask what it serves.

    Args:
        server: its addresses, which are final; without any, the default address, or if nothing
            listens there, an embedded server for as long as the connection is used.
        timeout_s: seconds a call may take.
        say: told when a server is started, and what it serves.
        explain: whether a server that is started has to answer questions about images.
        retry: how long a server that is not available is waited for; `Retry()` by default.
        pin: whether to ask for the version that is active now by its number, if the servers keep
            it so, and not to follow when another one is activated.

    Raises:
        click.UsageError: addresses or certificates cannot be used.
        ClientError: no server can be reached or started, or it serves no MA-AGIQA.
    """
    with ExitStack() as stack:
        url: str | tuple[str, ...] = server.url or DEFAULT_URL
        embedded = not server.url and not listens(DEFAULT_URL)
        if embedded:
            script = find_serve_script()
            say(f"Nothing listens at {DEFAULT_URL}: starting the embedded server ...")
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
            say(f"The embedded server runs at {url} for this run and serves {card.name}.{note}")
        yield scorer, card


def open_scorer(
    server: ServerOptions,
    url: str | Sequence[str],
    *,
    version: int | None,
    timeout_s: float = _FIRST_ANSWER_TIMEOUT_S,
    retry: Retry | None = None,
) -> Scorer:
    """A scorer as the options ask for, of one version of the model or of the active one.

    Raises:
        click.UsageError: addresses or certificates cannot be used.
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
    """Whether the version on a card can be asked for by its number, and is the same model there.

    Servers that do not answer now do not count. Older servers know no versions by number.
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
