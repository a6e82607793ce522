"""What the commands have in common: errors, log, width of the help, and options."""

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ma_agiqa.allocator import keep_freed_memory
from ma_agiqa.errors import ConfigError, MAAGIQAError

if TYPE_CHECKING:
    from ma_agiqa.train.config import TrainingConfig

_F = TypeVar("_F", bound=Callable[..., Any])

HELP_WIDTH = {"max_content_width": 100}
"""Context settings of every command: help uses up to 100 columns."""


class Command(click.Command):
    """A command whose foreseen errors end in their message on stderr and exit status 1.

    Log messages go to stderr, too; results belong on stdout.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings["context_settings"] = {**HELP_WIDTH, **(settings.get("context_settings") or {})}
        super().__init__(*args, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
        keep_freed_memory()
        try:
            return super().invoke(ctx)
        except MAAGIQAError as error:
            raise click.ClickException(str(error)) from error


def config_option(required: bool = True) -> Callable[[_F], _F]:
    """Add `--config FILE`."""
    return click.option(
        "--config",
        "config_path",
        required=required,
        type=click.Path(),
        metavar="FILE",
        help="YAML file with the settings of the run, such as training/configs/demo.yaml.",
    )


def overrides_option(function: _F) -> _F:
    """Add `--set name=value`, which may be given several times."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="NAME=VALUE",
        help="Change a setting of the config, such as --set optimization.epochs=3; repeatable.",
    )(function)


def read_config(path: str, overrides: tuple[str, ...]) -> "TrainingConfig":
    """Read the config that `--config` and `--set` give.

    Raises:
        ConfigError: an override without `=`, or a setting that cannot be used.
    """
    from ma_agiqa.train.config import load_config  # not needed to print help

    return load_config(path, read_overrides(overrides))


def read_overrides(overrides: tuple[str, ...]) -> dict[str, str]:
    """Split the values of `--set` into names and values.

    Raises:
        ConfigError: one without `=`.
    """
    pairs = [text.partition("=") for text in overrides]
    if wrong := [name for name, equals, _ in pairs if not equals or not name]:
        raise ConfigError(f"--set {wrong[0]}: write NAME=VALUE, such as optimization.epochs=3.")
    return {name: value for name, _, value in pairs}
