"""Measure everything that is served on a GPU, and print one table beside its targets.

    where there is a network:   make install && .venv/bin/python deploy/gpu_check/check.py wheels
                                (fills wheels/ with all packages but torch; the embedded Triton too)
    on the machine to measure:  python3 deploy/gpu_check/check.py --authors CHECKOUT
                                (torch, torchvision and the same version of Python; no network)

Each part runs in a process of its own, for ten minutes at most, and its rows are kept in the output
folder: parts can be run one at a time, and a part that fails loses no other. Without names, all
parts run. The weights are random, and of full size (16.4 GB); with --preset demo it is the shipped
model, which a CPU runs in minutes.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PARTS = ("weights", "embedder", "authors", "scorer", "served", "tests")

SPEEDUP, GEMM_PERCENT, SERVED_IMAGES_PER_S, P50_MS = 6.0, 60.0, 150.0, 25.0
"""Targets, for one H100 and the paper's model: over the authors' float16 code at batch 8; share of
the matrix rate at batches of 16 and more; served in all; latency of one request at a time."""

COLUMNS = ("what", "batch", "images/s", "of GEMM, %", "p50 ms", "p99 ms", "GPU GB", "note")

Row = dict[str, Any]


def main() -> int:
    given = _arguments()
    given.output.mkdir(parents=True, exist_ok=True)
    if "wheels" in given.parts:
        return _fetch_wheels(given.wheels)
    python = _install(given.wheels, given.output)
    kept_file = given.output / "rows.json"
    kept: dict[str, list[Row]] = json.loads(kept_file.read_text()) if kept_file.exists() else {}
    for part in given.parts or PARTS:
        for name, settings in _runs(part, given):
            kept[name] = _run(python, name, part, settings, given.limit_s, given.output)
            kept_file.write_text(json.dumps(kept, indent=1))
    table = _table(kept, given)
    (given.output / "table.md").write_text(table)
    sys.stdout.write(table)
    return int(any("failed" in row["note"] for rows in kept.values() for row in rows))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} or wheels")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--preset", choices=("paper", "demo"), default="paper")
    parser.add_argument("--dtypes", nargs="+", help="of the embedder; the first one is served")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 16, 32])
    parser.add_argument("--authors", type=Path, help="checkout of github.com/wangpuyi/MA-AGIQA")
    parser.add_argument("--authors-python", default=sys.executable, help="Python that runs it")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "gpu_check")
    parser.add_argument("--wheels", type=Path, default=ROOT / "wheels")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load on the server")
    parser.add_argument("--limit-s", type=float, default=600.0, help="of each process")
    given = parser.parse_args()
    unknown = set(given.parts) - {*PARTS, "wheels"}
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    usual = ["float16", "bfloat16", "int8", "fp8"] if given.device == "cuda" else ["float32"]
    given.dtypes = given.dtypes or usual
    given.output = given.output.resolve()
    return given


def _fetch_wheels(wheels: Path) -> int:
    """Download what `_install` needs, in the versions of the running Python's environment."""
    pins = subprocess.run(
        [sys.executable, HERE / "needed_packages.py"], check=True, capture_output=True, text=True
    ).stdout
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command = [*download, "--dest", str(wheels), *pins.split()]
    return subprocess.run(command, check=False).returncode


def _install(wheels: Path, output: Path) -> str:
    """Give a Python with our packages: that of a new environment, if there are wheels for it."""
    if not wheels.is_dir():
        return sys.executable
    python = str(output / "venv" / "bin" / "python")
    if not Path(python).exists():
        subprocess.run([sys.executable, "-m", "venv", output / "venv"], check=True)
        # What the machine has, behind what is installed here: torch, torchvision and CUDA.
        where = ["-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = subprocess.run([python, *where], check=True, capture_output=True, text=True)
        machine = Path(packages.stdout.strip()) / "machine.pth"
        machine.write_text(sysconfig.get_path("purelib"))
        pip = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, *map(str, wheels.glob("*.whl"))], check=True)
        ours = ["--no-build-isolation", "-e", f"{ROOT}/training", "-e", f"{ROOT}/client"]
        subprocess.run([*pip, *ours], check=True)
    return python


