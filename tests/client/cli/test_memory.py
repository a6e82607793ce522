"""How much memory a run over many images takes."""

import subprocess
import sys
from pathlib import Path

import pytest

PEAK = """
import sys
from ma_agiqa_client.cli import main
try:
    main()
finally:
    text = open("/proc/self/status").read()
    print(text.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status")
def test_ten_times_the_images_take_no_more_memory(scripted, tmp_path):
    """Where rows are kept, as for --format json, the peak grows by 3 KiB for each."""
    for number in range(10_000):
        folder = tmp_path / ("few" if number < 1_000 else "rest")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").write_bytes(b"1")

    def peak_mib(folder: Path, count: int) -> float:
        options = ("--url", scripted.url, "--format", "jsonl", "--concurrency", "8")
        command = [sys.executable, "-c", PEAK, str(folder), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.count("\n") == count
        scripted.requests.clear()
        return int(done.stderr) / 1024

    few, all_of_them = peak_mib(tmp_path / "few", 1_000), peak_mib(tmp_path, 10_000)
    assert all_of_them < few + 4
