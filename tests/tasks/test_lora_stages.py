"""Method `lora` on real networks of the small size: first entries, a night, and what the registry's predictor says."""

import copy

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn

from model import metrics
from model.checkpoint import save_frame
from model.lora_bank import LoraBank, OpenLora
from model.physique_frame import FrameConfig, PhysiqueFrame
from model.preference import survey_code
from model.scores import DIMENSIONS
from model.views import FrameInputs
from tasks import judge
from tasks import lora as stage
from tasks.frame_data import predict_all
from tasks.personal import finetune
from tasks.ratings import Photos, Ratings, as_photos
from tests.tasks.personal_cases import photo_id

WIDTH, PHOTOS, USERS = 24, 160, 30
CONFIG = {"prior_share": 0.6, "iterations": 8, "rank": 4, "pull": 30.0}
NAMES = ["ann", "bob", "generic"]


class Made:
    """Experts with random networks, and users who like what an expert likes and, much more, a direction of their own."""

    def __init__(self, folder):
        draw = torch.Generator().manual_seed(0)
        ids = sorted(photo_id(k) for k in range(PHOTOS))
        self.inputs = FrameInputs(
            ids,
            torch.randn(PHOTOS, 1, WIDTH, generator=draw).expand(-1, 2, -1).contiguous(),
            torch.zeros(PHOTOS, 10475, 3).half(),
            200 * torch.rand(PHOTOS, 15, 2, generator=draw),
            torch.ones(PHOTOS, dtype=torch.bool),
        )
        self.inputs.vertices += 0.2 * torch.randn(10475, 3, generator=draw).half()
        said = {}
        for k, name in enumerate(NAMES):
            torch.manual_seed(k)
            frame = PhysiqueFrame(FrameConfig.tiny(WIDTH)).eval().requires_grad_(False)
            frame.mesh.set_topology(self.inputs.mean_mesh())
            for head in frame.classifiers.values():
                nn.init.normal_(head[-1].weight, 0, 0.5)
            save_frame(frame, folder, f"{k:03d}", {"rater": name, "survey": {}, "dimensions": list(DIMENSIONS)})
            said[name], _ = predict_all(frame, self.inputs, survey_code({}))
        self.network = stage.Network(folder, self.inputs)
        tables = [
            pa.table({"photo_id": ids, "model": [name] * PHOTOS, **{d: v[:, i].numpy() for i, d in enumerate(DIMENSIONS)}})
            for name, v in said.items()
        ]
        self.photos: Photos = as_photos(pa.concat_tables(tables))
        own = torch.randn(USERS, WIDTH, generator=draw) @ self.inputs.vector[:, 0].T / WIDTH**0.5
        expert = torch.stack([said[NAMES[u % 2]] for u in range(USERS)])
        noise = 0.3 * torch.randn(USERS, PHOTOS, 3, generator=draw)
        self.truth = (expert + 1.5 * own[..., None]).double()
        self.rated = (self.truth + noise).clamp(0, 10)
        self.rated[:, :, 1] = torch.nan
        self.users = [f"u{k:02d}" for k in range(USERS)]
        self.fit = torch.nonzero(self.photos.fitting()).flatten()
        self.test = torch.nonzero(~self.photos.fitting()).flatten()

    def ratings(self, first: int, last: int, users=range(USERS)) -> Ratings:
        rows = [(u, int(p)) for u in users for p in self.fit.roll(u)[first:last]]
        user, photo = (torch.tensor(column) for column in zip(*rows))
        return Ratings(user, photo, self.rated[user, photo], torch.full((len(user),), torch.nan).double())

    def srcc(self, said: np.ndarray) -> np.ndarray:
        """Per user, on test photos and appearance."""
        return metrics.srcc(said[:, self.test, 0], self.truth[:, self.test, 0].numpy())


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Made(tmp_path_factory.mktemp("models"))
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def first(made: Made):
    """The bank that promotes nothing, the entries, and the promoted of the first night."""
    ratings = made.ratings(0, 40)
    how = CONFIG | {"confidence": stage.NEVER}
    bank = finetune(made.photos, made.users, [{}] * USERS, NAMES[:2], [{}, {}], ratings, how)
    lora, found = stage.first_entries(made.network, bank, made.photos, ratings, CONFIG)
    promoted = stage.decide(lora, found, CONFIG)
    return bank, lora, found, promoted


