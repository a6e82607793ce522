"""Run a command of this package: `python -m ma_agiqa COMMAND`; without one, list them."""

import importlib

import click

_COMMANDS = {
    "datasets": ("ma_agiqa.commands.datasets", "Check a table of rated images before training."),
    "features": (
        "ma_agiqa.commands.features",
        "Compute the features of a data set, once.",
    ),
    "train": ("ma_agiqa.train.training", "Train the scorer and write its checkpoint."),
    "evaluate": ("ma_agiqa.commands.evaluate", "Measure a checkpoint or a served model."),
    "ablate": ("ma_agiqa.evaluate.ablation", "Train and compare the paper's ablations."),
    "baselines": ("ma_agiqa.commands.baselines", "Compare with other quality metrics."),
    "figures": ("ma_agiqa.commands.figures", "Draw the paper's figures from predictions."),
    "benchmark": ("ma_agiqa.commands.benchmark", "Measure how fast everything is here."),
    "synthetic": ("ma_agiqa.commands.synthetic", "Write the data set of the demo model."),
    "paper-weights": ("ma_agiqa.commands.paper_weights", "Download the paper's weights."),
    "mplug-owl2": ("ma_agiqa.commands.mplug_owl2", "Convert mPLUG-Owl2's weights for serving."),
}


class _Commands(click.Group):
    """Imports a command's module when it is run: listing them all takes no torch."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        return importlib.import_module(_COMMANDS[name][0]).main

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_Commands)
def main() -> None:
    """MA-AGIQA: networks, data, training and evaluation."""


if __name__ == "__main__":
    main(prog_name="python -m ma_agiqa")
