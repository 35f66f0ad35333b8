"""The whole DAG on items that are vectors: no mesh, no image encoder, and everything after them as for photos.

Five minutes: `uv run pytest -m slow tests/test_features.py`.

Runs in the tests' checkout, with a registry of its own, and puts the checkout back.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.features import VECTORS
from tasks.tables import read_json, read_shards, read_table
from tests.conftest import Checkout, small_params
from tests.tasks.item_cases import tastes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def features(checkout: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    folder = tmp_path_factory.mktemp("features")
    lock = (checkout.folder / "dvc.lock").read_bytes()
    small_params(checkout.folder, data={"source": "features", "path": str(tastes(folder / "tastes"))})
    checkout.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    checkout.features_run = checkout.run("dvc", "repro")  # type: ignore[attr-defined]
    yield checkout
    del checkout.environment["MLFLOW_TRACKING_URI"]
    small_params(checkout.folder)
    (checkout.folder / "dvc.lock").write_bytes(lock)
    checkout.run("dvc", "checkout", "--force")


def test_mesh_and_encoder_are_skipped(features: Checkout):
    assert (features.folder / "data/meshnet/mesh_net.safetensors").stat().st_size == 10  # a file of no tensors
    assert len(read_shards(features.folder / "data/mesh")) == 0
    vectors = read_shards(features.folder / "data/embeddings")
    assert len(vectors) == 2 * 90 and {len(v) for v in vectors["vector"].to_pylist()} == {4}
    assert all(key.startswith(VECTORS) for key in vectors["encoder"].to_pylist())


def test_every_expert_has_a_model_that_knows_them(features: Checkout):
    experts = read_json(features.folder / "artifacts/pretrain/pretrain.json")["experts"]
    assert sorted(experts) == ["expert-0", "expert-1", "expert-2"]
    for dimension in ("appearance", "health"):
        assert sum(about[f"test_srcc_{dimension}"] for about in experts.values()) / 3 > 0.75
    assert not any("test_srcc_posture" in about for about in experts.values())
    said = read_table(features.folder / "artifacts/pretrain/predictions.parquet").to_pylist()
    assert {row["posture"] for row in said} == {None}


def test_personal_models_beat_the_generic_one_and_the_report_says_vectors(features: Checkout):
    figures = read_json(features.folder / "report/metrics.json")
    assert figures["finetune.personal.mean.srcc"] > figures["finetune.generic.mean.srcc"] + 0.1
    assert figures["items.seen"] == figures["items.ok"] == 90
    assert not any(key.startswith(("mesh", "photos")) for key in figures)
    page = (features.folder / "report/index.html").read_text()
    assert "Vectors, no photos." in page and "vectors of 4 numbers: there are no photos to show" in page
    assert "NaN" not in re.sub(r"data:image/[^\"')]+", "", page)
    assert "physique predict --item" in page and "predict PHOTO" not in page
    night = read_json(features.folder / "artifacts/continual/continual.json")
    assert night["updated"] == 3


ASKED = """
import json, os, sys, warnings
warnings.filterwarnings("ignore")
import mlflow, pandas
from tasks.predict import predict_files
from tasks.predict_items import named_vectors
from tasks.questions import ask_user
from pathlib import Path
mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
(_, vector), = named_vectors(["item 3"])
model = mlflow.pyfunc.load_model("models:/physique-personal@champion")
frame = pandas.DataFrame({"user_id": ["user-01", "nobody", "user-01"], "vector": [vector.tolist(), vector.tolist(), [1.0]]})
expert = mlflow.pyfunc.load_model("models:/physique-expert-expert-0@champion")
said = {"personal": model.predict(frame).to_dict("list"), "expert": expert.predict(frame[["vector"]][:1]).to_dict("list"),
        "example": model.predict(model.input_example).to_dict("list"), "refused": []}
print(json.dumps(said))
ask_user("user-01", 2, None, True)
predict_files([], "user-01", None, True, ["item 3"])
print(predict_files([Path(sys.argv[1])], "user-01", None, True))
for photos, items in (([Path(sys.argv[2])], None), ([], None), ([], ["zebra"]), ([Path(sys.argv[3])], None)):
    try:
        predict_files(photos, None, None, True, items)
    except (ValueError, LookupError) as error:
        print(error)
"""


def test_models_are_asked_by_alias_by_item_and_by_file(features: Checkout, tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    (features.folder / "asked.py").write_text(ASKED)
    new = pa.table({"item": ["x", "y"], "vector": [[0.0, 5, 0, 1000], [None, 5, 0, 1000]]})
    pq.write_table(new, tmp_path / "new.parquet")
    pq.write_table(pa.table({"item": ["x"], "vector": [[0.0]]}), tmp_path / "short.parquet")
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    files = [str(tmp_path / name) for name in ("new.parquet", "photo.png", "short.parquet")]
    done = features.run("asked", *files)
    registry, first, second, by_item, by_file, failed, *refused = done.stdout.strip().splitlines()
    said = json.loads(registry)
    personal = said["personal"]
    assert personal["known_user"] == [True, False, False]
    assert personal["error"][:2] == ["", ""] and personal["error"][2] == "vector: length 1, expected a list of 4 numbers"
    assert personal["status"] == ["ok", "ok", "unreadable"]
    for dimension in ("appearance", "health"):
        assert all(0 <= score <= 10 for score in (*personal[dimension][:2], *said["expert"][dimension]))
        assert json.loads(by_item)["scores"][dimension] == pytest.approx(personal[dimension][0], abs=1e-3)
    assert {json.loads(first)["photo"], json.loads(second)["photo"]} <= {f"item {k}" for k in range(90)}
    assert said["example"]["status"] == ["ok"]
    assert json.loads(by_file)["item"] == "x" and failed == "1"
    assert "physique: new.parquet, row 2, vector: vector holds NaN or infinity ('y: number 1 is nan')" in done.stderr
    assert refused == [
        "the model that serves now reads vectors of 4 numbers, not photos; name items of the cohort with --item, or give "
        "a Parquet file of item and vector",
        "nothing to score: give photo files, or --item NAME where items are vectors",
        "--item: the cohort in data/cohort has no item 'zebra'",
        "short.parquet: its vectors have length 1; the model that serves now reads length 4",
    ]


def test_what_shows_photos_says_that_there_are_none(features: Checkout):
    done = features.run("flows.cli", "review", "serve", ok=False)
    assert done.returncode == 1
    assert "the review page shows photos, and items of this cohort are vectors (data.source: features)" in done.stderr