def served(made: Made, bank, lora: LoraBank) -> np.ndarray:
    """(U, N, D) as served of every photo."""
    everything = torch.ones(2, PHOTOS, dtype=torch.bool)
    experts = made.network.experts(lora.experts, made.photos.ids, everything, lora.rank, lora.axes)
    photo = torch.arange(PHOTOS).expand(len(lora.users), -1)
    moved = experts.moved(lora.expert, lora.rows, photo).double()
    prior = torch.einsum("ndp,udp->und", bank.basis.phi(made.photos.predictions), bank.prior_mean).clamp(0, 10)
    return torch.where(lora.served[:, None], (prior + moved).clamp(0, 10), prior).numpy()


def off(made: Made, bank, lora: LoraBank, rows: torch.Tensor, users: list[int], truth: torch.Tensor) -> float:
    """Squared error of `rows` (U, D, size) of the bank's `users`, on appearance and test photos; truth (U, N, D)."""
    entries = lora.take(lora.index([bank.users[user] for user in users]))
    entries.rows, entries.served = rows, torch.ones_like(entries.served)
    said = served(made, bank.take(users), entries)
    return float(np.square(said - truth.numpy())[:, made.test, 0].mean())


def test_tastes_that_no_expert_shares_are_learned_and_promoted(made, first):
    bank, lora, _, promoted = first
    assert not bank.version.any() and torch.equal(bank.weights, bank.prior_mean)
    assert promoted[:, [0, 2]].double().mean() > 0.7
    assert not promoted[:, 1].any()  # nobody rated health
    prior = torch.einsum("ndp,udp->und", bank.basis.phi(made.photos.predictions), bank.prior_mean).numpy()
    gain = made.srcc(served(made, bank, lora)) - made.srcc(prior)
    assert gain.mean() > 0.2
    assert sorted({len(lora.kept(u)[0]) for u in range(USERS)}) == [40]


def test_users_dealt_out_to_two_workers_get_the_same(made, first):
    bank, whole, found, _ = first
    ratings, parts = made.ratings(0, 40), []
    for rank in range(2):
        rows = list(range(rank, USERS, 2))
        own = ratings[torch.isin(ratings.user, torch.tensor(rows))]
        own.user = own.user // 2
        parts.append(stage.first_entries(made.network, bank.take(rows), made.photos, own, CONFIG))
    order = torch.argsort(torch.tensor([*range(0, USERS, 2), *range(1, USERS, 2)]))
    lora, again = stage.joined([lora for lora, _ in parts], [found for _, found in parts], order)
    assert lora.users == whole.users
    torch.testing.assert_close(again.rows, found.rows, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.evidence, found.evidence, rtol=0, atol=0.02)


def test_a_night_touches_whom_it_hears_of_and_remembers_what_was_said(made, first, tmp_path):
    bank, before, _, _ = first
    before.save(tmp_path)
    busy = [3, 8, 11]
    part = bank.take(busy)
    part.users[2] = "stranger"
    new = made.ratings(40, 48, busy)
    new.user = torch.searchsorted(torch.tensor(busy), new.user)
    opened = OpenLora(tmp_path).part(part.users)
    after, found = stage.night(made.network, opened, part, made.photos, new, torch.ones(3), CONFIG)
    promoted = stage.decide(after, found, CONFIG)
    assert after.users == part.users
    assert [len(after.kept(u)[0]) for u in range(3)] == [48, 48, 8]
    assert not before.served[busy[2]].all() or not after.served[2].all()
    assert found.ratings[:, 0].tolist() == [48.0, 48.0, 8.0]
    kept = ~promoted[:2]
    assert torch.equal(after.rows[:2][kept], before.rows[busy[:2]][kept])
    # What a night learns is as near to the user as what was served before, or nearer.
    both, truth = (before.rows[busy[:2]], found.rows[:2]), made.truth[busy[:2]]
    errors = [off(made, bank, after, rows, busy[:2], truth) for rows in both]
    assert errors[1] < 1.1 * errors[0]


