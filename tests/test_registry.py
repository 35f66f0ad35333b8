"""Models by alias in a fresh process, and `physique predict` on good and bad files."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Checkout

pytestmark = pytest.mark.timeout(900)

FRESH = """
import base64, json, sys, warnings
warnings.filterwarnings("ignore")
import mlflow, pandas
from mlflow import MlflowClient
mlflow.set_tracking_uri("sqlite:///mlflow.db")
model = mlflow.pyfunc.load_model("models:/physique-personal@champion")
data = base64.b64encode(open(sys.argv[1], "rb").read()).decode()
frame = pandas.DataFrame({"user_id": ["user-0001", "user-0001", "nobody", "user-0001"],
                          "image": [sys.argv[1], data, data, "no such file"]})
expert = mlflow.pyfunc.load_model("models:/physique-expert-expert-01@champion")
names = {m.name: m.aliases for m in MlflowClient().search_registered_models()}
version = MlflowClient().get_model_version_by_alias("physique-personal", "champion")
print(json.dumps({"personal": model.predict(frame).to_dict("list"), "names": names, "tags": version.tags,
                  "expert": expert.predict(frame[["image"]][:1]).to_dict("list"),
                  "example": model.predict(model.input_example).to_dict("list"), "says": version.description,
                  "about": MlflowClient().get_registered_model("physique-personal").description}))
"""


def test_loading_by_alias_in_a_fresh_process(checkout: Checkout):
    script = checkout.folder / "fresh.py"
    script.write_text(FRESH)
    photo = next(iter(sorted((checkout.folder / "data/mannequins/photos").glob("*5.jpg"))))
    said = json.loads(checkout.run("fresh", str(photo)).stdout.strip().splitlines()[-1])
    personal = said["personal"]
    for dimension in ("appearance", "health", "posture"):
        by_path, by_bytes, stranger, bad = personal[dimension]
        assert 0 <= by_path <= 10
        assert by_path == pytest.approx(by_bytes, abs=1e-4)
        assert 0 <= stranger <= 10
        assert bad is None or bad != bad
        assert 0 <= said["expert"][dimension][0] <= 10
    assert personal["known_user"][:3] == [True, True, False]
    assert "neither a file here nor base64" in personal["error"][3]
    assert said["example"]["status"] == ["no_person"] and 0 <= said["example"]["health"][0] <= 10
    assert set(said["names"]) == {"physique-personal", *(f"physique-expert-expert-{i:02d}" for i in range(1, 4))}
    assert all("champion" in aliases for aliases in said["names"].values())
    assert said["tags"]["git.commit"]
    assert said["says"].startswith("Made by `continual`: personal models of 40 users.") and "| dimension |" in said["says"]
    assert "as a user would say" in said["about"] and "models:/physique-personal@champion" in said["about"]
    assert any(tag.startswith("dvc.") for tag in said["tags"])
    assert said["tags"]["prefect.id"]


def test_predicting_a_real_photo_finds_people(checkout: Checkout, shared, tmp_path):
    out = tmp_path / "overlay.png"
    photo = shared / "data/street/bus.jpg"
    done = checkout.run("flows.cli", "predict", str(photo), "--user", "user-0001", "--json", "--overlay", str(out))
    answer = json.loads(done.stdout)
    assert answer["status"] == "ok"
    assert answer["known_user"]
    assert set(answer["scores"]) == {"appearance", "health", "posture"}
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("note.jpg", b"this is a text", "not an image"),
        ("empty.jpg", b"", "empty file"),
        ("missing.jpg", None, "No such file"),
        ("dot.png", "1x1", "16"),
    ],
)
def test_a_bad_file_is_one_line_and_a_failure(checkout: Checkout, tmp_path, name, content, said):
    path = tmp_path / name
    if content == "1x1":
        from PIL import Image

        Image.new("RGB", (1, 1)).save(path)
    elif content is not None:
        path.write_bytes(content)
    done = checkout.run("flows.cli", "predict", str(path), ok=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert name in done.stderr
    assert said in done.stderr