def _runs(part: str, given: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Name the processes of a part, with their settings."""
    common = {"device": given.device, "preset": given.preset, "output": str(given.output)}
    common |= {"batches": given.batches, "dtype": given.dtypes[0], "seconds": given.seconds}
    if part == "embedder":
        yield from ((f"embedder {dtype}", common | {"dtype": dtype}) for dtype in given.dtypes)
    elif part == "scorer":
        dtypes = ("exact", "float32", "bfloat16", "float16")
        yield from ((f"scorer {dtype}", common | {"dtype": dtype}) for dtype in dtypes)
    elif part == "authors":
        if given.authors:
            where = {"checkout": str(given.authors), "python": given.authors_python}
            yield part, common | where
    elif not (part == "weights" and given.preset == "demo"):
        yield part, common


def _run(python: str, name: str, part: str, settings: Row, limit_s: float, output: Path) -> list:
    """Run one process; its messages go to a log file next to the table."""
    sys.stderr.write(f"{name}\n")
    log = output / f"{name.replace(' ', '-')}.log"
    command = [python, str(HERE / "parts.py"), part, json.dumps(settings)]
    folders = (str(ROOT / folder) for folder in ("deploy", "export", "tests"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    failed = ""
    try:
        with log.open("w") as messages:
            done: Any = subprocess.run(
                command,
                stdout=subprocess.PIPE,
                stderr=messages,
                env=environment,
                timeout=limit_s,
                check=True,
            )
    except subprocess.TimeoutExpired as error:
        done, failed = error, f"failed: not done after {limit_s:g} s"
    except subprocess.CalledProcessError as error:
        last = (log.read_text().splitlines() or ["no message"])[-1]
        done, failed = error, f"failed, see {log.name}: {last[:100]}"
    rows = [json.loads(line) for line in (done.stdout or b"").splitlines()]
    rows += [{"note": failed}] if failed else []
    return [{"what": name, "note": ""} | row for row in rows]


def _table(kept: dict[str, list[Row]], given: argparse.Namespace) -> str:
    when = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
    cores = len(os.sched_getaffinity(0))
    rows = [row for part in kept.values() for row in part]
    lines = [
        f"GPU check of {when} UTC: preset {given.preset}, device {given.device}, {cores} cores",
        "",
        _line(COLUMNS),
        _line(["---"] * len(COLUMNS)),
        *(_line([_cell(row.get(column, "")) for column in COLUMNS]) for row in rows),
        "",
        _line(("target, for one H100 and the paper's model", "wanted", "measured", "met")),
        _line(["---"] * 4),
        *(_line(target) for target in _targets(kept, given)),
    ]
    return "\n".join(lines) + "\n"


def _targets(kept: dict[str, list[Row]], given: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    def best(name: str, column: str, least_batch: int, most_batch: int = 1000) -> float | None:
        rows = (row for row in kept.get(name, []) if least_batch <= row.get("batch", 0))
        found = [r[column] for r in rows if r["batch"] <= most_batch and column in r]
        return max(found, default=None)

    embedder = f"embedder {given.dtypes[0]}"
    ours, theirs = best(embedder, "images/s", 8, 8), best("authors", "images/s", 8, 8)
    measured: list[tuple[str, float, float | None]] = [
        ("times the authors' code, batch 8", SPEEDUP, ours and theirs and ours / theirs),
        ("% of GEMM, batch 16 and more", GEMM_PERCENT, best(embedder, "of GEMM, %", 16)),
        ("images/s served", SERVED_IMAGES_PER_S, best("served", "images/s", 1)),
        ("p50 of one request at a time, ms", P50_MS, best("served", "p50 ms", 1, 1)),
    ]
    for what, wanted, value in measured:
        at_most = what.startswith("p50")
        met = value is not None and (value <= wanted if at_most else value >= wanted)
        on_gpu = given.device == "cuda" and given.preset == "paper"
        said = "not measured" if value is None else ("yes" if met else "no") if on_gpu else "-"
        yield what, f"{'<=' if at_most else '>='} {wanted:g}", _cell(value or ""), said


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


if __name__ == "__main__":
    sys.exit(main())
