"""The variants of the paper's ablations (Tables 3, 4 and 5): training and comparing them."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ma_agiqa.checkpoints import ModelCard, load_scorer
from ma_agiqa.checkpoints.folder import is_checkpoint
from ma_agiqa.data import make_split, read_images
from ma_agiqa.errors import ConfigError
from ma_agiqa.evaluate.paper_results import ABLATION, DATASETS, FUSION, PaperMetrics
from ma_agiqa.evaluate.tables import METRIC_HEADINGS, markdown, number
from ma_agiqa.files import write_whole
from ma_agiqa.settings import differences, to_mapping
from ma_agiqa.tensors import GATE_ORDER
from ma_agiqa.torchrun import on_main
from ma_agiqa.train.config import TrainingConfig
from ma_agiqa.train.run_folder import RunFolder
from ma_agiqa.train.training import run_features, run_provenance, train

_METRICS = ("srcc", "plcc", "krcc", "rmse")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the paper's ablation tables.

    Attributes:
        name: name of the variant and of its folder.
        inputs: inputs of the scorer, in the gate's order.
        fusion: "moe" or "concat".
    """

    name: str
    inputs: tuple[str, ...]
    fusion: str = "moe"

    def configure(self, config: TrainingConfig, output: Path) -> TrainingConfig:
        """Make the config of this variant's run."""
        if self == FULL:
            return config
        scorer = {**config.scorer, "inputs": list(self.inputs), "fusion": self.fusion}
        name, folder = f"{config.name} ({self.name})", output / self.name
        return dataclasses.replace(config, name=name, output=str(folder), scorer=scorer)

    def paper(self, dataset: str) -> PaperMetrics | None:
        """Look up what the paper reports for this variant; None for other data sets."""
        if dataset not in DATASETS:
            return None
        if self.inputs == GATE_ORDER:
            return FUSION[dataset][self.fusion]
        return ABLATION[dataset][tuple(sorted(self.inputs))]


FULL = Variant("full", GATE_ORDER)

VARIANTS = (
    Variant("maniqa", ("quality",)),
    Variant("semantic", ("semantic",)),
    Variant("coherence", ("coherence",)),
    Variant("maniqa_semantic", ("semantic", "quality")),
    Variant("maniqa_coherence", ("coherence", "quality")),
    Variant("semantic_coherence", ("semantic", "coherence")),
    FULL,
    Variant("concatenation", GATE_ORDER, "concat"),
)
"""Rows of Tables 3 and 4, then of Table 5, in their order."""


def ablate(
    config: TrainingConfig,
    output: Path,
    variants: Sequence[Variant] = VARIANTS,
    progress: bool = False,
) -> dict[str, ModelCard]:
    """Train the variants that are missing.

    Args:
        config: settings of the full model.
        output: folder of the other variants' checkpoints.
        variants: variants to train.
        progress: show bars on stderr.

    Returns:
        Cards of the checkpoints by variant, in the order given.

    Raises:
        ConfigError: a checkpoint that was made with other settings is in the way.
    """
    configs = {variant.name: variant.configure(config, output) for variant in variants}
    cards = {name: _card(one.output) for name, one in configs.items() if _is_finished(one)}
    if cards:  # trained before, on what may have changed since
        images = on_main(lambda: read_images(config.data))
        features = run_features(config, images, progress)
        now = run_provenance(config, images, make_split(images, config.split), features)
        for name, card in cards.items():
            _require_same(configs[name], card, now)
    for name, one in configs.items():
        if name not in cards:
            cards[name] = _card(train(one, progress=progress))
    return {name: cards[name] for name in configs}


def _is_finished(config: TrainingConfig) -> bool:
    """Whether a run is over: the checkpoint is written before it is measured and calibrated."""
    return is_checkpoint(config.output) and RunFolder(config.output).newest_whole() is None


def _card(folder: str | Path) -> ModelCard:
    return load_scorer(folder)[1]


def _require_same(config: TrainingConfig, card: ModelCard, provenance: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that was made with other settings, images, split or embedder."""
    different = sorted(set(differences(card.training, to_mapping(config))) - {"output"})
    made = to_mapping(card)
    different += [n for n in sorted(provenance) if made[n] and made[n] != to_mapping(provenance)[n]]
    if different:
        raise ConfigError(
            f"{config.output} was trained with other settings or data ({', '.join(different)}), so "
            "its numbers cannot stand in one table with the others. Move it away, or give what it "
            "was trained with."
        )


def _rows(
    cards: Mapping[str, ModelCard], variants: Sequence[Variant], dataset: str
) -> Iterator[dict[str, Any]]:
    for variant in variants:
        metrics, paper = cards[variant.name].metrics, variant.paper(dataset)
        yield {
            "variant": variant.name,
            **{name: name in variant.inputs for name in ("quality", "semantic", "coherence")},
            "fusion": variant.fusion if len(variant.inputs) > 1 else "",
            **{name: metrics.get(name) for name in _METRICS},
            "images": metrics.get("count"),
            **({f"paper_{name}": getattr(paper, name) for name in _METRICS} if paper else {}),
        }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    headings = {"quality": "MANIQA", "semantic": "semantic", "coherence": "coherence"}
    best = {}
    for name in _METRICS:
        known = [row[name] for row in rows if row[name] is not None]
        best[name] = (min if name == "rmse" else max)(known, default=None)

    def cell(row: Mapping[str, Any], name: str) -> str:
        text = number(row[name])
        if row[name] is not None and row[name] == best[name]:
            text = f"**{text}**"
        paper = row.get(f"paper_{name}")
        return text if paper is None else f"{text} ({number(paper)})"

    return markdown(
        [
            {
                "variant": row["variant"],
                **{heading: "✓" if row[name] else "" for name, heading in headings.items()},
                "fusion": row["fusion"],
                **{METRIC_HEADINGS[name]: cell(row, name) for name in _METRICS},
            }
            for row in rows
        ]
    )


def write_report(
    cards: Mapping[str, ModelCard],
    variants: Sequence[Variant],
    config: TrainingConfig,
    output: Path,
) -> str:
    """Compare the variants in `ablation.md` and `ablation.csv`.

    Args:
        cards: cards of the checkpoints by variant, as `ablate` gives them.
        variants: the variants, in the order of the rows.
        config: settings of the full model.
        output: folder of the two files.

    Returns:
        The text of `ablation.md`.

    Raises:
        DataError: a file cannot be written.
    """
    rows = list(_rows(cards, variants, config.data.name))
    paper = " (in brackets: the paper's, Tables 3-5)" if "paper_srcc" in rows[0] else ""
    text = (
        f"# Ablation on {config.data.name}\n\n"
        f"Test part: {rows[0]['images']} images, one training each, seed {config.seed}{paper}. "
        f"The best number of a column is bold.\n\n{_table(rows)}\n"
    )
    write_whole(output / "ablation.md", text)
    write_whole(output / "ablation.csv", pd.DataFrame(rows).to_csv(index=False))
    return text
