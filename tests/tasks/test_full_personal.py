"""A whole model for one user: held to the expert it starts from, and never worse than that on the user's own photos."""

import pyarrow as pa
import pytest
import torch

from model.checkpoint import save_frame
from model.physique_frame import PhysiqueFrame
from model.scores import DIMENSIONS
from tasks.full_personal import ratings_of
from tasks.ratings import as_photos
from tasks.schemas import FEEDBACK
from tasks.splits import FIT, VAL
from tasks.tables import write_table
from tasks.train_experts import Unit, joint
from tests.tasks.personal_cases import Cohort, events
from tests.tasks.test_train_experts import cohort, settings

USER = "e"


@pytest.fixture
def config(tmp_path):
    """The user rates photos of both splits; the expert is a network with random weights."""
    torch.manual_seed(5)
    expert = PhysiqueFrame(Unit("e", cohort((FIT, VAL)), settings(tmp_path), torch.device("cpu")).frame.config)
    expert.mesh.set_topology(cohort().mean_mesh())
    save_frame(expert, tmp_path / "models", "007", {"rater": "x"})
    ids, draw = cohort((FIT, VAL)).ids, torch.Generator().manual_seed(8)
    scores = {d: (10 * torch.rand(len(ids), generator=draw)).numpy() for d in DIMENSIONS}
    told = settings(tmp_path)
    write_table(pa.table({"photo_id": ids, "rater_id": [USER] * len(ids), **scores}), tmp_path / "labels.parquet")
    own = {"from": str(tmp_path / "models" / "007"), "pull": 0.0, "begin": "joint", "loss": "sum", "weight_decay": 0.0}
    return told | own | {"own_epochs": 6, "own_lr": 3e-3}


def trained(config) -> tuple[Unit, dict[str, torch.Tensor]]:
    unit = Unit(USER, cohort((FIT, VAL)), config, torch.device("cpu"), start=joint(USER, config))
    start = {name: value.clone() for name, value in unit.frame.state_dict().items()}
    while not unit.done:
        unit.train_epoch()
    return unit, start


def moved(unit: Unit, start: dict[str, torch.Tensor]) -> float:
    now = unit.frame.state_dict()
    return max(float((now[name] - value).abs().max()) for name, value in start.items() if value.is_floating_point())


def test_a_pull_holds_the_weights_and_batchnorm_stays_as_it_is(config):
    free, start = trained(config)
    held, _ = trained(config | {"pull": 1e7})
    assert moved(free, start) > 5e-3
    assert moved(held, start) < 0.5 * moved(free, start)
    norms = [name for name in start if "running" in name]
    assert norms and all(torch.equal(free.frame.state_dict()[name], start[name]) for name in norms)


def test_the_expert_is_what_remains_when_nothing_is_better(config):
    unit, start = trained(config | {"own_lr": 3.0})  # every step makes it worse
    errors = [epoch["val"] for epoch in unit.curve]
    assert errors[0] == min(errors) and len(errors) > 2
    assert all(torch.equal(value, start[name]) for name, value in unit.best.items())


def test_what_a_user_said_on_the_review_page_counts(tmp_path):
    """Snapshots of nights hold it; the cohort's own feedback is in them, and counts alone before the first."""
    cohort = Cohort()
    photos = as_photos(cohort.predictions)
    for name, table in (("raters", cohort.raters), ("labels", cohort.labels)):
        write_table(table, tmp_path / f"{name}.parquet")
    mine, (first, second, third) = cohort.users[0], cohort.ids[:3]
    said = [(mine, first, "appearance", 1.0), (mine, second, "appearance", 9.0)]
    write_table(events(said, ids=["a", "b"]), tmp_path / "feedback.parquet")
    nights = tmp_path / "nights"

    def score(user: str, photo: str) -> float:
        told = ratings_of(user, tmp_path, nights, photos)
        return {photos.ids[i]: y[0] for i, y in zip(told.photo.tolist(), told.y.tolist())}[photo]

    assert (score(mine, first), score(mine, second)) == (1.0, 9.0)
    guest = [("guest", photo, "appearance", 4.0) for photo in cohort.ids[:40]]
    later = events([said[0], *guest, (mine, third, "appearance", 2.0)], ids=[f"e{k}" for k in range(42)])
    nights.mkdir()
    whole = {field.name: later[field.name] if field.name in later.column_names else [None] * 42 for field in FEEDBACK}
    write_table(pa.table(whole, schema=FEEDBACK), nights / "0001.parquet")
    assert (score(mine, first), score(mine, third), score("guest", second)) == (1.0, 2.0, 4.0)
    with pytest.raises(LookupError, match="user 'nobody' is not in"):
        ratings_of("nobody", tmp_path, nights, photos)
