"""The server that the command line and the page talk to: a running one, or one of their own."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import click

from ma_agiqa_client.card import ModelCard
from ma_agiqa_client.cli._embedded import DEFAULT_URL, embedded_server, find_serve_script, listens
from ma_agiqa_client.cli._options import ServerOptions
from ma_agiqa_client.scorer import Scorer

__all__ = ["connect"]

_FIRST_ANSWER_TIMEOUT_S = 30.0


@contextmanager
def connect(
    server: ServerOptions,
    *,
    timeout_s: float,
    say: Callable[[str], None],
    explain: bool = False,
) -> Iterator[tuple[Scorer, ModelCard]]:
    """Connect to the server and ask what it serves.

    Args:
        server: its addresses, which are final; without any, the default address, or if nothing
            listens there, an embedded server for as long as the connection is used.
        timeout_s: seconds a call may take.
        say: told when a server is started, and what it serves.
        explain: whether a server that is started has to answer questions about images.

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
        try:
            scorer = Scorer(
                url,
                timeout_s=timeout_s,
                tls=server.make_tls(),
                token=server.token,
                version=server.model_version,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        stack.enter_context(scorer)
        card = scorer.model(timeout_s=min(timeout_s, _FIRST_ANSWER_TIMEOUT_S))
        if embedded:
            note = f" {card.note}" if card.note else ""
            say(f"The embedded server runs at {url} for this run and serves {card.name}.{note}")
        yield scorer, card
