"""The prompts of images, from a table or from the names of the files."""

import csv
import os
import re
from collections.abc import Callable

import click

from ma_agiqa_client._programs.console import printable

PromptOf = Callable[[str], str | None]
"""Returns the prompt of the image at a path, or None if there is none."""

_NAMES = ("name", "image", "file", "file_name", "filename", "path")
_TEXTS = ("prompt", "text", "caption")


def prompts_option_value(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> PromptOf | None:
    """Read the value of --prompts, for click: a CSV file, or a regular expression."""
    if value is None:
        return None
    try:
        return read_table(value) if os.path.isfile(value) else read_names(value)
    except (ValueError, OSError, csv.Error) as error:
        raise click.BadParameter(printable(str(error))) from error


def read_names(text: str) -> PromptOf:
    """Read a regular expression to search in paths: its groups are the prompt, `_` is a space.

    Raises:
        ValueError: it is no regular expression, or has no group.
    """
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise ValueError(
            f"{text!r} is neither a file nor a regular expression ({error})."
        ) from error
    if not pattern.groups:
        raise ValueError(
            f"There is no file {text!r}. Give a CSV file with the columns name and prompt, or a "
            "regular expression with the prompt in a group, such as '([^/]+)_[0-9]+\\.png$'."
        )

    def prompt(image: str) -> str | None:
        match = pattern.search(image)
        found = " ".join(part for part in match.groups() if part) if match else ""
        return found.replace("_", " ").strip() or None

    return prompt


def read_table(path: str) -> PromptOf:
    """Read a CSV file with a column of file names and one of prompts.

    A name with a folder is a path from the current folder or from that of the table; one without is
    that of every image called so. An empty prompt counts as none.

    Raises:
        ValueError: a column is missing, or a name has two prompts.
        OSError: it cannot be read.
        csv.Error: it is no CSV.
    """
    prompts: dict[str, str] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            header = [name.strip().lower() for name in rows.fieldnames or ()]
            place, text = (
                next((n for n in known if n in header), None) for known in (_NAMES, _TEXTS)
            )
            if place is None or text is None:
                raise ValueError(
                    f"{path} has the columns {', '.join(header) or '(none)'}; expected name and "
                    "prompt in its first line."
                )
            rows.fieldnames = header
            for row in rows:
                name, prompt = (row[place] or "").strip(), (row[text] or "").strip()
                if name and prompt and prompts.setdefault(_key(path, name), prompt) != prompt:
                    raise ValueError(
                        f"{path}, line {rows.line_num}: {name} has two different prompts."
                    )
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error

    def find(image: str) -> str | None:
        found = prompts.get(os.path.abspath(image))
        return prompts.get(os.path.basename(image)) if found is None else found

    return find


def _key(table: str, name: str) -> str:
    """Return a name without a folder as it is, another one as the path of the file."""
    if os.path.basename(name) == name:
        return name
    beside = os.path.join(os.path.dirname(table), name)
    return os.path.abspath(beside if os.path.exists(beside) else name)
