"""The texts that images were made from: one for each image, or one for all."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from ma_agiqa_client.errors import InvalidPromptError

Prompts: TypeAlias = str | Iterable[str | None] | None
"""One prompt for all images, or one for each; None where the prompt is not known."""


class PromptPerImage:
    """Gives each image its prompt, in the order of the images."""

    def __init__(self, prompts: Prompts) -> None:
        """Prepare; prompts are asked for one by one."""
        self._every: str | None = None
        self._each: Iterator[str | None] | None = None
        if prompts is None or isinstance(prompts, str):
            self._every = prompts
        else:
            self._each = iter(prompts)
        self._given = 0

    def next(self) -> str | None:
        """Return the prompt of the next image.

        Raises:
            ValueError: there are fewer prompts than images.
        """
        if self._each is None:
            return self._every
        for prompt in self._each:
            self._given += 1
            return prompt
        raise ValueError(
            f"There are {self._given} prompts for more images. Give one prompt for each image, "
            "and None for an image without one."
        )

    def end(self) -> None:
        """Check, after the last image, that no prompt is left.

        Raises:
            ValueError: there are more prompts than images.
        """
        for _ in self._each or ():
            raise ValueError(
                f"There are more prompts than images, of which there are {self._given}. Give one "
                "prompt for each image."
            )


def encode_prompt(prompt: str | None) -> bytes | None:
    """Return a prompt as it is sent, UTF-8; None if there is none.

    Raises:
        InvalidPromptError: it is empty, or no text.
    """
    if prompt is None:
        return None
    if not isinstance(prompt, str):
        raise InvalidPromptError(
            f"The prompt is of type {type(prompt).__name__}; expected text, or None."
        )
    if not prompt.strip():
        raise InvalidPromptError(
            "The prompt is empty. Give the text that the image was made from, or None."
        )
    try:
        return prompt.encode()
    except UnicodeEncodeError as error:
        raise InvalidPromptError(
            f"The prompt cannot be written in UTF-8 ({error.reason}). Give readable text."
        ) from error
