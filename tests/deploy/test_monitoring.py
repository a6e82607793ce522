"""Rules, dashboard and Prometheus' configuration, without a server."""

import json
import re
import subprocess
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from support.prometheus_programs import program

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yml").read_text())
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboard.json").read_text())
TESTS = ("rules_test.yml", "rules_drift_test.yml")
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {"$__rate_interval": "5m", "$namespace": ".*"}


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=MONITORING)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules(kind: str) -> list[dict]:
    return [rule for group in RULES["groups"] for rule in group["rules"] if kind in rule]


def expressions() -> list[str]:
    """Every query of the dashboard, with the variables' values in place."""
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [expr.replace(name, value) for expr in found]
    return found


def test_rules_and_configuration_are_valid():
    run(program("promtool"), "check", "rules", "rules.yml")
    run(program("promtool"), "check", "config", "prometheus.yml")


def test_the_scrape_job_of_kubernetes_gives_the_labels_that_are_asked_for(tmp_path):
    settings = yaml.safe_load((MONITORING / "prometheus-kubernetes.yml").read_text())
    job = settings["scrape_configs"][0]
    assert job["job_name"] == "ma-agiqa"
    targets = [rule.get("target_label") for rule in job["relabel_configs"]]
    assert {"namespace", "pod"} <= set(targets)
    found = job.pop("kubernetes_sd_configs")  # which Debian's Prometheus is built without
    assert found == [{"role": "pod", "namespaces": {"names": ["ma-agiqa"]}}]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(settings))
    run(program("promtool"), "check", "config", file)


@pytest.mark.parametrize("file", TESTS)
def test_rules_do_what_their_tests_say(file):
    run(program("promtool"), "test", "rules", file)


def test_every_alert_is_seen_to_fire():
    tests = [test for f in TESTS for test in yaml.safe_load((MONITORING / f).read_text())["tests"]]
    fired = {
        re.search(r'alertname="(\w+)"', sample["labels"])[1]
        for test in tests
        for query in test.get("promql_expr_test", [])
        for sample in query["exp_samples"]
        if sample["labels"].startswith("ALERTS")
    }
    fired |= {
        alert["alertname"]
        for test in tests
        for alert in test.get("alert_rule_test", [])
        if alert["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in rules("alert")}


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    headings = set(re.findall(r"^## (\w+)$", runbook, re.MULTILINE))
    for rule in rules("alert"):
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
        assert set(rule["annotations"]) == {"summary", "action", "runbook_url"}, rule["alert"]
        file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert (file[-16:], anchor) == ("/docs/runbook.md", rule["alert"].lower())
    assert headings == {rule["alert"] for rule in rules("alert")}


def test_no_record_and_no_alert_adds_namespaces_together():
    for rule in (*rules("record"), *rules("alert")):
        for grouping in re.findall(
            r"\b(?:sum|max|count|group|avg)\b(?: by \(([^)]*)\))?", rule["expr"]
        ):
            assert "namespace" in grouping, rule["expr"]


def test_queries_of_the_dashboard_are_valid(tmp_path):
    records = [{"record": f"panel:{i}", "expr": e} for i, e in enumerate(expressions())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": records}]}))
    assert f"{len(records)} rules found" in run(program("promtool"), "check", "rules", file)


def test_records_that_are_shown_exist():
    recorded = {rule["record"] for rule in rules("record")}
    for expression in [*expressions(), *(rule["expr"] for rule in rules("alert"))]:
        assert set(re.findall(r"ma_agiqa:[\w:]+", expression)) <= recorded, expression


def test_structure_of_the_dashboard():
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 39
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used - {"__rate_interval"} == variables
    for panel in PANELS:
        assert panel["title"]
        assert panel["type"] in ("timeseries", "stat", "heatmap")
        assert [target["refId"] for target in panel["targets"]] == sorted(
            {target["refId"] for target in panel["targets"]}
        )


def test_panels_fit_side_by_side():
    def cells(place: dict) -> set[tuple[int, int]]:
        columns = range(place["x"], place["x"] + place["w"])
        return {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}

    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not cells(one["gridPos"]) & cells(other["gridPos"]), (one["title"], other["title"])
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in DASHBOARD["panels"])


def test_provisioning_finds_the_dashboard():
    folder = MONITORING / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text())
    provider = yaml.safe_load((folder / "dashboards" / "dashboards.yml").read_text())
    compose = yaml.safe_load((ROOT / "deploy" / "docker" / "compose.yml").read_text())
    mounts = compose["services"]["grafana"]["volumes"]
    path = provider["providers"][0]["options"]["path"]
    assert f"../monitoring/grafana/dashboard.json:{path}/ma-agiqa.json:ro" in mounts
    assert "../monitoring/grafana/provisioning:/etc/grafana/provisioning:ro" in mounts
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
