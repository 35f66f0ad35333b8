"""From one machine to a cluster by settings alone: the pipeline and a night on Postgres, S3 and two nodes of Ray.

Everything asks who comes; the secrets that were given are looked for in all that was written. tests/topology.py starts it.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.engines import free_port
from tests import cluster
from tests.conftest import small_params
from tests.infra_cases import INFRA
from tests.test_forget import grep, texts
from tests.topology import Topology, topology

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

RATE = """
import pyarrow as pa
from tasks.reviews import Person, invite, offer, open_store, save
from tasks.tables import read_shards

store, ulrike = open_store(), Person("ulrike", "user")
photos = sorted(read_shards("data/cohort/photos", ["photo_id"])["photo_id"].to_pylist())[:20]
invite(store, "ulrike", "user")
scores = [{"photo_id": photo, "appearance": 4.0, "health": 5.0, "posture": 6.0} for photo in photos]
offer(store, "ulrike", pa.Table.from_pylist(scores), "bank/1")
for place, photo in enumerate(photos):
    rating = {"photo_id": photo, "appearance": place % 9 + 0.5, "health": None, "posture": 5.0}
    save(store, ulrike, f"one-{place:06d}", "rating", rating)
print(store.url.drivername)
"""
MODELS = """
import json, mlflow
from mlflow import MlflowClient
client = MlflowClient()
model = client.get_registered_model("physique-personal")
version = client.get_model_version("physique-personal", model.aliases["champion"])
place = client.get_logged_model(version.source.removeprefix("models:/")).artifact_location
print(json.dumps({"champion": int(version.version), "place": place, "uri": mlflow.get_tracking_uri()}))
"""
ACTORS = """
import json, sys
from ray.util.state import list_actors
found = list_actors(address=sys.argv[1], limit=10000)
print(json.dumps([[each.class_name, each.node_id] for each in found]))
"""


DATABASES = ("prefect", "mlflow", "mlflow_users", "reviews")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    try:
        with topology(tmp_path_factory.mktemp("topology")) as made:
            small_params(made.checkout.folder)
            yield made
    except cluster.Missing as why:
        pytest.skip(str(why))


def run(stack: Topology, deployment: str, **parameters: Any) -> tuple[str, set[str]]:
    """A flow run through Prefect's API, as its form does; its id, and Ray Train's checkpoints that were seen meanwhile."""
    found = stack.prefect("GET", f"/deployments/name/{deployment}/{deployment}")
    asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    made = stack.prefect("POST", f"/deployments/{found['id']}/create_flow_run", asked)
    began, seen = time.monotonic(), set()
    while True:
        state = stack.prefect("GET", f"/flow_runs/{made['id']}")["state"]
        seen.update(key for key in stack.store.keys("physique", "train/") if "checkpoint" in key)
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            print(f"{deployment}: {state['type']} after {time.monotonic() - began:.0f} s")
            said = stack.log("worker").read_text()[-6000:]
            assert state["type"] == "COMPLETED", f"{state.get('message')}\n{said}"
            return made["id"], seen
        assert time.monotonic() - began < 1800, state
        time.sleep(0.5)


def serving(stack: Topology) -> dict[str, Any]:
    """The version that serves, where its files lie, and the MLflow that said so."""
    return json.loads(stack.checkout.say(MODELS).splitlines()[-1])


def test_the_pipeline_runs_on_it_and_leaves_nothing_on_this_disk_that_belongs_elsewhere(stack: Topology):
    _, checkpoints = run(stack, "pipeline")
    assert any(re.match(r"train/[a-z]+-[0-9a-f]{12}/checkpoint", key) for key in checkpoints), "Ray Train wrote to S3"
    assert [key for key in stack.store.keys("physique", "train/") if "checkpoint" in key] == [], "and what is done is gone"
    folder = stack.checkout.folder
    assert (folder / "report/index.html").is_file()
    assert not (folder / "mlflow.db").exists() and not (folder / "mlartifacts").exists()
    assert not list((folder / ".physique").glob("*.db")) and not (folder / ".physique/train").exists()
    models = serving(stack)
    assert models["champion"] == 2, "one of stage 2, one of the nights"
    assert models["place"].startswith("mlflow-artifacts:/") and models["uri"] == f"http://{stack.places['mlflow:5000']}"
    assert any(key.endswith("bundle.json") for key in stack.store.keys("physique", "mlflow/"))
    actors = json.loads(stack.checkout.run(ACTORS, stack.nodes.dashboard, how="-c").stdout.splitlines()[-1])
    assert len({node for name, node in actors if name == "MeshActor"}) == 2, "both nodes computed meshes"


def test_a_night_learns_what_came_to_the_page_on_postgres(stack: Topology):
    assert "postgresql+psycopg" in stack.checkout.say(RATE)
    before = serving(stack)["champion"]
    run(stack, "nightly")
    assert serving(stack)["champion"] == before + 1
    facts = json.loads((stack.checkout.folder / "artifacts/continual/continual.json").read_text())
    assert facts["nights"] == facts["new_users"] == 1
    run(stack, "nightly")
    assert serving(stack)["champion"] == before + 1, "without news it rests"


def test_a_second_clone_pulls_all_from_the_remote(stack: Topology):
    made, folder = stack.checkout, stack.checkout.folder
    made.run("dvc", "remote", "add", "-f", "-d", "store", "s3://physique/dvc")
    said = made.run("dvc", "push").stdout
    assert re.search(r"\d+ files pushed", said), said
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["add", "-A"], ["commit", "-qm", "built"], ["clone", "-q", str(folder), str(stack.folder / "clone")]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    clone = stack.folder / "clone"
    words = ["dvc", "pull", "-q"]
    subprocess.run(words, cwd=clone, env=made.environment | {"PYTHONPATH": str(clone)}, check=True, timeout=600)
    for name in ("artifacts/continual/bank", "data/cohort", "data/mesh"):
        for path in sorted((folder / name).rglob("*")):
            assert path.is_dir() or (clone / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    assert list((clone / "artifacts/continual/bank").iterdir())


def test_the_image_that_serves_finds_the_champion_and_answers(stack: Topology):
    (line,) = re.findall(r'^CMD (\["sh".*)$', (INFRA / "Dockerfile").read_text(), re.MULTILINE)
    (model,) = re.findall(r"MODEL=(\S+)", (INFRA / "Dockerfile").read_text())
    port = free_port()
    line = line.replace("8080", str(port)).replace("0.0.0.0", "127.0.0.1").replace("$MODEL", model)
    stack.start("serve", json.loads(line))
    stack.answers("serve", f"http://127.0.0.1:{port}/ping")
    photo = next((stack.checkout.folder / "data/mannequins/photos").glob("*.jpg"))
    row = {"user_id": "ulrike", "image": base64.b64encode(photo.read_bytes()).decode()}
    asked = {"dataframe_records": [row, {"user_id": "somebody", "image": "bm90aGluZw=="}]}
    answer = httpx.post(f"http://127.0.0.1:{port}/invocations", json=asked, trust_env=False, timeout=120)
    first, second = answer.raise_for_status().json()["predictions"]
    assert first["known_user"] is True and first["error"] in (None, "") and second["error"]


def test_without_its_password_nothing_answers(stack: Topology):
    searches = {f"http://{stack.places['mlflow:5000']}/api/2.0/mlflow/registered-models/search": "GET",
                f"http://{stack.places['prefect:4200']}/api/deployments/filter": "POST"}  # fmt: skip
    for url, method in searches.items():
        assert httpx.request(method, url, json={} if method == "POST" else None, trust_env=False).status_code == 401
    words = ["python", "-c", "import ray, sys; ray.init(address=sys.argv[1])", stack.nodes.address]
    stranger = stack.checkout.environment | {"RAY_AUTH_TOKEN": "x" * 40}
    assert subprocess.run(words, env=stranger, capture_output=True, timeout=120).returncode != 0


def test_who_is_forgotten_is_in_no_folder_no_database_and_no_object(stack: Topology):
    """By the means of this test: bytes of files and objects, decoded where they are packed, and dumps of the databases."""
    people = {"ulrike": b"ulrike", "expert-02": b"expert-02"}
    before = traces(stack, *people.values())
    for place, there in {"reviews": b"ulrike", "prefect": b"expert-02", "mlflow": b"expert-02"}.items():
        assert (f"database {place}", there) in before
    assert any(place.startswith("dvc/") for place, _ in before) and any(place.startswith("mlflow/") for place, _ in before)
    for name in people:
        said = stack.checkout.run("flows.cli", "forget", name).stdout
        assert "not searched" not in said, said
    assert traces(stack, *people.values()) == []


def traces(stack: Topology, *needles: bytes) -> list[tuple[str, bytes]]:
    """(place, needle) of all that is found in the checkout, in the store's objects and in the databases."""
    found = grep(stack.checkout.folder, *needles)
    copy = stack.folder / "object"
    for key in stack.store.keys("physique"):
        copy = copy.with_suffix(Path(key).suffix)
        copy.write_bytes(stack.store.client().get_object(Bucket="physique", Key=key)["Body"].read())
        found += [(key, needle) for needle in needles if any(needle in text for text in [*texts(copy), key.encode()])]
        copy.unlink()
    for name in DATABASES:
        said = dump(stack, name)
        found += [(f"database {name}", needle) for needle in needles if needle in said]
    return found


