"""infra/ without Docker and a cluster: schemas, names, versions, commands, secrets. Nothing of it is run here."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.infra_cases import (
    INFRA,
    ROOT,
    SECRETS,
    assignments,
    commands,
    compose,
    kustomization,
    locked,
    manifests,
    parse,
    pods,
)

SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY_ID|(^|_)KEY$|USERNAME|CREDENTIAL", re.IGNORECASE)
NO_SECRET = {"MLFLOW_AUTH_CONFIG_PATH"}
ASKED = re.compile(r"\$\{([A-Z_]+):\?[^}]*\}")
GIVEN = re.compile(r"\$\{[A-Z_]+:(?:-([^}]*)|\?[^}]*)\}")
RAY_CLUSTER = {
    "": {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs", "authOptions"},
    "autoscalerOptions": {"upscalingMode", "idleTimeoutSeconds", "securityContext", "env", "envFrom", "resources"},
    "headGroupSpec": {"rayStartParams", "serviceType", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "numOfHosts"},
}
"""Fields of ray.io/v1 that are used here or could be, from KubeRay's API reference: it publishes no schema as a package."""


def of_compose(spec: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a compose file."""
    from compose_spec import PyCompose

    try:
        PyCompose.from_json(GIVEN.sub(lambda said: said[1] or "given", json.dumps(spec)))
    except ValueError as error:
        yield f"schema: {error}"
    services = spec["services"]
    for name, service in services.items():
        image, _, tag = service["image"].partition(":")
        if not re.match(r"\d+\.\d+", tag):
            yield f"{name}: {image}:{tag} is no version"
        if image.startswith("physiqueflow"):
            if service.get("user", "0").split(":")[0] in ("0", "root"):
                yield f"{name}: runs as root"
            if "no-new-privileges:true" not in service.get("security_opt", ()) or service.get("cap_drop") != ["ALL"]:
                yield f"{name}: may get privileges"
        if "healthcheck" not in service and name not in ("bucket", "deployments", "serve"):
            yield f"{name}: nobody asks how it is"
        for port in service.get("ports", ()):
            if not port.startswith("127.0.0.1:"):
                yield f"{name}: port {port} is open to the network"
        for other in service.get("depends_on", ()):
            if other not in services:
                yield f"{name}: waits for {other}, which is not there"
            elif "service_healthy" in str(service["depends_on"][other]) and "healthcheck" not in services[other]:
                yield f"{name}: waits until {other} is healthy, which nobody asks"
        for mount in service.get("volumes", ()):
            source = mount["source"] if isinstance(mount, dict) else mount.split(":")[0]
            if source.startswith("./") and not (INFRA / source).is_file():
                yield f"{name}: {source} is missing"
            if source[0] not in "./$" and source not in spec["volumes"]:
                yield f"{name}: volume {source} is not declared"
        for config in service.get("configs", ()):
            if config["source"] not in spec["configs"]:
                yield f"{name}: config {config['source']} is not declared"
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key) and key not in NO_SECRET and not ASKED.fullmatch(value):
                yield f"{name}: {key} is written down"
        text = json.dumps([service.get("environment"), service.get("command"), service.get("healthcheck")])
        for host in re.findall(r"(?:://|@|address[=, \"]+)(?:[a-z]+@)?([a-z0-9.-]+):\d+", text):
            if host not in (*services, "127.0.0.1"):
                yield f"{name}: {host} is no service"
    for variable in ASKED.findall(json.dumps(spec)):
        if variable not in SECRETS:
            yield f"{variable} is not in example.env"
    for source in (each["file"] for each in spec["configs"].values() if "file" in each):
        if not (INFRA / source).is_file():
            yield f"{source} is missing"


def of_manifests(objects: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with Kubernetes objects."""
    import kubernetes_validate

    for each in objects:
        name = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] == "RayCluster":
            yield from of_ray(each["spec"])
            continue
        try:
            kubernetes_validate.validate(each, "1.32", strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {error.message}"
    maps = {each["name"] for each in kustomization()["configMapGenerator"]}
    claims = {each["metadata"]["name"] for each in objects if each["kind"] == "PersistentVolumeClaim"}
    images = {each["name"] for each in kustomization()["images"]}
    labelled = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in pods(objects).values()}
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        try:
            as_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **pod["metadata"]}, "spec": spec}
            kubernetes_validate.validate(as_pod, "1.32", strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}: {error.message}"
        safe = spec["securityContext"]
        if not safe.get("runAsNonRoot") or not safe.get("runAsUser") or safe["seccompProfile"]["type"] != "RuntimeDefault":
            yield f"{name}: runs as root, or as it likes"
        for container in spec["containers"]:
            own = container["securityContext"]
            if own.get("allowPrivilegeEscalation") is not False or own["capabilities"]["drop"] != ["ALL"]:
                yield f"{name}: may get privileges"
            if container["image"] not in images:
                yield f"{name}: {container['image']} has no version in kustomization.yaml"
            if "memory" not in container["resources"]["limits"]:
                yield f"{name}: takes as much memory as it likes"
            yield from of_environment(name, container, maps)
        for volume in spec.get("volumes", ()):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in claims:
                yield f"{name}: volume claim {claim} is not there"
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                yield f"{name}: config map {volume['configMap']['name']} is not there"
    for each in objects:
        if each["kind"] == "Service":
            pod = labelled.get(each["spec"]["selector"]["app.kubernetes.io/component"])
            ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]} if pod else {}
            if ports.get(each["spec"]["ports"][0]["targetPort"]) != each["spec"]["ports"][0]["port"]:
                yield f"Service {each['metadata']['name']}: leads to no port of a pod"
        if each["kind"] == "NetworkPolicy":
            asked = json.dumps(each["spec"])
            names = [each["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component")]
            names += [name for some in re.findall(r'"values": \[([^]]*)\]', asked) for name in json.loads(f"[{some}]")]
            for name in filter(None, names):
                if name not in labelled:
                    yield f"NetworkPolicy {each['metadata']['name']}: {name} is no pod"
    if {"podSelector": {}, "policyTypes": ["Ingress"]} not in [each["spec"] for each in objects if "spec" in each]:
        yield "no policy keeps everybody out who is not named"


