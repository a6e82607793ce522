"""The Helm chart, rendered by Helm itself in many combinations of values.

`make deploy-tools` fetches Helm and the schemas of what is not Kubernetes' own.
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from ma_agiqa_client.bulk import _command as bulk_command
from support.kserve_types import KServeTypes
from support.prometheus_programs import program

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm"
TOOLS = ROOT / ".tools"
KUBERNETES = "1.37"
CUSTOM = ("keda.sh", "gateway.networking.k8s.io", "gateway.envoyproxy.io", "monitoring.coreos.com")
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
REVISION = "weights.revision=" + "0a" * 20
JWT = "gateway.auth=jwt,gateway.jwt.issuer=https://id.example.org,gateway.jwt.jwks=https://id/keys"

# Presets and values, as they are given to Helm.
CASES = {
    "cpu": "",
    "hpa": "autoscaling.kind=hpa",
    "fixed": "autoscaling.kind=none autoscaling.min=3",
    "closed": "network.enabled=false server.zones=false",
    "another name": "nameOverride=scores image.digest=sha256:" + "1f" * 32,
    "watched": "monitoring.podMonitor=true monitoring.rules=true monitoring.dashboard=true "
    "monitoring.labels.release=prometheus monitoring.runbooks=https://wiki/ma-agiqa",
    "traced": "server.env.TRACE_URL=http://otel:4318/v1/traces "
    "network.egress[0].to[0].podSelector.matchLabels.app=otel network.egress[0].ports[0].port=4318",
    "gpu": "gpu",
    "mig": "gpu mig",
    "kserve": "gpu kserve",
    "kserve hpa": "gpu kserve autoscaling.kind=hpa",
    "no spare gpu": "gpu rollout.surge=0 rollout.unavailable=1 gpu.runtimeClass=nvidia",
    "jwt": f"gpu {JWT} gateway.jwt.audiences={{ma-agiqa}}",
    "by caller": "gpu gateway.rateLimit.kind=global gateway.rateLimit.requests=10",
    "own gateway": "gpu gateway.envoy=false gateway.auth=none gateway.rateLimit.kind=none",
    "own volume": "gpu weights.claim=models weights.dtype= weights.endpoint=https://hub "
    "weights.sha256=" + "ab" * 32,
    "bulk": "bulk.enabled=true bulk.input=s3://b/in?a=1&b=2 bulk.output=s3://b/out "
    "bulk.args={--retry-failed} bulk.env[0].name=A bulk.env[0].value=x",
    "bulk on gpus": "gpu gpu.runtimeClass=nvidia bulk.enabled=true bulk.input=s3://b/in "
    "bulk.output=s3://b/out bulk.checkpoint=/model bulk.gpus=2 bulk.memory=40Gi",
    "busy nodes": "gpu server.priorityClass=high server.nodeSelector.pool=gpus "
    "image.pullSecrets={r} server.tolerations[0].operator=Exists",
}


def arguments(case: str) -> list[str]:
    given = [REVISION, *CASES.get(case, case).split()]
    presets = [CHART / "presets" / f"{word}.yaml" for word in given if "=" not in word]
    values = [word for word in given if "=" in word]
    return [*(f"--values={file}" for file in presets), *(f"--set={value}" for value in values)]


def helm(*command: str | Path) -> subprocess.CompletedProcess:
    found = shutil.which("helm") or shutil.which("helm", path=TOOLS / "helm")
    if found is None:
        pytest.skip("no helm here: make deploy-tools")
    return subprocess.run([found, *command], capture_output=True, text=True)


@cache
def render(case: str, release: str = "ma-agiqa") -> list[dict]:
    """What Helm would install."""
    done = helm("template", release, CHART, "--namespace=ma-agiqa", *arguments(case))
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def group(resource: dict) -> str:
    return resource["apiVersion"].rpartition("/")[0]


def find(resources: list[dict], kind: str, name: str | None = "ma-agiqa") -> dict:
    found = [r for r in resources if r["kind"] == kind and name in (None, r["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def server_pod(resources: list[dict]) -> dict:
    """The servers' pod; that in KServe's resource is one of Kubernetes with a few more fields."""
    if any(resource["kind"] == "Deployment" for resource in resources):
        return find(resources, "Deployment", None)["spec"]["template"]["spec"]
    own = {"minReplicas", "maxReplicas", "deploymentStrategy", "labels"}
    predictor = find(resources, "InferenceService")["spec"]["predictor"]
    return {name: value for name, value in predictor.items() if name not in own}


def bulk_pods(resources: list[dict]) -> list[dict]:
    """Templates of the pods in KubeRay's resource, whose own schema is in no package."""
    clusters = [r["spec"]["rayClusterSpec"] for r in resources if r["kind"] == "RayJob"]
    groups = [g for c in clusters for g in (c["headGroupSpec"], *c["workerGroupSpecs"])]
    return [group["template"] for group in groups]