def test_old_ratings_count_less_when_taste_has_changed(made, first):
    bank, before, _, _ = first
    part, new = bank.take([0]), made.ratings(40, 52, [0])
    new.y = 10 - new.y
    rows = [
        stage.night(made.network, before.take(torch.tensor([0])), part, made.photos, new, torch.tensor([f]), CONFIG)[1].rows
        for f in (1.0, 0.05)
    ]
    errors = [off(made, bank, before, found, [0], 10 - made.truth[:1]) for found in rows]
    assert errors[1] < errors[0]


def test_the_predictor_answers_by_entries_that_were_promoted(made, first, tmp_path):
    bank, lora, _, _ = first
    some = copy.deepcopy(lora)
    some.served[:] = False
    some.served[4, 0] = True
    some.save(tmp_path)
    frames = {}
    for k, name in enumerate(NAMES[:2]):
        frame, _ = stage.load_frame(made.network.models, f"{k:03d}")
        frames[name] = frame, survey_code({})
    inputs = copy.copy(made.inputs)
    users = ["u04" if k % 2 else "nobody" for k in range(PHOTOS)]
    before = torch.from_numpy(served(made, bank, some)[3]).float()  # u03 has the prior
    said, put = OpenLora(tmp_path).answer(frames, inputs, users, before)
    assert put.nonzero().tolist() == [[k, 0] for k in range(1, PHOTOS, 2)]
    wanted = served(made, bank, some)[4, :, 0]
    np.testing.assert_allclose(said[1::2, 0].numpy(), wanted[1::2], atol=1e-4)
    assert torch.equal(said[::2], before[::2]) and torch.equal(said[:, 1:], before[:, 1:])
    assert (said - before)[1::2, 0].std() > 0.1
    assert not OpenLora(tmp_path).answer(frames, inputs, ["nobody"] * PHOTOS, said)[1].any()


def test_the_report_judges_what_is_served(made, first, tmp_path, monkeypatch):
    bank, lora, _, _ = first
    bank.save(tmp_path)
    lora.save(tmp_path)
    monkeypatch.setattr(stage.Network, "read", lambda config: made.network)
    own = stage.served_over(tmp_path, {}, made.photos)
    wanted, found = served(made, bank, lora)[3], own(["nobody", "u03"])
    assert np.isnan(found[0]).all() and np.isnan(found[1][made.fit]).all()
    np.testing.assert_allclose(found[1][made.test][:, 0], wanted[made.test][:, 0], atol=1e-4)
    ratings = Ratings(
        torch.arange(USERS).repeat_interleave(len(made.test)),
        made.test.repeat(USERS),
        made.rated[:, made.test].flatten(0, 1),
        torch.full((USERS * len(made.test),), torch.nan).double(),
    )
    figures = [
        {(row["model"], row["dimension"]): row["mean"] for row in judge.stage_table(bank, made.photos, ratings, over=over)
         if row["metric"] == "srcc"}
        for over in (None, own)
    ]  # fmt: skip
    assert figures[0]["personal", "appearance"] == figures[0]["prior", "appearance"]
    assert figures[1]["personal", "appearance"] > figures[0]["personal", "appearance"] + 0.1
    assert stage.served_over(tmp_path / "bank", {}, made.photos) is None
