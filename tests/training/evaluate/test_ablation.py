"""The ablation command; the variants without MANIQA train in seconds."""

import shutil
from pathlib import Path
from unittest.mock import Mock

import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from ma_agiqa.checkpoints import load_scorer
from ma_agiqa.commands.ablate import main
from ma_agiqa.evaluate.ablation import FULL, VARIANTS
from ma_agiqa.evaluate.paper_results import ABLATION, DATASETS, FUSION
from ma_agiqa.networks.initialization import start_at_average
from ma_agiqa.networks.scorer import MAAGIQA
from ma_agiqa.train import training
from ma_agiqa.train.config import load_config

CHEAP = ("semantic", "semantic_coherence")
VARIANTS_HERE = (*CHEAP, "full")  # the last one is the small run itself


@pytest.fixture(scope="module")
def config(small_run) -> Path:
    return small_run.config_path


def run(config, output, *options):
    arguments = ["--config", str(config), "--output", str(output)]
    variants = [word for name in VARIANTS_HERE for word in ("--variant", name)]
    return CliRunner().invoke(main, [*arguments, *variants, *options])


@pytest.fixture(scope="module")
def ablated(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    done = run(config, folder)
    assert done.exit_code == 0, done.output
    return folder


def test_the_table_has_our_numbers_and_the_papers(ablated):
    table = pd.read_csv(ablated / "ablation.csv").set_index("variant")
    assert tuple(table.index) == VARIANTS_HERE
    for name in CHEAP:
        model, card = load_scorer(ablated / name)
        assert table.loc[name, "srcc"] == pytest.approx(card.metrics["srcc"])
        assert table.loc[name, "images"] == 16
        paper = ABLATION["AGIQA-3k"][tuple(sorted(model.config.inputs))]
        assert table.loc[name, "paper_srcc"] == paper.srcc
        assert f"({paper.plcc:.4f})" in (ablated / "ablation.md").read_text()


def test_what_is_there_is_not_trained_again(config, ablated):
    written = {name: (ablated / name / "model.safetensors").stat().st_mtime_ns for name in CHEAP}
    assert run(config, ablated).exit_code == 0
    for name, before in written.items():
        assert (ablated / name / "model.safetensors").stat().st_mtime_ns == before


def test_a_variant_that_was_killed_before_it_was_measured_is_finished(config, tmp_path):
    command = ["--config", str(config), "--output", str(tmp_path), "--variant", "semantic"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_measure", Mock(side_effect=KeyboardInterrupt))
        assert CliRunner().invoke(main, command).exit_code
    assert load_scorer(tmp_path / "semantic")[1].metrics == {}
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert load_scorer(tmp_path / "semantic")[1].metrics["count"] == 16


def test_a_checkpoint_of_other_settings_is_not_taken_for_a_variant(config, ablated):
    refused = run(config, ablated, "--set", "optimization.learning_rate=0.5")
    assert refused.exit_code == 1
    assert "(name" not in refused.output
    assert "other settings or data (optimization.learning_rate)" in refused.output


@pytest.mark.parametrize("change", ["scores", "split"])
def test_variants_of_other_data_are_not_put_into_one_table(config, ablated, tmp_path, change):
    """The table of the ratings changed in its place after a variant was trained."""
    csv = Path(yaml.safe_load(config.read_text())["data"]["csv"])
    table = pd.read_csv(csv)
    table.loc[0, "mos_quality"] += 0.5 if change == "scores" else 0
    changed = tmp_path / "data.csv"
    (table if change == "scores" else table[::-1]).to_csv(changed, index=False)
    (tmp_path / "images").symlink_to(csv.parent / "images")
    other = tmp_path / "ablation" / "semantic"
    shutil.copytree(ablated / "semantic", other)
    document = yaml.safe_load((other / "config.yaml").read_text())
    document["card"]["training"]["data"]["csv"] = str(changed)
    (other / "config.yaml").write_text(yaml.safe_dump(document))
    options = ["--config", str(config), "--set", f"data.csv={changed}"]
    arguments = [*options, "--output", str(tmp_path / "ablation"), "--variant", "semantic"]
    refused = CliRunner().invoke(main, arguments)
    assert refused.exit_code == 1
    assert f"{'data' if change == 'scores' else 'split'}_sha256" in refused.output


def test_every_variant_has_its_row_in_the_paper():
    assert len({(v.inputs, v.fusion) for v in VARIANTS}) == len(VARIANTS) == 8
    for dataset in DATASETS:
        found = [variant.paper(dataset) for variant in VARIANTS]
        assert {p.srcc for p in found[:7]} == {p.srcc for p in ABLATION[dataset].values()}
        assert found[-1] == FUSION[dataset]["concat"]
    assert FULL.paper("my images") is None


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant_scores_and_starts_near_the_average(variant, config, tmp_path):
    torch.manual_seed(0)
    settings = variant.configure(load_config(config), tmp_path)
    scorer = MAAGIQA(settings.scorer_config()).eval()
    start_at_average(scorer, 2.5)
    view = torch.randint(0, 256, (4, 224, 224, 3), dtype=torch.uint8)
    output = scorer(view, torch.randn(4, 128) / 20, torch.randn(4, 128) / 20)
    assert output.score.shape == (4, 1)
    assert (output.score - 2.5).abs().max() < 1.5
    weighed = output.gate.abs().sum(dim=0) > 0
    assert [n for n, w in zip(("semantic", "coherence", "quality"), weighed, strict=True) if w] == [
        name for name in ("semantic", "coherence", "quality") if name in variant.inputs
    ]
    assert bool(output.patch_weight.any()) == ("quality" in variant.inputs)