def dump(stack: Topology, name: str) -> bytes:
    """All that a database holds, in words."""
    program = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_dump"))[-1]
    words, how = [program, stack.database.url(name)], {"capture_output": True, "check": True}
    said = subprocess.run(words, env=stack.database.environment, **how).stdout
    assert len(said) > 1000
    return said


def test_no_secret_that_was_given_is_in_anything_that_was_written(stack: Topology):
    """Files of the checkout and of the nodes, logs of every server, Ray's own, all databases, all objects of the store."""
    words = {name: value.split(":")[-1].encode() for name, value in stack.secrets.items() if value != "physique"}
    assert len(words) > 5

    def held(data: bytes) -> list[str]:
        return [name for name, word in words.items() if word in data]

    found = {}
    places = [path for folder in (stack.folder, stack.nodes.temporary) for path in folder.rglob("*")]
    for path in places:
        if path.is_file() and not path.is_symlink() and (names := held(path.read_bytes())):
            found[str(path)] = names
    for key in stack.store.keys("physique"):
        if names := held(stack.store.client().get_object(Bucket="physique", Key=key)["Body"].read()):
            found[key] = names
    for name in DATABASES:
        if names := held(dump(stack, name)):
            found[f"database {name}"] = names
    assert len(places) > 500 and found == {}
