"""Answers of the language model about the images of a table, written below it."""

from typing import IO

from ma_agiqa_client._programs.console import Console, printable
from ma_agiqa_client.cli.rows import Row
from ma_agiqa_client.errors import InvalidImageError
from ma_agiqa_client.scorer import Scorer


class Explanations:
    """Asks about each image with a score, one after the other; writes answers as they arrive."""

    def __init__(
        self, scorer: Scorer, question: str | None, output: IO[str], console: Console
    ) -> None:
        """Prepare; nothing is asked before `finish`.

        Args:
            scorer: the connection.
            question: free text, or None for the paper's two questions.
            output: where the answers are written.
            console: shows images that can no longer be read.
        """
        self._scorer = scorer
        self._question = question
        self._output = output
        self._console = console
        self._images: list[str] = []

    def add(self, row: Row) -> None:
        """Take the image of a selected row."""
        if row.error is None:
            self._images.append(row.image)

    def finish(self) -> None:
        """Ask about all images.

        Raises:
            ClientError: the server cannot answer, or is no longer available.
        """
        for image in self._images:
            try:
                self._explain(image)
            except InvalidImageError as error:
                self._console.failure(image, error)

    def _explain(self, image: str) -> None:
        parts = self._scorer.explain(image, self._question)
        asked = None
        for part in parts:
            if asked is None:
                self._output.write(f"\n{printable(image)}\n")
            if part.question != asked:
                separator = "" if asked is None else "\n"
                self._output.write(f"{separator}  {printable(part.question)}: ")
            asked = part.question
            self._output.write("\n    ".join(map(printable, part.text.split("\n"))))
            self._output.flush()
        self._output.write("" if asked is None else "\n")