def pods(resources: list[dict]) -> list[dict]:
    jobs = [r["spec"]["template"]["spec"] for r in resources if r["kind"] == "Job"]
    return [server_pod(resources), *jobs]


def faults(resources: list[dict]) -> Iterator[str]:
    """What the schemas of every resource's owner find."""
    validator = pytest.importorskip("kubernetes_validate")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}
    inner = [server_pod(resources), *(template["spec"] for template in bulk_pods(resources))]
    for resource in [*resources, *({**pod, "spec": spec} for spec in inner)]:
        if group(resource) not in (*CUSTOM, "serving.kserve.io", "ray.io"):
            try:
                validator.validate(resource, KUBERNETES, strict=True)
            except validator.ValidationError as error:
                yield f"{resource['kind']}: {error.message}"
        if group(resource) == "serving.kserve.io":
            (wheel,) = (TOOLS / "kserve").glob("kserve-*.whl")
            yield from KServeTypes(wheel).errors(resource, "V1beta1InferenceService")
    custom = [resource for resource in resources if group(resource) in CUSTOM]
    node = [shutil.which("node"), Path(__file__).parent / "custom_resources.mjs", TOOLS / "npm"]
    done = subprocess.run(node, input=json.dumps(custom), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    yield from filter(None, json.loads(done.stdout))


@pytest.fixture(autouse=True)
def _tools() -> None:
    if not (TOOLS / "npm" / "node_modules").is_dir() or shutil.which("node") is None:
        pytest.skip("no node, or no schemas: make deploy-tools")


def test_helm_finds_no_fault_in_the_chart():
    done = helm("lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_keeps_every_schema(case):
    assert list(faults(render(case))) == []


def test_what_is_wrong_is_found():
    resources = json.loads(json.dumps([*render("kserve"), *render("watched"), *render("gpu")]))
    by_kind = {resource["kind"]: resource["spec"] for resource in resources if "spec" in resource}
    by_kind["InferenceService"]["predictor"]["maxReplicas"] = "10"
    by_kind["ScaledObject"]["maxReplicaCount"] = "many"
    by_kind["PodMonitor"]["podMetricsEndpoints"] = "metrics"
    by_kind["SecurityPolicy"]["apiKeyAuth"]["credentialRefs"] = []
    del by_kind["GRPCRoute"]["parentRefs"][0]["name"]
    by_kind["NetworkPolicy"]["surprise"] = 1
    found = "\n".join(faults([r for r in resources if r.get("spec") in list(by_kind.values())]))
    for word in ("maxReplicas", "maxReplicaCount", "podMetricsEndpoints", "name", "surprise"):
        assert word in found, found


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("server.memory=lots", "/server/memory"),
        ("server.coers=3", "coers"),
        ("server.drainSeconds=10", "/server/drainSeconds"),
        ("rollout.surge=0", "/rollout"),
        ("gpu weights.revision=", "weights.revision: give the commit"),
        ("gpu kserve gateway.enabled=true", "KServe has a gateway of its own"),
        ("gpu gateway.envoy=false", "set gateway.auth to none"),
        ("gpu gateway.auth=jwt", "gateway.jwt.issuer"),
        ("gateway.auth=password", "/gateway/auth"),
        ("bulk.enabled=true", "bulk.input: give the table"),
        ("autoscaling.min=11", "autoscaling.max is below autoscaling.min"),
        ("gpu gateway.auth=none gateway.rateLimit.kind=global", "global limits each caller"),
        ("bulk.enabled=true bulk.gpus=1", "give bulk.checkpoint, too"),
    ],
)
def test_values_that_cannot_work_are_refused(case, said):
    done = helm("template", "ma-agiqa", CHART, *arguments(case))
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("case", CASES)
def test_pods_may_do_little_and_use_what_they_ask_for(case):
    resources = render(case)
    for pod in pods(resources):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"] == container["resources"]["limits"]
            assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
            gpu = any(name.startswith("nvidia.com/") for name in container["resources"]["limits"])
            void = {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in container["env"]
            assert gpu != void  # the base image asks for every GPU of the node


def gibibytes(text: str) -> int:
    return int(text.removesuffix("Gi")) * 2**30


@pytest.mark.parametrize("case", CASES)
def test_a_server_has_the_memory_that_its_cores_need_and_ends_after_its_requests(case):
    pod = server_pod(render(case))
    server = pod["containers"][0]
    cores = next(v for v in server["env"] if v["name"] == "MA_AGIQA_CORES")["valueFrom"]
    assert cores["resourceFieldRef"]["containerName"] == server["name"]
    assert cores["resourceFieldRef"]["resource"] == "requests.cpu"
    limits = server["resources"]["limits"]
    memory = next(v["emptyDir"] for v in pod["volumes"] if v["name"] == "dshm")
    assert memory["medium"] == "Memory"
    # Processes, weights, decoding of the largest images, shared memory: SECURITY.md.
    weights = 16.4e9 if "initContainers" in pod else 0
    needed = 1.1e9 + weights + int(limits["cpu"]) * 1.4e9 + gibibytes(memory["sizeLimit"])
    assert gibibytes(limits["memory"]) >= needed

    image = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    connection_s = int(image.split("--grpc-max-connection-age=")[1].split('"')[0]) / 1000
    pre_stop_s = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pre_stop_s > connection_s  # clients have looked up the addresses again
    drain_s = int(next(v["value"] for v in server["env"] if v["name"] == "DRAIN_S"))
    assert pod["terminationGracePeriodSeconds"] > pre_stop_s + 2 * drain_s
    liveness, startup = server["livenessProbe"], server["startupProbe"]
    assert (
        liveness["terminationGracePeriodSeconds"] == startup["terminationGracePeriodSeconds"] == 10
    )
    assert liveness["exec"]["command"][1:3] == ["/opt/ma-agiqa/deploy/serve.py", "--check"]
    assert liveness["timeoutSeconds"] > float(liveness["exec"]["command"][-1])
    start_s = startup["periodSeconds"] * startup["failureThreshold"]
    assert start_s == 60 * VALUES["server"]["startMinutes"]
    assert {"name": "READY_TIMEOUT_S", "value": str(start_s)} in server["env"]
    for resource in render(case):
        if resource["kind"] == "Deployment":  # a healthy rollout is not called failed
            assert resource["spec"]["progressDeadlineSeconds"] > start_s


@pytest.mark.parametrize("case", CASES)
def test_everything_selects_the_servers_and_nothing_else(case):
    resources = render(case)
    workload = next(r for r in resources if r["kind"] in ("Deployment", "InferenceService"))
    spec = workload["spec"]
    labels = (
        spec["predictor"]["labels"]
        if "predictor" in spec
        else spec["template"]["metadata"]["labels"]
    )
    others = [r["spec"]["template"]["metadata"]["labels"] for r in resources if r["kind"] == "Job"]
    selectors = [
        s["labelSelector"]["matchLabels"]
        for s in server_pod(resources)["topologySpreadConstraints"]
    ]
    for resource in resources:
        if resource["kind"] == "Service":
            selectors.append(resource["spec"]["selector"])
        elif "selector" in resource.get("spec", {}):
            selectors.append(resource["spec"]["selector"]["matchLabels"])
        elif (
            "podSelector" in resource.get("spec", {}) and resource["metadata"]["name"] == "ma-agiqa"
        ):
            selectors.append(resource["spec"]["podSelector"]["matchLabels"])
    assert len(selectors) >= 4
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not any(selector.items() <= other.items() for other in others)
    target = next((r["spec"] for r in resources if "scaleTargetRef" in r.get("spec", {})), None)
    if target is None:
        assert spec["replicas"] == 3
    else:  # the autoscaler's number, which an upgrade must not reset
        suffix = "-predictor" if "predictor" in spec else ""
        assert target["scaleTargetRef"]["name"] == workload["metadata"]["name"] + suffix
        assert "replicas" not in spec


def test_two_releases_do_not_select_each_others_pods():
    one, other = (find(render("cpu", name), "Deployment", None) for name in ("ma-agiqa", "second"))
    assert one["spec"]["selector"] != other["spec"]["selector"]
    assert other["metadata"]["name"] == "second-ma-agiqa"


def test_the_gateway_and_the_monitoring_get_in_without_labels_of_our_own():
    scores, metrics = find(render("gpu"), "NetworkPolicy")["spec"]["ingress"]
    namespaces = [
        [
            peer["namespaceSelector"]["matchLabels"]
            for peer in rule["from"]
            if peer.get("namespaceSelector")
        ]
        for rule in (scores, metrics)
    ]
    name = "kubernetes.io/metadata.name"  # which Kubernetes sets on every namespace
    assert namespaces == [[{name: "envoy-gateway-system"}], [{name: "monitoring"}]]
    ports = [[port["port"] for port in rule["ports"]] for rule in (scores, metrics)]
    assert ports == [[8001], [8002]]


def test_only_fit_gpus_are_taken():
    terms = {}
    for case in ("gpu", "mig"):
        affinity = server_pod(render(case))["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        terms[case] = {
            e["key"].removeprefix("nvidia.com/"): e["values"] for e in term["matchExpressions"]
        }
        assert all(expression["operator"] == "Gt" for expression in term["matchExpressions"])
    driver = {"cuda.driver-version.major": ["579"], "gpu.compute.major": ["7"]}
    assert terms == {"gpu": driver | {"gpu.memory": ["38911"]}, "mig": driver}
    assert "580" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    limits = [server_pod(render(c))["containers"][0]["resources"]["limits"] for c in ("gpu", "mig")]
    assert [[n for n in names if "nvidia" in n] for names in limits] == [
        ["nvidia.com/gpu"],
        ["nvidia.com/mig-3g.40gb"],
    ]


def test_outside_callers_reach_inference_alone_and_have_to_say_who_they_are():
    for case in ("gpu", "jwt", "by caller"):
        resources = render(case)
        routes = [r for r in resources if r["kind"] == "GRPCRoute"]
        methods = {
            match["method"]["method"]
            for route in routes
            for rule in route["spec"]["rules"]
            for match in rule["matches"]
        }
        assert {"ModelInfer", "ModelStreamInfer", "ModelConfig", "ServerReady"} <= methods
        assert not any(
            word in name for name in methods for word in ("Load", "Repository", "Memory")
        )
        policy = find(resources, "SecurityPolicy")["spec"]
        names = sorted(route["metadata"]["name"] for route in routes)
        assert sorted(target["name"] for target in policy["targetRefs"]) == names
        assert ("jwt" in policy, "apiKeyAuth" in policy) == (case == "jwt", case != "jwt")
        limits = {
            r["metadata"]["name"]: r["spec"]
            for r in resources
            if r["kind"] == "BackendTrafficPolicy"
        }
        assert sorted(limits) == names
        for name, spec in limits.items():
            stream = name.endswith("-stream")
            assert spec["timeout"]["http"]["requestTimeout"] == ("0s" if stream else "120s")
            assert ("requestBuffer" in spec) != stream
            # Three seconds of queue on ten replicas at 200 images a second, and room.
            assert spec["circuitBreaker"]["maxParallelRequests"] >= 2 * 3 * 10 * 200
            assert spec["rateLimit"]["type"] == ("Global" if case == "by caller" else "Local")


def test_a_bulk_job_may_call_the_servers_and_another_one_has_another_name():
    resources = render("bulk")
    job = find(resources, "RayJob", None)
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:4] == ["python", "-m", "ma_agiqa_client.bulk", "s3://b/in?a=1&b=2"]
    assert words[-1] == "--retry-failed"
    parsed = bulk_command.main.make_context("bulk", words[3:], resilient_parsing=False)
    assert parsed.params["ray_address"] == "auto"
    (url,) = parsed.params["url"]
    assert find(resources, "Service", url.removeprefix("dns:///").split(".")[0])
    servers = find(resources, "Deployment")["spec"]["selector"]["matchLabels"]
    for template in bulk_pods(resources):
        labels = template["metadata"]["labels"]
        assert labels["ma-agiqa/client"] == "true"
        assert not servers.items() <= labels.items()
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        policy = find(resources, "NetworkPolicy", "ma-agiqa-bulk")["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels.items()
        pods, operator = policy["ingress"][0]["from"]
        assert pods == {"podSelector": policy["podSelector"]}
        assert "kuberay-operator" in str(operator)
    other = find(render(f"{CASES['bulk']} bulk.workers=3"), "RayJob", None)
    assert other["metadata"]["name"] != job["metadata"]["name"]


def test_a_bulk_job_without_servers_loads_the_models_on_gpus():
    resources = render("bulk on gpus")
    job = find(resources, "RayJob", None)["spec"]
    words = shlex.split(job["entrypoint"])
    given = bulk_command.main.make_context("bulk", words[3:], resilient_parsing=False).params
    assert (given["local"], given["gpus"], given["dtype"]) == ("/model", 1, "float16")
    assert not given["url"]
    server = server_pod(resources)
    head, workers = bulk_pods(resources)
    asked = [pod["spec"]["containers"][0]["resources"]["limits"] for pod in (head, workers)]
    assert [limits.get("nvidia.com/gpu") for limits in asked] == [None, "2"]
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    assert group["rayStartParams"] == {"num-gpus": "2"}
    for name in ("affinity", "runtimeClassName", "tolerations", "initContainers"):
        assert workers["spec"][name] == server[name]
    ours, theirs = (pod["containers"][0] for pod in (workers["spec"], server))
    home = {each["name"]: each.get("value") for each in theirs["env"]}["HF_HOME"]
    assert {"name": "HF_HOME", "value": home} in ours["env"]
    (mount,) = ours["volumeMounts"]
    assert mount in theirs["volumeMounts"]
    assert all(volume in server["volumes"] for volume in workers["spec"]["volumes"])


def changed(one: object, other: object, where: str = "") -> Iterator[tuple[str, object, object]]:
    """Where two rendered values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from changed(one.get(name), other.get(name), f"{where}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from changed(*pair, f"{where}[{index}]")
    elif one != other:
        yield where, one, other


def test_repositories_on_a_volume_can_be_served():
    folder = "server.env.MODEL_REPOSITORY=/repositories/own server.env.TRACE_ONE_IN=1000000"
    pod = server_pod(render(f"server.repositoryClaim=models {folder}"))
    (server,) = pod["containers"]
    mount = next(m for m in server["volumeMounts"] if m["name"] == "repositories")
    assert (mount["mountPath"], mount["readOnly"]) == ("/repositories", True)
    claims = [v.get("persistentVolumeClaim") for v in pod["volumes"]]
    assert {"claimName": "models"} in claims
    given = {one["name"]: one.get("value") for one in server["env"]}
    assert (given["MODEL_REPOSITORY"], given["TRACE_ONE_IN"]) == ("/repositories/own", "1000000")


def test_the_job_of_the_weights_may_run_where_the_servers_do():
    taint = "server.tolerations[0].key=own server.tolerations[0].operator=Exists"
    resources = render(f"{CASES['gpu']} server.nodeSelector.disk=fast {taint}")
    job = find(resources, "Job", None)["spec"]["template"]["spec"]
    server = server_pod(resources)
    assert job["nodeSelector"] == server["nodeSelector"] == {"disk": "fast"}
    assert job["tolerations"] == server["tolerations"]
    assert [one["key"] for one in job["tolerations"]] == ["own", "nvidia.com/gpu"]


@pytest.mark.parametrize("case", ["cpu", "gpu", "kserve"])
def test_a_new_image_changes_nothing_but_the_image(case):
    before, after = render(case), render(f"{CASES[case]} image.tag=next")
    found = list(changed(before, after))
    images = [new for where, _, new in found if where.endswith(".image")]
    assert set(images) == {"registry.example.org/ma-agiqa:next"}
    # The pod of a job cannot be changed, so another image is another job, which finds the weights.
    jobs = [new for where, _, new in found if where.endswith(".metadata.name")]
    assert len(images) + len(jobs) == len(found)
    assert len(jobs) == sum(resource["kind"] == "Job" for resource in after)


def test_a_change_of_the_traffic_restarts_no_pod():
    """Nor does one of the selector, which Kubernetes would refuse."""
    before = find(render("gpu"), "Deployment")
    for change in ("autoscaling.max=50", "gateway.host=x.example.org", "monitoring.rules=true"):
        assert find(render(f"gpu {change}"), "Deployment") == before
    assert find(render("gpu server.cores=8"), "Deployment") != before


@pytest.mark.parametrize("dtype", ["", "bfloat16"])
def test_other_weights_are_another_folder(dtype):
    def folder(case: str) -> str:
        pod = server_pod(render(case))
        wait = pod["initContainers"][0]["command"][-1]
        home = next(v["value"] for v in pod["containers"][0]["env"] if v["name"] == "HF_HOME")
        assert f"-e {home}/complete ]]" in wait
        assert pod["initContainers"][0]["command"][:2] == ["timeout", "120m"]
        job = find(render(case), "Job", None)["spec"]["template"]["spec"]["containers"][0]
        assert f"--folder={home}" in job["args"]
        return home

    others = [f"weights.dtype={dtype}", "weights.revision=" + "1b" * 20, "weights.model=me/mine"]
    folders = {folder(case) for case in ("gpu", *(f"gpu {other}" for other in others))}
    assert len(folders) == 4


def signals(case: str) -> dict[str, tuple[str, float]]:
    """What the autoscaler follows: query and how much of it one replica can do, by name."""
    triggers = find(render(case), "ScaledObject")["spec"]["triggers"]
    assert all(trigger["metadata"]["ignoreNullValues"] == "false" for trigger in triggers)
    return {
        t["name"]: (t["metadata"]["query"], float(t["metadata"]["threshold"])) for t in triggers
    }


def test_keda_the_hpa_and_kserve_follow_the_same_numbers_at_the_same_pace():
    keda, hpa = (
        find(render(c), kind)["spec"]
        for c, kind in (("cpu", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler"))
    )
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
        hpa["minReplicas"],
        hpa["maxReplicas"],
    )
    expected = signals("cpu")
    asked = {
        metric["external"]["metric"]["name"]: metric["external"]["target"]["averageValue"]
        for metric in hpa["metrics"]
    }
    assert asked == {
        f"ma-agiqa-{n}": f"{round(1000 * target)}m" for n, (_, target) in expected.items()
    }
    adapter = yaml.safe_load(
        find(render("hpa"), "ConfigMap", "ma-agiqa-adapter")["data"]["values.yaml"]
    )
    served = {rule["name"]["as"]: rule["metricsQuery"] for rule in adapter["rules"]["external"]}
    assert served == {f"ma-agiqa-{name}": query for name, (query, _) in expected.items()}
    for address, url, port, path in (
        ("http://prometheus.monitoring.svc:9090", "http://prometheus.monitoring.svc", 9090, ""),
        ("https://prom.example.org/a", "https://prom.example.org", 443, "/a"),
    ):
        resources = render(f"{CASES['hpa']} autoscaling.prometheus={address}")
        values = find(resources, "ConfigMap", "ma-agiqa-adapter")["data"]["values.yaml"]
        found = yaml.safe_load(values)["prometheus"]
        assert found == {"url": url, "port": port, "path": path}
    assert signals("kserve") == signals("gpu")  # with the predictor's pods among them
    # While weights load Prometheus knows no server: none is added, and none leaves.
    for case in ("cpu", "gpu", "kserve"):
        spec = find(render(case), "ScaledObject")["spec"]
        assert spec["fallback"]["replicas"] == spec["minReplicaCount"]
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"


# One server, per second: counters, and what waits. Then how many replicas each number asks for.
QUIET = {
    'nv_inference_request_success{model="preprocess"}': 0,
    'nv_inference_request_success{model="mplug_owl2"}': 0,
    'nv_inference_request_success{model="maniqa_moe"}': 0,
    'nv_inference_request_success{model="meter"}': 0,
    'nv_inference_exec_count{model="maniqa_moe"}': 0,
    'nv_inference_compute_infer_duration_us{model="maniqa_moe"}': 0,
    'nv_inference_pending_request_count{model="preprocess"}': 0,
    'nv_inference_pending_request_count{model="maniqa_moe"}': 0,
    'nv_inference_pending_request_count{model="ma_agiqa"}': 99,
    'ma_agiqa_batch_images_sum{step="mplug_owl2"}': 0,
    'ma_agiqa_busy_seconds_total{step="mplug_owl2"}': 0,
    "ma_agiqa_decode_seconds_sum{}": 0,
    'ma_agiqa_images_total{outcome="scored"}': 0,
    'ma_agiqa_images_total{outcome="overloaded"}': 0,
}
LOADS = {
    "idle": ({}, {}),
    "decoding limits and the GPU idles": (
        {
            "ma_agiqa_decode_seconds_sum{}": 9.6,  # of 12 cores
            'ma_agiqa_busy_seconds_total{step="mplug_owl2"}': 0.3,
        },
        {"cores-decoding": 2, "embedder-busy": 0.43},
    ),
    "the embedder limits": (
        {'ma_agiqa_busy_seconds_total{step="mplug_owl2"}': 0.95},
        {"embedder-busy": 1.36},
    ),
    # Batches of 8 requests that take 90 ms; Triton counts the time for each request.
    "the scorer limits": (
        {
            'nv_inference_request_success{model="maniqa_moe"}': 80,
            'nv_inference_exec_count{model="maniqa_moe"}': 10,
            'nv_inference_compute_infer_duration_us{model="maniqa_moe"}': 80 * 90_000,
        },
        {"scorer-busy": 1.29},
    ),
    "four requests of eight images wait to be decoded": (
        {
            'nv_inference_pending_request_count{model="preprocess"}': 4,
            'nv_inference_request_success{model="mplug_owl2"}': 10,
            'ma_agiqa_batch_images_sum{step="mplug_owl2"}': 80,
        },
        {"waiting-images": 2},
    ),
    "30 % is refused": (
        {
            'ma_agiqa_images_total{outcome="scored"}': 70,
            'ma_agiqa_images_total{outcome="overloaded"}': 30,
        },
        {"servers-for-refused": 1.43},
    ),
    "2 % is refused": (
        {
            'ma_agiqa_images_total{outcome="scored"}': 98,
            'ma_agiqa_images_total{outcome="overloaded"}': 2,
        },
        {"servers-for-refused": 1.25},
    ),
    "nearly everything is refused": (
        {
            'ma_agiqa_images_total{outcome="scored"}': 1,
            'ma_agiqa_images_total{outcome="overloaded"}': 99,
        },
        {"servers-for-refused": 4},
    ),
}


def test_replicas_follow_the_busiest_of_all_steps_and_what_is_refused(tmp_path):
    """Evaluated by promtool, beside another release and another namespace that are fully loaded."""

    def series(load: dict[str, float], where: str) -> list[dict]:
        lines = []
        for name, value in load.items():
            gauge = "pending" in name
            values = f"{value}+0x80" if gauge else f"0+{15 * value}x80"
            lines.append({"series": name.replace("{", "{" + where + ","), "values": values})
        return lines

    asked = signals("gpu")
    others = dict.fromkeys(QUIET, 1000)
    own, release = "ma-agiqa-6d4f9c7b5-x2x9z", "ma-agiqa-gpu-6d4f9c7b5-x2x9z"
    noise = series(others, f'namespace="ma-agiqa",pod="{release}"')
    noise += series(others, f'namespace="other",pod="{own}"')
    tests = [
        {
            "interval": "15s",
            "input_series": noise,
            "promql_expr_test": [
                {"expr": query, "eval_time": "15m", "exp_samples": []}
                for query, _ in asked.values()
            ],
        }
    ]
    for load, expected in LOADS.values():
        server = series({**QUIET, **load}, f'namespace="ma-agiqa",pod="{own}"')
        wanted = [
            {
                "expr": f"round(({query}) / {target}, 0.01)",
                "eval_time": "15m",
                "exp_samples": [{"labels": "{}", "value": expected.get(name, 0)}],
            }
            for name, (query, target) in asked.items()
        ]
        tests.append(
            {"interval": "15s", "input_series": noise + server, "promql_expr_test": wanted}
        )
    file = tmp_path / "signals.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": tests}))
    done = subprocess.run(
        [program("promtool"), "test", "rules", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def leaves(values: dict, where: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict) and value and f"{where}{name}" != "server.env":
            yield from leaves(value, f"{where}{name}.")
        else:
            yield f"{where}{name}", value


def test_the_table_of_values_is_that_of_the_chart():
    rows = re.findall(
        r"^\| `([\w.]+)` \| `(.*?)` \| (.+) \|$", (CHART / "README.md").read_text(), re.M
    )
    documented = {name: yaml.safe_load(default) for name, default, _ in rows}
    assert documented == dict(leaves(VALUES))
    schema = json.loads((CHART / "values.schema.json").read_text())

    def names(part: dict, where: str = "") -> Iterator[str]:
        for name, inner in part.get("properties", {}).items():
            yield from names(inner, f"{where}{name}.") if "properties" in inner else [where + name]

    assert set(names(schema)) - {"global"} == set(documented)


def test_rules_and_dashboard_are_those_of_the_monitoring_folder():
    resources = render("watched")
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules.yml").read_text())
    installed = find(resources, "PrometheusRule")
    pairs = list(changed(rules, installed["spec"]))
    assert pairs
    assert all(where.endswith(".runbook_url") for where, _, _ in pairs)
    assert all(new.startswith("https://wiki/ma-agiqa#") for _, _, new in pairs)
    dashboard = find(resources, "ConfigMap", "ma-agiqa-dashboard")
    file = ROOT / "deploy" / "monitoring" / "grafana" / "dashboard.json"
    assert json.loads(dashboard["data"]["ma-agiqa.json"]) == json.loads(file.read_text())
    monitor = find(resources, "PodMonitor")
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"
    values = "nameOverride=scores monitoring.rules=true server.startMinutes=60"
    other = find(render(values), "PrometheusRule", "scores")
    silence = [new for _, old, new in changed(rules, other["spec"]) if re.search("25( |m$)", old)]
    assert len(silence) == 2
    assert all("65" in new for new in silence)
    pairs = [(old, new) for _, old, new in changed(rules, other["spec"]) if "ma-agiqa.*" in old]
    assert len(pairs) == 7
    assert all(new == old.replace("ma-agiqa", "(ma-agiqa|scores)") for old, new in pairs)
    for resource in (installed, monitor):  # by which an operator chooses
        assert resource["metadata"]["labels"]["release"] == "prometheus"
    for case in ("watched", "kserve"):
        ports = {
            p["name"]: p["containerPort"]
            for p in server_pod(render(case))["containers"][0]["ports"]
        }
        assert ports["metrics"] == 8002
