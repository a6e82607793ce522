"""The Node client of docs/protocol.md, and its plain calls, by a real Triton."""

import base64
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ma_agiqa_client import Scorer
from support.pictures import picture
from support.servers import kill, serving

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "client" / "examples" / "node"
PACKAGES = ROOT / ".tools" / "npm" / "node_modules"
needs_node = pytest.mark.skipif(
    not (shutil.which("node") and (PACKAGES / "@grpc" / "grpc-js").is_dir()),
    reason="Node or its packages are missing: make deploy-tools",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    """The example next to its packages; the repository's folder stays as it is."""
    folder = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("node") / "example")
    (folder / "node_modules").symlink_to(PACKAGES)
    return folder / "score.js"


@needs_node
def test_the_packages_are_those_of_the_example():
    asked = json.loads((EXAMPLE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    for name, version in asked.items():
        installed = json.loads((PACKAGES / name / "package.json").read_text(encoding="utf-8"))
        assert installed["version"] == version


def run(program: Path, url: str, *files: Path) -> list[dict]:
    command = ["node", str(program), url, *map(str, files)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not shown.stderr
    assert shown.returncode == ('"error"' in shown.stdout)
    return sorted(map(json.loads, shown.stdout.splitlines()), key=lambda row: row["file"])


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        Image.fromarray(picture(seed, 60, 80)).save(folder / f"{seed}.png")
    (folder / "bad.png").write_bytes(b"no picture")
    return sorted(folder.iterdir())


@needs_node
def test_node_gets_the_scores_of_the_sdk(stand_in, program, files):
    rows = run(program, stand_in.grpc_url, *files)
    assert [row["file"] for row in rows] == [str(file) for file in files]
    with Scorer(stand_in.grpc_url) as scorer:
        for row, outcome in zip(rows, scorer.score_many(files), strict=True):
            if outcome.error:
                assert row["code"] == "INVALID_ARGUMENT"
                assert str(outcome.error) in row["error"]
            else:
                assert row["mos"] == pytest.approx(outcome.mos, abs=1e-6)
                assert len(row["gate"]) == 3
    assert sum("error" in row for row in rows) == 1


@needs_node
def test_node_waits_for_a_server_that_starts_again(stand_in_repository, program, files):
    with serving(stand_in_repository) as server:
        url = server.grpc_url
        kill(server)
        command = ["node", str(program), url, str(files[0])]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as waiting,
            serving(stand_in_repository, at=server),
        ):
            shown, _ = waiting.communicate(timeout=120)
    assert waiting.returncode == 0
    assert "mos" in json.loads(shown)


def test_the_part_of_the_protocol_has_the_numbers_of_the_whole():
    """Those of the messages that Triton's own client is made of."""
    text = (EXAMPLE / "inference.proto").read_text(encoding="utf-8")
    known = {}
    for message in service_pb2.DESCRIPTOR.message_types_by_name.values():
        for part in (message, *message.nested_types):
            known[part.name] = {field.name: field.number for field in part.fields}
    owners: dict[int, str] = {}
    checked = 0
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if begun := re.match(r" *message (\w+)", line):
            owners = {depth: name for depth, name in owners.items() if depth < indent}
            owners[indent] = begun[1]
        elif field := re.search(r"(\w+) = (\d+);", line):
            owner = owners.get(indent - 2, owners[0])  # a field of a oneof is the message's
            assert known[owner][field[1]] == int(field[2]), line
            checked += 1
        elif line.strip() == "}":
            owners.pop(indent, None)
    assert checked == 22


def test_the_call_that_is_shown_scores_an_image(stand_in, files):
    """The JSON of the page, as grpcurl turns it into a message."""
    page = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    template = re.search(r"cat > request.json <<EOF\n(.*?)\nEOF", page, re.DOTALL)[1]
    data = base64.b64encode(files[0].read_bytes()).decode()
    text = template.replace("$(base64 -w0 cat.png)", data)
    request = json_format.Parse(text, service_pb2.ModelInferRequest())
    with grpc.insecure_channel(stand_in.grpc_url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = stub.ModelInfer(request, timeout=60)
    (score,) = struct.unpack("<f", answer.raw_output_contents[0])
    with Scorer(stand_in.grpc_url) as scorer:
        assert score == pytest.approx(scorer.score(files[0]).mos, abs=1e-6)
