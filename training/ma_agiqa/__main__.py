"""Run a command of this package: `python -m ma_agiqa COMMAND`; without one, list them."""

import importlib

import click

from ma_agiqa.commands._shared import HELP_WIDTH

COMMANDS = {
    "datasets": "Check a table of rated images before training.",
    "features": "Compute the features of a data set, once.",
    "train": "Train the scorer and write its checkpoint.",
    "calibrate": "Learn a checkpoint's intervals and familiarity.",
    "evaluate": "Measure a checkpoint or a served model.",
    "ordering": "Measure how well a checkpoint tells damage, without ratings.",
    "ablate": "Train and compare the paper's ablations.",
    "baselines": "Compare with other quality metrics.",
    "figures": "Draw the paper's figures from predictions.",
    "answers": "Draw what the LMM answers about images.",
    "benchmark": "Measure how fast everything is on this machine.",
    "degraded": "Write a data set of damaged photographs, as the demo model's.",
    "paper-weights": "Download the paper's weights.",
    "mplug-owl2": "Convert mPLUG-Owl2's weights for serving.",
}
"""The commands and what they do; each is `main` of the module of its name in `commands`."""


class _Commands(click.Group):
    """Imports the module of a command only when it is run, so that listing all is fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Give the names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"ma_agiqa.commands.{cmd_name.replace('-', '_')}")
        command: click.Command = module.main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings=HELP_WIDTH)
def main() -> None:
    """MA-AGIQA: networks, data, training and evaluation."""


if __name__ == "__main__":
    main(prog_name="python -m ma_agiqa")
