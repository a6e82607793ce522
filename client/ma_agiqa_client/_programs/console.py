"""What the command line says to the person at the terminal: diagnostics and the progress bar."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn
from rich.text import Text

from ma_agiqa_client.errors import ClientError, InvalidImageError

__all__ = ["Voice", "printable"]


def printable(text: str) -> str:
    """Replace what a terminal would obey or could not show, such as escape sequences in names."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


class Voice:
    """Speaks on standard error; a progress bar does not get in the way of what is said."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._server_error = ""

    def say(self, message: str) -> None:
        """Print a message; signs that a terminal would obey are replaced."""
        lines = (printable(line) for line in message.split("\n"))
        self._console.print(Text("\n".join(lines)), soft_wrap=True)

    def failure(self, image: str, error: ClientError) -> None:
        """Name an image that failed; a reason that lies with the server is said once."""
        if isinstance(error, InvalidImageError):
            self.say(f"  {image}: {error}")
        elif str(error) != self._server_error:
            self._server_error = str(error)
            self.say(f"  {image}: {error}")

    @contextmanager
    def progress(self, total: int, *, hidden: bool) -> Iterator[tuple[Progress, TaskID]]:
        """A bar, where a person sees it and unless it is `hidden`; and its task."""
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        hidden = hidden or not self._console.is_terminal
        with Progress(*columns, console=self._console, transient=True, disable=hidden) as bar:
            yield bar, bar.add_task("Scoring", total=total)
