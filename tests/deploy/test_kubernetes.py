"""Every manifest against the schemas of Kubernetes, KEDA, Gateway API, Envoy Gateway and KServe.

`make deploy-tools` fetches what is not on PyPI as an ordinary package.
"""

import copy
import json
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest
import yaml

from support.kserve_types import KServeTypes

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
TOOLS = ROOT / ".tools"
OVERLAYS = ("cpu", "gpu", "mig")
KUBERNETES = "1.37"
CUSTOM = ("keda.sh", "gateway.networking.k8s.io", "gateway.envoyproxy.io", "serving.kserve.io")
VALUES = FOLDER / "components" / "hpa" / "adapter-values.yaml"
# What the demo's processes and the decoding of the largest image take: SECURITY.md.
SERVER_BYTES = 1.1e9
WEIGHTS_BYTES = 16.4e9
LARGEST_IMAGE_BYTES = 1.4e9
KSERVE = yaml.safe_load((FOLDER / "kserve" / "inferenceservice.yaml").read_text())


@lru_cache
def render(overlay: str) -> list[dict]:
    """What `kubectl apply -k` would send."""
    folder = FOLDER / ("kserve" if overlay == "kserve" else f"overlays/{overlay}")
    if kubectl := shutil.which("kubectl"):
        command = [kubectl, "kustomize"]
    elif kustomize := shutil.which("kustomize"):
        command = [kustomize, "build"]
    else:
        pytest.skip("neither kubectl nor kustomize is here")
    done = subprocess.run([*command, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def written() -> list[dict]:
    """Resources as they are in the files, which can be checked without kustomize."""
    files = sorted([*(FOLDER / "base").glob("*.yaml"), *(FOLDER / "components").glob("*/*.yaml")])
    texts = [file.read_text() for file in files if file != VALUES]
    resources = [found for text in texts for found in yaml.safe_load_all(text)]
    return [r for r in resources if "kustomize.config.k8s.io" not in r["apiVersion"]]


def group(resource: dict) -> str:
    return resource["apiVersion"].rpartition("/")[0]


def find(resources: list[dict], kind: str, name: str = "ma-agiqa") -> dict:
    found = [r for r in resources if r["kind"] == kind and r["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def check_core(resources: list[dict]) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for resource in resources:
        if group(resource) not in CUSTOM:
            validator.validate(resource, KUBERNETES, strict=True)


def check_custom(resources: list[dict]) -> list[str]:
    """What is wrong with the resources of KEDA, Gateway API and Envoy Gateway."""
    node = shutil.which("node")
    if node is None or not (TOOLS / "npm" / "node_modules").is_dir():
        pytest.skip("no node, or no schemas of KEDA and the gateway: make deploy-tools")
    done = subprocess.run(
        [node, Path(__file__).parent / "custom_resources.mjs", TOOLS / "npm"],
        input=json.dumps([r for r in resources if group(r) in CUSTOM]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [error for error in json.loads(done.stdout) if error]


def test_files_keep_kubernetes_schema():
    resources = written()
    assert len(resources) >= 10
    check_core(resources)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_rendered_manifests_keep_kubernetes_schema(overlay):
    check_core(render(overlay))


def test_keda_and_gateway_resources_keep_their_schemas():
    resources = written()
    kinds = {r["kind"] for r in resources if group(r) in CUSTOM}
    assert kinds == {"ScaledObject", "Gateway", "GRPCRoute", "BackendTrafficPolicy"}
    assert check_custom(resources) == []
    assert check_custom(render("gpu")) == []


def test_what_is_wrong_is_found():
    scaled = copy.deepcopy(find(written(), "ScaledObject"))
    scaled["spec"]["maxReplicaCount"] = "many"
    route = copy.deepcopy(find(written(), "GRPCRoute"))
    del route["spec"]["parentRefs"][0]["name"]
    policy = copy.deepcopy(find(written(), "BackendTrafficPolicy"))
    policy["spec"]["timeout"]["http"]["requestTimeout"] = "two minutes"
    errors = check_custom([scaled, route, policy])
    assert len(errors) == 3
    assert "maxReplicaCount" in errors[0]
    deployment = copy.deepcopy(find(written(), "Deployment"))
    deployment["spec"]["template"]["spec"]["containers"][0]["surprise"] = 1
    validator = pytest.importorskip("kubernetes_validate")
    with pytest.raises(validator.ValidationError, match="surprise"):
        check_core([deployment])


def kserve_types() -> KServeTypes:
    wheels = sorted((TOOLS / "kserve").glob("kserve-*.whl"))
    if not wheels:
        pytest.skip("no types of KServe: make deploy-tools")
    return KServeTypes(wheels[-1])


def kserve_pod() -> dict:
    """The pod in KServe's resource, as a pod of Kubernetes."""
    own = {"minReplicas", "maxReplicas", "autoScaling"}
    spec = {k: v for k, v in KSERVE["spec"]["predictor"].items() if k not in own}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}


def test_the_inference_service_keeps_kserves_types():
    assert list(kserve_types().errors(KSERVE, "V1beta1InferenceService")) == []
    check_core([kserve_pod()])


def test_a_wrong_inference_service_is_found():
    wrong = copy.deepcopy(KSERVE)
    wrong["spec"]["predictor"]["maxReplicas"] = "10"
    metric = wrong["spec"]["predictor"]["autoScaling"]["metrics"][0]["external"]["metric"]
    metric["surprise"] = 1
    errors = list(kserve_types().errors(wrong, "V1beta1InferenceService"))
    assert len(errors) == 2
    assert "maxReplicas: expected int" in " ".join(errors)
    assert "surprise: there is no such field" in " ".join(errors)


def containers(resources: list[dict]) -> list[dict]:
    pods = [r["spec"]["template"]["spec"] for r in resources if r["kind"] in ("Deployment", "Job")]
    return [c for pod in pods for c in (*pod.get("initContainers", ()), *pod["containers"])]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_may_do_more_than_it_must(overlay):
    resources = render(overlay)
    for container in containers(resources):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, container["name"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}
        assert container["image"].startswith("registry.example.org/ma-agiqa:")
    for workload in (r for r in resources if r["kind"] in ("Deployment", "Job")):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False


def server_pod(overlay: str) -> dict:
    """Specification of the servers' pods."""
    if overlay == "kserve":
        return find(render(overlay), "InferenceService")["spec"]["predictor"]
    return find(render(overlay), "Deployment")["spec"]["template"]["spec"]


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_a_pod_ends_after_its_requests(overlay):
    pod = server_pod(overlay)
    server = pod["containers"][0]
    drain_s = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    exit_s = 2 * int(image.split("DRAIN_S=")[1].split()[0])
    connection_s = int(image.split("--grpc-max-connection-age=")[1].split('"')[0]) / 1000
    assert drain_s > connection_s  # clients have looked up the addresses again
    assert pod["terminationGracePeriodSeconds"] > drain_s + exit_s
    liveness, startup = server["livenessProbe"], server["startupProbe"]
    assert liveness["exec"]["command"][1:3] == ["/opt/ma-agiqa/deploy/serve.py", "--check"]
    assert liveness["timeoutSeconds"] > float(liveness["exec"]["command"][-1])
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_shared_memory_is_memory(overlay):
    pod = server_pod(overlay)
    mounts = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
    assert set(mounts.values()) <= set(volumes)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_prometheus_finds_every_server(overlay):
    settings = yaml.safe_load((ROOT / "deploy/monitoring/prometheus-kubernetes.yml").read_text())
    kept = settings["scrape_configs"][0]["relabel_configs"][0]
    assert (kept["action"], kept["regex"]) == ("keep", "metrics")
    ports = {p["name"]: p["containerPort"] for p in server_pod(overlay)["containers"][0]["ports"]}
    assert ports["metrics"] == 8002


@pytest.mark.parametrize("overlay", [*OVERLAYS, "kserve"])
def test_a_pod_knows_its_own_cores_and_has_the_memory_to_use_them(overlay):
    server = server_pod(overlay)["containers"][0]
    cores = next(v for v in server["env"] if v["name"] == "MA_AGIQA_CORES")["valueFrom"]
    field = {"containerName": server["name"], "resource": "requests.cpu"}
    assert {k: v for k, v in cores["resourceFieldRef"].items() if k != "divisor"} == field
    volumes = [volume.get("emptyDir", {}) for volume in server_pod(overlay)["volumes"]]
    (shared,) = [volume["sizeLimit"] for volume in volumes if volume.get("medium") == "Memory"]
    decoding = int(server["resources"]["requests"]["cpu"]) * LARGEST_IMAGE_BYTES
    weights = 0 if overlay == "cpu" else WEIGHTS_BYTES
    needed = SERVER_BYTES + weights + decoding + gibibytes(shared)
    assert gibibytes(server["resources"]["limits"]["memory"]) >= needed


def gibibytes(text: str) -> int:
    return int(text.removesuffix("Gi")) * 2**30


@pytest.mark.parametrize("overlay", ["gpu", "mig", "kserve"])
def test_the_job_of_the_weights_can_be_applied_again(overlay):
    job = find(render(overlay), "Job", "ma-agiqa-fetch-weights")["spec"]
    assert job["ttlSecondsAfterFinished"] == 600


def test_every_image_of_kserve_has_the_name_of_its_kustomization():
    pod = server_pod("kserve")
    images = [container["image"] for container in (*pod["initContainers"], *pod["containers"])]
    images += [container["image"] for container in containers(render("kserve"))]
    assert images == ["registry.example.org/ma-agiqa:paper"] * 3


def test_flavors_ask_for_their_device():
    limits = {
        overlay: containers([find(render(overlay), "Deployment")])[-1]["resources"]["limits"]
        for overlay in OVERLAYS
    }
    devices = {o: [n for n in names if "nvidia" in n] for o, names in limits.items()}
    assert devices == {"cpu": [], "gpu": ["nvidia.com/gpu"], "mig": ["nvidia.com/mig-3g.40gb"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_selects_the_servers_and_nothing_else(overlay):
    resources = render(overlay)
    labels = find(resources, "Deployment")["spec"]["template"]["metadata"]["labels"]
    others = [r["spec"]["template"]["metadata"]["labels"] for r in resources if r["kind"] == "Job"]
    selectors = [
        find(resources, "Service")["spec"]["selector"],
        find(resources, "Service", "ma-agiqa-pods")["spec"]["selector"],
        find(resources, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        find(resources, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        find(resources, "Deployment")["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not any(selector.items() <= other.items() for other in others)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_autoscaler_decides(overlay):
    resources = render(overlay)
    scalers = [r for r in resources if r["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]
    assert len(scalers) == 1
    deployment = find(resources, "Deployment")
    assert "replicas" not in deployment["spec"]
    assert scalers[0]["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


def test_every_autoscaler_follows_the_same_two_numbers_alike():
    resources = written()
    hpa = find(resources, "HorizontalPodAutoscaler")["spec"]
    keda = find(resources, "ScaledObject")["spec"]
    triggers = [trigger["metadata"] for trigger in keda["triggers"]]
    where = 'namespace="ma-agiqa"'
    assert [trigger["query"] for trigger in triggers] == [
        f'sum(nv_inference_pending_request_count{{{where},model="mplug_owl2"}})',
        f'sum(rate(ma_agiqa_busy_seconds_total{{{where},step="mplug_owl2"}}[1m]))',
    ]
    assert [trigger["threshold"] for trigger in triggers] == ["8", "0.7"]
    targets = [metric["pods"]["target"]["averageValue"] for metric in hpa["metrics"]]
    assert targets == ["8", "700m"]
    served = yaml.safe_load(VALUES.read_text())["rules"]["custom"]
    names = [metric["pods"]["metric"]["name"] for metric in hpa["metrics"]]
    assert [rule["name"]["as"] for rule in served] == names
    assert [trigger["ignoreNullValues"] for trigger in triggers] == ["false", "false"]
    metrics = KSERVE["spec"]["predictor"]["autoScaling"]["metrics"]
    external = [metric["external"] for metric in metrics]
    assert [e["metric"]["query"] for e in external] == [t["query"] for t in triggers]
    assert [e["target"]["value"] for e in external] == [t["threshold"] for t in triggers]


def test_both_autoscalers_move_at_the_same_pace():
    hpa = find(written(), "HorizontalPodAutoscaler")["spec"]
    keda = find(written(), "ScaledObject")["spec"]
    advanced = keda["advanced"]["horizontalPodAutoscalerConfig"]
    assert advanced["behavior"] == hpa["behavior"]
    bounds = (keda["minReplicaCount"], keda["maxReplicaCount"])
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == bounds


def test_outside_callers_reach_inference_and_not_the_management():
    route = find(written(), "GRPCRoute")["spec"]
    stream = find(written(), "GRPCRoute", "ma-agiqa-stream")["spec"]
    rules = [*route["rules"], *stream["rules"]]
    methods = {match["method"]["method"] for rule in rules for match in rule["matches"]}
    assert {"ModelInfer", "ModelStreamInfer", "ModelConfig", "ServerReady"} <= methods
    assert not any(word in name for name in methods for word in ("Load", "Repository", "Memory"))
    backend = route["rules"][0]["backendRefs"][0]
    service = find(written(), "Service", backend["name"])
    assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]
    gateway = find(written(), "Gateway")["spec"]
    assert route["parentRefs"][0]["sectionName"] in [x["name"] for x in gateway["listeners"]]


def test_the_gateway_waits_for_scores_and_ends_no_stream():
    waits = {
        target["name"]: policy["spec"]["timeout"]["http"]["requestTimeout"]
        for policy in (r for r in render("gpu") if r["kind"] == "BackendTrafficPolicy")
        for target in policy["spec"]["targetRefs"]
    }
    streams = {
        route["metadata"]["name"]: any(
            match["method"]["method"] == "ModelStreamInfer"
            for rule in route["spec"]["rules"]
            for match in rule["matches"]
        )
        for route in render("gpu")
        if route["kind"] == "GRPCRoute"
    }
    assert waits == {name: "0s" if stream else "120s" for name, stream in streams.items()}
    unary = find(render("gpu"), "BackendTrafficPolicy")["spec"]
    assert unary["requestBuffer"] == {"limit": "80Mi"}
