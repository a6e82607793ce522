"""Messages on standard error: diagnostics and the progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.text import Text

from ma_agiqa_client.errors import ClientError, InvalidImageError


def printable(text: str) -> str:
    """Replace what a terminal would interpret or cannot show, such as escape sequences in names."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


class RichConsole(rich.console.Console):
    """rich's console, but a reader that goes away is an error, as for every other output."""

    def on_broken_pipe(self) -> None:
        """Leave the error that is being handled to the program."""
        raise


class Console:
    """Standard error; messages do not disturb the progress bar."""

    def __init__(self) -> None:
        self._console = RichConsole(stderr=True)
        self._server_error = ""

    def print(self, message: str) -> None:
        """Print a message; characters that a terminal would interpret are replaced."""
        lines = (printable(line) for line in message.split("\n"))
        self._console.print(Text("\n".join(lines)), soft_wrap=True)

    def failure(self, image: str, error: ClientError) -> None:
        """Name an image that failed; a reason that lies with the server is printed only once."""
        if not isinstance(error, InvalidImageError):
            if str(error) == self._server_error:
                return
            self._server_error = str(error)
        self.print(f"  {printable(image)}: {error}")

    @contextmanager
    def progress(self, total: int, *, hidden: bool) -> Iterator[tuple[Progress, TaskID]]:
        """Show a progress bar in a terminal, unless it is `hidden`; yield the bar and its task."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = hidden or not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=hidden) as bar:
            yield bar, bar.add_task("Scoring", total=total)
