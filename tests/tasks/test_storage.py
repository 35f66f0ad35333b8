"""Where checkpoints go: a folder, or S3 by PHYSIQUE_STORAGE; forgetting empties it; what cannot be used is one line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tasks.forget.checkpoints import Checkpoints
from tasks.forget.target import Target
from tasks.intake.quarantine import BadInput
from tasks.train import STORAGE, run_name, storage
from tests import cluster


@pytest.fixture(scope="module")
def store() -> Iterator[cluster.S3]:
    with cluster.s3() as made:
        made.bucket("physique")
        yield made


@pytest.fixture
def on_s3(store: cluster.S3, monkeypatch: pytest.MonkeyPatch) -> cluster.S3:
    for name, value in {**store.environment, STORAGE: "s3://physique/train"}.items():
        monkeypatch.setenv(name, value)
    return store


def test_without_the_setting_it_is_a_folder_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STORAGE, raising=False)
    assert storage()[0] == str(tmp_path / ".physique/train") and (tmp_path / ".physique/train").is_dir()


def test_forgetting_empties_the_storage_of_our_runs_and_of_nothing_else(on_s3):
    place, system, path = storage()
    assert place == "s3://physique/train"
    run = run_name("pretrain", {"seed": 1})
    for name in (f"{run}/checkpoint_1/0.pt", "other/0.pt"):
        system.create_dir(f"{path}/{name.rsplit('/', 1)[0]}")
        with system.open_output_stream(f"{path}/{name}") as stream:
            stream.write(b"network")
    anna = Target("expert", "anna")
    assert Checkpoints().find(anna) == [f"s3://physique/train/{run}: an interrupted training"]
    assert Checkpoints().remove(anna) == {"trainings": 1} and Checkpoints().find(anna) == []
    assert [key for key in on_s3.keys("physique") if key.endswith(".pt")] == ["train/other/0.pt"]


@pytest.mark.parametrize(
    "said", ["s3://AKIA:secret@physique/train", "ftp://physique/train", "s3://no-such-bucket/train", "/proc/train"]
)
def test_what_cannot_be_used_is_said_in_one_line_without_keys(said, on_s3, monkeypatch):
    monkeypatch.setenv(STORAGE, said)
    with pytest.raises(BadInput, match=STORAGE) as told:
        storage()
    line = str(told.value)
    assert "\n" not in line and "right" in line
    assert not any(secret in line for secret in ("AKIA", "secret", *cluster.KEYS.values()) if secret != "physique")


@pytest.mark.slow  # pyarrow tries for twelve seconds
def test_a_store_that_does_not_answer_is_said(on_s3):
    on_s3.refuse()
    try:
        with pytest.raises(BadInput, match="s3://physique/train cannot be written"):
            storage()
    finally:
        on_s3.accept()
