"""What to ask a user next: the photos whose ratings would teach most about them, the most telling first.

`physique ask` prints them (tasks/questions.py), and the review page offers them in this very order (tasks/offers.py). Which
photos those are is worked out in model/ask.py from what is known of the user, which may be nothing: then it is the prior
over users, moved by their survey if they answered it. Photos of the split `test` are never asked about, for they judge;
photos in which nobody was found neither, unless that is most of them.

    uv run physique ask user-0001 --count 10
    uv run pytest tests/tasks/test_asking.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model import personal
from model.ask import next_photos
from model.bank import Bank, Prediction
from model.bank_opened import OpenBank
from tasks.intake.quarantine import BadInput
from tasks.mesh_table import largest
from tasks.ratings import Photos, read_photos
from tasks.tables import read_shards, shard_paths

if TYPE_CHECKING:
    from model.predictor import Predictor

ASKED_TOGETHER = 16
"""Photos of a folder that go through the models in one batch."""


@dataclass
class Pool:
    """Photos to choose from: what the bank's models say of them, φ (N, D, P), and `may` (N,) bool: which may be asked.

    names: as people know them, in the order of `photos.ids`.
    """

    bank: Bank | OpenBank
    photos: Photos
    may: Tensor
    names: list[str]

    def __post_init__(self) -> None:
        models = self.bank.basis.models
        if missing := set(models) - set(self.photos.models):
            raise BadInput(f"no predictions by {min(missing)}, which the personal models build on; run `dvc repro` first")
        columns = [self.photos.models.index(name) for name in models]
        self.photos = replace(self.photos, models=list(models), predictions=self.photos.predictions[:, columns])
        self.phi = self.bank.basis.phi(self.photos.predictions, self.photos.fused)
        self.may = self.may & self.photos.fitting()

    def next(
        self,
        user: str,
        count: int,
        rated: set[str] | frozenset[str] = frozenset(),
        waiting: set[str] | frozenset[str] = frozenset(),
        survey: dict[str, str | None] | None = None,
    ) -> list[int]:
        """Rows of `count` photos to ask about, the most telling first; fewer if there are fewer.

        rated, waiting: photo ids that the user has rated, and those that they are being asked about already: neither
        is asked again, and the choice goes by what will be known when the second are answered too. survey: answers of
        a user whom the bank does not know.
        """
        known = torch.tensor([photo in rated or photo in waiting for photo in self.photos.ids])
        rows = torch.nonzero(self.may & ~known).flatten()
        coming = self.phi[torch.tensor([photo in waiting for photo in self.photos.ids])]
        mean, cov, noise = _known(self.bank, user, survey or {}, coming)
        return rows[next_photos(self.phi[rows], mean, cov, noise, count, self.phi)].tolist()

    def said(self, user: str, rows: list[int]) -> Prediction:
        """What the user's model says of these photos, as it is served."""
        fused = None if self.photos.fused is None else self.photos.fused[rows]
        return self.bank.predict(self.photos.predictions[rows], self.bank.index([user]).expand(len(rows)), fused)


def _known(bank: Bank | OpenBank, user: str, survey: dict, coming: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (D, P), their covariance about a user's order of photos (D, P, P), noise (D,), NaN where nobody rated.

    coming (n, D, P): photos whose ratings are on their way; in a linear Gaussian model they take the same off the
    covariance whatever they will be. How widely a user spreads scores is left out of the covariance, as of all the
    model's uncertainty: it says nothing about their order.
    """
    if int(bank.index([user])[0]) < 0:
        stats = personal.no_stats(1, len(bank.prior.noise), bank.basis.size)
        own = bank.prior.of(bank.selection.shift([survey]))
    else:
        entry = bank.part([user])
        stats, own = entry.stats, entry.prior_mean
    found = personal.posterior(bank.prior, own, stats)
    alike = replace(bank.prior, scales=None, shares=None)
    if len(coming):
        none = torch.zeros(len(coming), dtype=torch.long)
        stats = stats + personal.sufficient(coming, (coming * found.mean).sum(-1), none, 1)
    cov = personal.posterior(alike, own, stats).cov * (found.noise / bank.prior.noise)[..., None, None]
    noise = torch.where(bank.prior.users > 0, found.noise[0], torch.nan)
    return found.mean[0], cov[0], noise


def cohort_pool(bank: Bank | OpenBank, artifacts: Path = Path("artifacts"), data: Path = Path("data")) -> Pool:
    """The photos of the cohort. Raises BadInput: not built yet, or by other models than the bank's."""
    pretrain = artifacts / "pretrain"
    if not (pretrain / "predictions.parquet").is_file():
        raise BadInput(f"{pretrain}: no predictions of the cohort's photos; run `dvc repro` first")
    photos = read_photos(pretrain / "predictions.parquet", pretrain / "features.parquet")
    names, may = {}, torch.ones(len(photos.ids), dtype=torch.bool)
    if shard_paths(data / "cohort/photos"):
        table = read_shards(data / "cohort/photos", ["photo_id", "name"])
        names = dict(zip(table["photo_id"].to_pylist(), table["name"].to_pylist()))
    if shard_paths(data / "mesh"):
        table = largest(read_shards(data / "mesh", ["photo_id", "person", "status"]))
        may = _with_people(dict(zip(table["photo_id"].to_pylist(), table["status"].to_pylist())), photos.ids)
    return Pool(bank, photos, may, [names.get(photo, photo) for photo in photos.ids])


def folder_pool(folder: Path, predictor: Predictor) -> Pool:
    """The photos of a folder, sub-folders too, that can be read. Raises BadInput: it holds none."""
    from hashlib import sha256

    from tasks.intake.photos import find_photos
    from tasks.intake.quarantine import Quarantine
    from tasks.progress import progress

    if not folder.is_dir():
        raise BadInput(f"--pool: {folder} is no folder; right is one that holds photos")
    found: dict[str, tuple[str, str, Tensor, Tensor]] = {}
    paths = list(find_photos(folder, Quarantine(), str(folder), ()).items())
    with progress("photos", len(paths)) as advance:
        for start in range(0, len(paths), ASKED_TOGETHER):
            part = paths[start : start + ASKED_TOGETHER]
            data = [path.read_bytes() for _, path in part]
            rows, table, fused = predictor.opinions(data)
            for k, (name, _) in enumerate(part):
                if not table[k].isnan().all():
                    found.setdefault(sha256(data[k]).hexdigest(), (name, rows[k].status, table[k], fused[k]))
            advance(len(part))
    if not found:
        raise BadInput(f"--pool: {folder} holds no photo that can be read")
    names, statuses, tables, features = zip(*found.values())
    photos = Photos(list(found), list(predictor.names), torch.stack(tables), torch.stack(features))
    assert predictor.bank is not None
    return Pool(predictor.bank, photos, _with_people(dict(zip(found, statuses)), photos.ids), list(names))


def _with_people(status: dict[str, str], ids: list[str]) -> Tensor:
    """(N,) bool: photos with somebody in them; all of them where that is less than half, as of portraits."""
    found = torch.tensor([status.get(photo, "ok") == "ok" for photo in ids], dtype=torch.bool)
    return found if found.sum() * 2 >= len(ids) else torch.ones_like(found)
