"""The recipe for Spark in docs/bulk.md, run as it stands there. Needs Java: `make test-spark`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ma_agiqa_client import Scorer

pytest.importorskip("pyspark", reason="needs pyspark: make test-spark")
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))[:4]
pytestmark = pytest.mark.slow
ADDRESSES = '["gpu-1:8001", "gpu-2:8001"]'


def run_recipe(tmp_path: Path, url: str) -> "subprocess.CompletedProcess[str]":
    """Run the recipe on four images and a file that is none."""
    (tmp_path / "images").mkdir()
    for file in EXAMPLES:
        shutil.copy(file, tmp_path / "images")
    (tmp_path / "images" / "bad.png").write_bytes(b"no image")
    text = (ROOT / "docs" / "bulk.md").read_text()
    (recipe,) = re.findall(r"```python\n(.*?mapInPandas.*?)```", text, re.DOTALL)
    assert recipe.count(ADDRESSES) == 1
    (tmp_path / "recipe.py").write_text(recipe.replace(ADDRESSES, repr(url)))
    options = "--master local[2] --driver-memory 512m --conf spark.ui.enabled=false pyspark-shell"
    own = {"PYSPARK_SUBMIT_ARGS": options, "SPARK_LOCAL_IP": "127.0.0.1"}
    own["PYSPARK_PYTHON"] = sys.executable
    command = [sys.executable, tmp_path / "recipe.py"]
    environment = os.environ | own
    return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)


def test_the_recipe_gives_a_row_per_image(stand_in, tmp_path):
    done = run_recipe(tmp_path, stand_in.grpc_url)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = pq.read_table(tmp_path / "scores").sort_by("path").to_pylist()
    with Scorer(stand_in.grpc_url) as scorer:
        expected = {file.name: scorer.score(file).mos for file in EXAMPLES}
    assert [Path(row["path"]).name for row in rows] == sorted([*expected, "bad.png"])
    found = {Path(row["path"]).name: row for row in rows}
    bad = found.pop("bad.png")
    assert bad["mos"] is None
    assert "not an image" in bad["error"]
    assert {name: row["mos"] for name, row in found.items()} == pytest.approx(expected)
    assert all(row["error"] is None for row in found.values())


def test_without_a_server_the_job_fails_and_writes_no_rows(tmp_path):
    done = run_recipe(tmp_path, "127.0.0.1:9")
    assert done.returncode != 0
    assert "ServerUnavailableError" in done.stderr
    assert not list(tmp_path.glob("scores/*.parquet"))