def of_environment(name: str, container: dict[str, Any], maps: set[str]) -> Iterator[str]:
    """What is wrong with a container's environment."""
    for each in container.get("envFrom", ()):
        if "secretRef" in each or each["configMapRef"]["name"] not in maps:
            yield f"{name}: takes all of {each}"
    for each in container.get("env", ()):
        secret = each.get("valueFrom", {}).get("secretKeyRef")
        if secret and (secret["name"] != "physique-secrets" or secret["key"] not in SECRETS):
            yield f"{name}: {secret['key']} is no secret of example.env"
        if not secret and SECRET.search(each["name"]) and each["name"] not in NO_SECRET:
            yield f"{name}: {each['name']} is written down"


def of_ray(spec: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a RayCluster, but for its pods."""
    groups = [("", spec), ("autoscalerOptions", spec["autoscalerOptions"]), ("headGroupSpec", spec["headGroupSpec"])]
    for where, group in groups + [("workerGroupSpecs", group) for group in spec["workerGroupSpecs"]]:
        for unknown in group.keys() - RAY_CLUSTER[where]:
            yield f"RayCluster: {where} has no {unknown}"
        given = group.get("rayStartParams", {}).items()
        words = [f"--{name}" if value == "true" else f"--{name}={value}" for name, value in given]
        try:
            parse(["ray", "start", *words])
        except Exception as error:
            yield f"RayCluster: {error}"
    if spec["rayVersion"] != locked("ray"):
        yield f"RayCluster: version {spec['rayVersion']}, uv.lock has {locked('ray')}"
    for group in spec["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
            yield f"RayCluster: {group['groupName']} begins outside of its limits"


def test_the_compose_file_is_whole():
    assert list(of_compose(compose())) == []


def test_the_manifests_are_whole():
    assert list(of_manifests(manifests())) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "path", "value"),
    [
        ("schema", "services/mlflow/imagine", 1),
        ("is no version", "services/mlflow/image", "physiqueflow:latest"),
        ("runs as root", "services/mlflow/user", "0:0"),
        ("open to the network", "services/mlflow/ports", ["5000:5000"]),
        ("nobody asks", "services/postgres/healthcheck", None),
        ("is no service", "services/s3", None),
        ("PGPASSWORD is written down", "services/mlflow/environment/PGPASSWORD", "hunter22"),
        ("is not declared", "volumes/postgres", None),
    ],
)
def test_a_broken_compose_file_is_told(said: str, path: str, value: Any):
    spec = copy.deepcopy(compose())
    put(spec, path, value)
    assert any(said in line for line in of_compose(spec)), list(of_compose(spec))


RAY, POD = "RayCluster/ray/spec", "spec/template/spec"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "path", "value"),
    [
        ("imagine", "Deployment/mlflow/spec/imagine", 1),
        ("imagine", f"{RAY}/workerGroupSpecs/1/template/spec/imagine", 1),
        ("workerGroupSpecs has no imagine", f"{RAY}/workerGroupSpecs/0/imagine", 1),
        ("uv.lock has", f"{RAY}/rayVersion", "2.0.0"),
        ("No such option", f"{RAY}/headGroupSpec/rayStartParams/imagine", "1"),
        ("is no secret", f"{RAY}/headGroupSpec/template/spec/containers/0/env/1/valueFrom/secretKeyRef/key", "OTHER"),
        ("is written down", f"Deployment/review/{POD}/containers/0/env", [{"name": "PGPASSWORD", "value": "hunter22"}]),
        ("has no version", f"Deployment/serve/{POD}/containers/0/image", "other:latest"),
        ("runs as root", f"Deployment/serve/{POD}/securityContext/runAsUser", 0),
        ("leads to no port", "Service/mlflow/spec/ports/0/port", 5001),
        ("is no pod", "NetworkPolicy/serve/spec/podSelector/matchLabels/app.kubernetes.io%component", "imagined"),
        ("volume claim", "PersistentVolumeClaim/checkout", None),
        ("keeps everybody out", "NetworkPolicy/nobody", None),
    ],
)
def test_a_broken_manifest_is_told(said: str, path: str, value: Any):
    objects = copy.deepcopy(manifests())
    named: dict[str, dict[str, Any]] = {}
    for each in objects:
        named.setdefault(each["kind"], {})[each["metadata"]["name"]] = each
    put(named, path, value)
    left = [each for kind in named.values() for each in kind.values()]
    assert any(said in line for line in of_manifests(left)), list(of_manifests(left))


def put(where: Any, path: str, value: Any) -> None:
    """Set what lies at a path of keys; None takes it away. `%` in a key stands for `/`."""
    *way, last = (int(key) if key.isdigit() else key.replace("%", "/") for key in path.split("/"))
    for key in way:
        where = where[key]
    if value is None:
        del where[last]
    else:
        where[last] = value


def _words() -> Iterator[tuple[str, list[str]]]:
    for name, service in compose()["services"].items():
        if service["image"].startswith("physiqueflow"):
            for words in (service.get("command"), service.get("healthcheck", {}).get("test", [None])[1:]):
                if words:
                    yield f"compose {name}", words
    for name, pod in pods(manifests()).items():
        container = pod["spec"]["containers"][0]
        for words in (container.get("args"), container.get("livenessProbe", {}).get("exec", {}).get("command")):
            if words and name != "checkout":  # git's
                yield f"k8s {name}", words
    serve = re.search(r"^CMD (\[\"sh\".*)$", (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    assert serve, "the target `serve` starts nothing"
    yield "Dockerfile serve", json.loads(serve[1])


def test_every_command_is_one_that_its_program_takes():
    seen = 0
    for where, words in _words():
        for one in commands(words):
            seen += 1
            try:
                parse(one)
            except (Exception, SystemExit) as error:
                raise AssertionError(f"{where}: {' '.join(one)}: {error}") from error
    assert seen > 20
    for wrong in ("mlflow server --imagine", "prefect server start --imagine", "ray imagine", "python -m tasks.imagined",
                  "python -m flows.cli review serve --imagine"):  # fmt: skip
        with pytest.raises(Exception, match="imagine"):
            parse(wrong.split())


def test_versions_are_those_of_the_lock():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dockerfile = (INFRA / "Dockerfile").read_text()
    python = re.search(r"ARG PYTHON=([\d.]+)", dockerfile)[1]
    from packaging.specifiers import SpecifierSet

    assert python in SpecifierSet(project["requires-python"]) and python.count(".") == 2
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) == {"python:${PYTHON}-slim-bookworm", "app"}
    assert re.findall(r"uv sync --locked|uv export --locked", dockerfile), "the image is what uv.lock says"
    assert "USER 1000:1000" in dockerfile and re.search(r"uv==\$\{UV\}", dockerfile)
    ours = {f"{name}:{project['version']}" for name in ("physiqueflow", "physiqueflow-serve")}
    images = {service["image"] for service in compose()["services"].values()}
    assert {image for image in images if image.startswith("physiqueflow")} == ours
    assert {f"{each['name']}:{each['newTag']}" for each in kustomization()["images"]} == ours
    assert f"prefect-version: {locked('prefect')}\n" in (ROOT / "prefect.yaml").read_text()
    for package in ("prefect", "ray", "mlflow", "torch", "psycopg", "asyncpg", "boto3", "dvc-s3", "flask-wtf"):
        assert re.match(r"\d", locked(package)), package


def test_the_image_of_cpus_has_all_but_cuda_and_the_versions_of_torch_are_the_locked_ones():
    if not shutil.which("uv"):
        pytest.skip("uv is not on the path")
    words = ["uv", "export", "--locked", "--no-dev", "--no-emit-project", "--extra", "cluster", "--quiet"]
    assert " ".join(words) in (INFRA / "Dockerfile").read_text()

    def names(*more: str) -> dict[str, str]:
        said = subprocess.run([*words, "--no-hashes", *more], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        return dict(re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==([^\s;]+)", said, re.MULTILINE | re.IGNORECASE))

    whole, most = names(), names("--prune", "torch", "--prune", "torchvision")
    assert whole["torch"] == locked("torch") and whole["torchvision"] == locked("torchvision")
    cuda = {name for name in whole if name.startswith(("nvidia", "cuda", "triton"))}
    assert cuda and not cuda & most.keys(), "without torch nobody asks for CUDA"
    assert most.items() <= whole.items() and {"torch", "torchvision"} <= whole.keys() - most.keys()


@pytest.mark.slow
def test_the_image_of_cpus_installs_by_hash(tmp_path):
    """All but torch's CPU builds, which lie elsewhere. Resolved against the package index, not downloaded."""
    words = re.findall(r"uv (pip install .* -r most\.txt)", (INFRA / "Dockerfile").read_text())[0].split()
    export = ["uv", "export", "--locked", "--no-dev", "--no-emit-project", "--extra", "cluster", "--quiet"]
    with (tmp_path / "most.txt").open("w") as most:
        subprocess.run([*export, "--prune", "torch", "--prune", "torchvision"], cwd=ROOT, stdout=most, check=True)
    subprocess.run(["uv", "venv", "-q", str(tmp_path / "venv")], cwd=tmp_path, check=True)
    for name in ("pyproject.toml", "uv.lock"):  # as in the image: uv reads settings where it stands
        shutil.copy(ROOT / name, tmp_path)
    words = ["uv", *(str(tmp_path / "venv") if word == "/opt/physique" else word for word in words), "--dry-run"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and re.search(r"Would install 2\d\d packages", done.stderr), done.stderr


def test_addresses_in_the_settings_are_services_or_yours():
    settings = assignments(INFRA / "k8s/settings.env")
    services = {each["metadata"]["name"] for each in manifests() if each["kind"] == "Service"}
    cluster = next(each for each in manifests() if each["kind"] == "RayCluster")["metadata"]["name"]
    services |= {f"{cluster}-head-svc", "127.0.0.1"}
    hosts = {urlsplit(value).hostname for name, value in settings.items() if "://" in value and not value.startswith("s3:")}
    hosts |= {word.split(":")[0] for word in settings["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")} - {"localhost"}
    worker = pods(manifests())["prefect-worker"]["spec"]["containers"][0]["env"]
    hosts |= {each["value"].split(":")[0] for each in worker if each["name"] == "RAY_ADDRESS"}
    assert {host for host in hosts if not host.endswith(".example.org")} <= services
    assert not any(SECRET.search(name) for name in settings)
    assert not any(urlsplit(value).password for value in settings.values())


def test_no_secret_is_written_down_and_git_ignores_where_they_are():
    assert SECRETS and set(SECRETS.values()) == {""}, "example.env has names and no values"
    for path in INFRA.rglob("*"):
        if path.is_file():
            found = re.findall(r"://[^/\s:@]+:([^@\s/{]+)@", path.read_text())
            assert not found, f"{path}: a password in an address"
    ignored = subprocess.run(["git", "check-ignore", "infra/.env"], cwd=ROOT, capture_output=True, text=True)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists()
    assert (INFRA / "Dockerfile.dockerignore").read_text().split() == ["*", "!pyproject.toml", "!uv.lock"]


def test_kustomize_builds_it():
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here, which brings kustomize")
    from ruamel.yaml import YAML

    done = subprocess.run(["kubectl", "kustomize", str(INFRA / "k8s")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = list(YAML(typ="safe").load_all(done.stdout))
    assert {each["metadata"].get("namespace") for each in built if each["kind"] != "Namespace"} == {"physique"}
    images = {container["image"] for pod in pods(built).values() for container in pod["spec"]["containers"]}
    assert images == {f"{each['newName']}:{each['newTag']}" for each in kustomization()["images"]}
    parts = {each["metadata"]["labels"]["app.kubernetes.io/part-of"] for each in built if each["kind"] != "Namespace"}
    assert parts == {"physiqueflow"}
