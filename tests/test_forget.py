"""Forgetting a user, an expert and a photo in a checkout that has run, killed midway; then the next run."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import Checkout, small_params

pytestmark = pytest.mark.timeout(900)
USER, EXPERT, PHOTO = "user-0003", "expert-02", "00005.jpg"

# A first call is refused; then each dies after another place, in a process of its own, and the last has to do the rest.
KILLED = """
import os, sys
import mlflow, torch                        # once, for all that are forked
import tasks.forget.run as run
from tasks.forget import cache, folders, models, prefect_runs, reviews

refused, *names = sys.argv[1:]
before, rwlock = run.FILE.read_text(), run.Path(".dvc/tmp/rwlock")
rwlock.write_text('{"write": {"data/nights": {"pid": %d, "cmd": "dvc repro"}}, "read": {}}' % os.getpid())
try:
    run.forget(refused)
    raise SystemExit("was not refused")
except run.BadInput as error:
    assert "a pipeline or a night is running" in str(error)
rwlock.write_text("{}")
assert run.FILE.read_text() == before and not run.PENDING.exists()

places = [folders.Folder, reviews.Reviews, models.Models, prefect_runs.PrefectRuns, cache.Cache]
for name in names:
    for place in places if name == names[0] else ():
        child = os.fork()
        if child == 0:
            real = place.remove
            def dying(self, target):
                real(self, target)
                os._exit(9)
            place.remove = dying
            run.forget(name)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, place
        assert run.PENDING.is_file()
    done = run.forget(name)
    assert done.clean and not run.PENDING.exists(), done.left
    print(name, done.target.kind, done.removed)
"""


def texts(path: Path) -> Iterator[bytes]:
    """All that a file says, by means of the test's own."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".gz":
        yield gzip.decompress(data)
    if data[:4] == b"PAR1":
        table = pq.read_table(path)
        for name in table.column_names:
            kind = table.schema.field(name).type
            if pa.types.is_binary(kind):
                yield b"".join(table[name].to_pylist())
            elif "list" not in str(kind):
                yield str(table[name].to_pylist()).encode()
    if data[:15] == b"SQLite format 3":
        with sqlite3.connect(path) as base:
            yield "\n".join(base.iterdump()).encode()


def grep(folder: Path, *needles: bytes) -> list[tuple[str, bytes]]:
    """(file, needle) below a folder, but for the project's own code."""
    names = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, text=True, check=False).stdout.split()
    code = {folder / name for name in names if name != "forgotten.txt"} | {folder / "killed_forget.py"}
    found = []
    for path in sorted(folder.rglob("*")):
        shown = str(path.relative_to(folder))
        inside = path.is_file() and not path.is_symlink() and path not in code and not shown.startswith((".git/", "tests/"))
        if inside and "__pycache__" not in shown:
            said = [*texts(path), shown.encode()]
            found += [(shown, needle) for needle in needles if any(needle in text for text in said)]
    return found


