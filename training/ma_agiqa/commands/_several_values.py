"""Options that take several values: `--batch 1 4 8`."""

import click

from ma_agiqa.commands._shared import Command

__all__ = ["Several", "SeveralCommand"]


class Several(click.Option):
    """An option of a `SeveralCommand` that takes all values up to the next option."""

    def __init__(self, *args: object, **settings: object) -> None:
        super().__init__(*args, multiple=True, **settings)  # type: ignore[arg-type]


class SeveralCommand(Command):
    """A command that reads `--batch 1 8` as `--batch 1 --batch 8`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the option before each value that follows it."""
        several = [option for option in self.params if isinstance(option, Several)]
        names = {name for option in several for name in option.opts}
        spread: list[str] = []
        name = ""
        for argument in args:
            if argument.startswith("-"):
                name = argument if argument in names else ""
                spread += [] if name else [argument]
            else:
                spread += [name, argument] if name else [argument]
        return super().parse_args(ctx, spread)
