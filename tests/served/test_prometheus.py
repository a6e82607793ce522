"""Prometheus itself scrapes the running server, evaluates the rules and answers the dashboard."""

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tritonclient.grpc
import yaml
from tritonclient.utils import InferenceServerException

from support.local_hub import free_port
from support.prometheus_programs import program
from support.triton_requests import infer

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
IMAGES = sorted((ROOT / "examples").glob("*.jpg"))[:3]
PATIENCE_S = 60
# Shown only where there is a GPU, once something has failed or a week has passed, and by a reward
# server.
NOT_HERE = re.compile(r"nv_gpu_|nv_inference_request_failure|last_week|reward_guard")
NEWER = "nv_inference_first_response_histogram"  # of tritonserver 2.65


class Prometheus:
    """Asks the running Prometheus."""

    def __init__(self, url: str):
        self._url = url

    def query(self, expression: str) -> list[dict]:
        """Result of a query now; empty while Prometheus starts."""
        path = f"{self._url}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(path, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return []
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        except OSError:
            return []

    def wait(self, expression: str, enough: Callable[[list[dict]], bool] = bool) -> list[dict]:
        end = time.monotonic() + PATIENCE_S
        while not enough(result := self.query(expression)):
            assert time.monotonic() < end, f"{expression}: {result}"
            time.sleep(0.3)
        return result


@pytest.fixture(scope="module")
def prometheus(server, tmp_path_factory) -> Iterator[Prometheus]:
    """The shipped configuration, at the address of the running server and in seconds."""
    folder = tmp_path_factory.mktemp("prometheus")
    settings = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["rule_files"] = [str(MONITORING / "rules.yml")]
    host = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    settings["scrape_configs"][0]["static_configs"] = [{"targets": [host]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def scored(server, prometheus) -> int:
    """Number of images scored while Prometheus watched."""
    prometheus.wait('up{job="ma-agiqa"} == 1')
    with tritonclient.grpc.InferenceServerClient(server.grpc_url) as client:
        for _ in range(2):  # a rate needs two readings that differ
            for file in [path.read_bytes() for path in IMAGES] + [b"no image"]:
                try:
                    infer(client, file)
                except InferenceServerException:
                    assert file == b"no image"
            time.sleep(2.5)
    return 2 * len(IMAGES)


def test_the_server_is_scraped(prometheus, scored):
    series = 'ma_agiqa_images_total{outcome="scored", step="meter"}'
    found = prometheus.wait(series, lambda r: r and float(r[0]["value"][1]) >= scored)
    assert found[0]["metric"]["job"] == "ma-agiqa"


def test_no_rule_fails_and_no_alert_fires(prometheus, scored):
    prometheus.wait("ma_agiqa:images:rate5m")
    assert prometheus.query("prometheus_rule_evaluation_failures_total > 0") == []
    assert prometheus.query('ALERTS{alertstate="firing"}') == []


def test_the_share_of_slow_requests_is_computed(prometheus, scored):
    found = prometheus.wait("ma_agiqa:slow_share:rate5m >= 0")  # NaN as long as nothing is scored
    assert float(found[0]["value"][1]) <= 1
    assert float(prometheus.wait("ma_agiqa_request_seconds_sum")[0]["value"][1]) > 0


def test_drift_is_computed_from_the_scores(prometheus, scored):
    found = prometheus.wait("ma_agiqa:drift_from_training:distance1d")
    assert 0 < float(found[0]["value"][1]) <= 1


def test_every_panel_of_the_dashboard_shows_something(prometheus, scored):
    dashboard = json.loads((MONITORING / "grafana" / "dashboard.json").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 25
    for query in queries:
        filled = query.replace("$__rate_interval", "5m").replace("$namespace", ".*")
        if NOT_HERE.search(filled):
            prometheus.query(filled)  # which fails if it is wrong
        else:
            prometheus.wait(filled)


def test_every_metric_that_rules_name_exists(prometheus, scored):
    text = (MONITORING / "rules.yml").read_text()
    names = set(re.findall(r"\b(?:nv|ma_agiqa)_\w+(?=[{\[)])", text))
    assert len(names) >= 10
    for name in names:
        if not NOT_HERE.search(name) and not name.startswith(NEWER):
            prometheus.wait(name)