@pytest.fixture(scope="module")
def forgetful(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A copy of the checkout, with a remote, and with more places in which people are."""
    made = Checkout(tmp_path_factory.mktemp("forgetful"), checkout.folder)
    here = made.folder
    for name in ("PREFECT_API_URL", "RAY_ADDRESS"):
        made.environment[name] = checkout.environment[name]
    shutil.rmtree(here / ".prefect")  # the copy of a database in use
    (here / ".prefect").mkdir()
    runs, copied = (folder / ".prefect/prefect.db" for folder in (checkout.folder, here))
    with sqlite3.connect(runs) as old, sqlite3.connect(copied) as new:
        old.backup(new)
        asked = json.dumps({"user": USER})
        new.execute("UPDATE flow_run SET parameters = ? WHERE id = (SELECT id FROM flow_run LIMIT 1)", [asked])
    made.run("dvc", "remote", "add", "--force", "--default", "local", str(here / ".dvc-remote"))
    made.run("dvc", "push")
    (here / ".gitignore").write_text((here / ".gitignore").read_text() + ".prefect/\n")
    photo = hashlib.sha256((here / "data/mannequins/photos" / PHOTO).read_bytes()).hexdigest()
    made.say(SEED.replace("PHOTO", photo))
    return made


SEED = f"""
import gzip, pathlib
import pyarrow as pa
from tasks.reviews import Person, invite, offer, open_round, open_store, save
from tasks.schemas import LABELS
from tasks.exchange.history import HISTORY, append
from tasks.tables import write_table

store = open_store()
score = {{"appearance": 4.0, "health": 5.0, "posture": 6.0}}
others = [line.split()[0] for line in open("data/listing.txt") if ".jpg" in line]
some = [other for other in others if other != "PHOTO"][:2]
for person, role in (("{USER}", "user"), ("user-0004", "user"), ("{EXPERT}", "expert")):
    invite(store, person, role)
for person in ("{USER}", "user-0004"):
    offer(store, person, pa.Table.from_pylist([score | {{"photo_id": photo}} for photo in ["PHOTO", *some]]), "bank/1")
    for photo in ["PHOTO", *some]:
        save(store, Person(person, "user"), f"{{person[-4:]}}-{{photo[:20]}}", "rating", score | {{"photo_id": photo}})
row = score | {{"photo_id": some[0], "rater_id": "{EXPERT}", "origin": "revised", "round": 1, "at": None}}
rows = [row | {{"annotation": "a1"}}, row | {{"rater_id": "expert-01", "annotation": "a2"}}]
append(pa.Table.from_pylist(rows, schema=HISTORY), pathlib.Path("data/imported"))
pathlib.Path(".physique/full/x").mkdir(parents=True)
write_table(pa.table({{"photo_id": ["PHOTO"], "rater_id": ["{USER}"]}}), ".physique/full/x/labels.parquet")
pathlib.Path(".physique/some.log.gz").write_bytes(gzip.compress(b"GET /r/{USER} {EXPERT} {PHOTO}"))
pathlib.Path("exchange").mkdir()
pathlib.Path("exchange/PHOTO.jpg").write_bytes(open("data/mannequins/photos/{PHOTO}", "rb").read())

import mlflow
from tasks.registry import register, registered_name, stage_run
from tasks.full_personal import FULL
bundle = pathlib.Path("bundle/models")
bundle.mkdir(parents=True)
(bundle / "000.json").write_text('{{"about": {{"rater": "{USER}", "expert": "{EXPERT}"}}}}')
(bundle.parent / "bundle.json").write_text('{{"models": {{"{USER}": "000"}}, "personal": false}}')
with stage_run("personal-full", {{"user": "{USER}", "expert": "{EXPERT}"}}):
    register(registered_name(FULL, "{USER}"), bundle.parent, "personal-full", metrics={{"x": 1.0}},
             about={{"user": "{USER}"}}, champion=True)
import shutil
shutil.rmtree("bundle")
"""


@pytest.fixture(scope="module")
def needles(forgetful: Checkout) -> dict[str, list[bytes]]:
    """What nobody may find afterwards."""
    from model.bank_files import key_of

    photo = (forgetful.folder / "data/mannequins/photos" / PHOTO).read_bytes()
    md5 = hashlib.md5(photo).hexdigest()
    middle = len(photo) // 2
    marks = [hashlib.sha256(photo).hexdigest(), md5, f"{md5[:2]}/{md5[2:]}", PHOTO]
    return {
        USER: [USER.encode(), key_of(USER)],
        EXPERT: [EXPERT.encode()],
        PHOTO: [*(mark.encode() for mark in marks), photo[middle : middle + 100]],
    }


@pytest.fixture(scope="module")
def said(forgetful: Checkout, needles) -> str:
    """What is printed while a user, an expert and a photo are forgotten, killed at every place and run again."""
    before = grep(forgetful.folder, *(needle for each in needles.values() for needle in each))
    assert {place.split("/")[0] for place, _ in before} >= {
        ".dvc", ".dvc-remote", ".physique", ".prefect", "artifacts", "data", "exchange", "mlartifacts", "mlflow.db"
    }  # fmt: skip
    (forgetful.folder / "killed_forget.py").write_text(KILLED)
    return forgetful.run("killed_forget", USER, USER, EXPERT, PHOTO).stdout


def test_refused_while_a_stage_runs_then_killed_at_every_place_and_run_again_leaves_nothing(
    forgetful: Checkout, needles, said: str
):
    assert f"{USER} user" in said and f"{EXPERT} expert" in said and " photo " in said
    assert grep(forgetful.folder, *(needle for each in needles.values() for needle in each)) == []
    records = [json.loads(path.read_text()) for path in (forgetful.folder / ".physique/forgotten").iterdir()]
    assert sorted(record["kind"] for record in records) == ["expert", "photo", "user"]
    whole = [record["removed"] for record in records if record["kind"] != "user"]  # whose calls ended before they counted
    assert all(removed["MLflow"] and removed["DVC cache and remotes"] and removed["data/"] for removed in whole)
    assert (forgetful.folder / "data/imported/labels.parquet").is_file()  # of the other expert


@pytest.mark.usefixtures("said")
def test_meanwhile_the_others_are_served_by_a_model_that_is_marked(forgetful: Checkout):
    photo = "data/mannequins/photos/00007.jpg"
    answer = json.loads(forgetful.run("flows.cli", "predict", photo, "--user", "user-0004", "--json").stdout)
    assert answer["known_user"] and 0 <= answer["scores"]["health"] <= 10
    with sqlite3.connect(forgetful.folder / "mlflow.db") as base:
        stale = base.execute("SELECT name FROM model_version_tags WHERE key = 'stale'").fetchall()
    assert {name for (name,) in stale} == {"physique-personal", "physique-expert-expert-01", "physique-expert-expert-03"}


@pytest.mark.slow
@pytest.mark.usefixtures("said")
def test_the_next_run_learns_anew_without_them_and_brings_nobody_back(forgetful: Checkout, needles):
    from model.bank_opened import open_bank

    small_params(forgetful.folder, pretrain={"rounds": 1, "epochs": 2, "own_epochs": 1}, finetune={"iterations": 4})
    forgetful.run("dvc", "repro", "continual")
    assert grep(forgetful.folder, *(needle for each in needles.values() for needle in each)) == []
    bank = open_bank(forgetful.folder / "artifacts/continual/bank")
    assert len(bank) == 39 and USER not in bank.users and list(bank.basis.experts) == ["expert-01", "expert-03"]
    with sqlite3.connect(forgetful.folder / "mlflow.db") as base:
        serving = base.execute("SELECT version FROM registered_model_aliases WHERE name = 'physique-personal'").fetchall()
        stale = base.execute(
            "SELECT v.version FROM model_version_tags t JOIN model_versions v ON t.name = v.name AND t.version = v.version "
            "WHERE t.key = 'stale' AND v.name = 'physique-personal' AND v.current_stage != 'Deleted_Internal'"
        ).fetchall()
    assert serving and not stale  # the one that held the expert's network went when another one served
