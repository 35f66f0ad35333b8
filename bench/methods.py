"""The methods of personal models side by side: bayes, lora at several ranks, full; and how fast lora is in one batch.

    uv run dvc repro finetune                                         # a cohort with experts' models
    uv run python bench/methods.py --out methods.json                 # docs/methods.md has its figures
    uv run python bench/methods.py --data FOLDER --pretrain FOLDER    # of another cohort

Users that the prior has never seen are split in two by their ids' hash: on a third, the pull of lora is chosen for each
rank; the others are judged, on photos nobody was fitted on. A user's figure is their SRCC, mean over dimensions and over
repeats of which ratings were given. Gains are paired by user; intervals resample users (95 %).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from model import metrics, personal  # noqa: E402
from model.bank import Bank  # noqa: E402
from model.lora_fit import padded  # noqa: E402
from model.lora_users import Experts  # noqa: E402
from model.preference import survey_code  # noqa: E402
from model.scores import DIMENSIONS  # noqa: E402
from model.views import score_views  # noqa: E402
from tasks import lora  # noqa: E402
from tasks.full_personal import unit_settings, write_labels  # noqa: E402
from tasks.judge import wide, with_mean  # noqa: E402
from tasks.params import load_params  # noqa: E402
from tasks.personal import finetune  # noqa: E402
from tasks.ratings import Photos, Ratings, as_ratings, as_users, read_photos  # noqa: E402
from tasks.tables import read_json, read_table  # noqa: E402
from tasks.train_experts import Unit, joint  # noqa: E402

RANKS, PULLS = (1, 4, 16), (30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)


def held_for_choosing(user: str) -> bool:
    """Whether a user that the prior has not seen is one on whom settings are chosen."""
    return int(sha256(f"choose:{user}".encode()).hexdigest()[:8], 16) % 3 == 0


class Bench:
    """A cohort with its experts, and users of whom only `count` ratings are given."""

    def __init__(self, data: Path, pretrain: Path, seed: int):
        self.params = load_params()
        self.photos: Photos = read_photos(pretrain / "predictions.parquet", pretrain / "features.parquet")
        people = as_users(read_table(data / "cohort" / "raters.parquet"))
        self.ratings, _ = as_ratings(read_table(data / "cohort" / "labels.parquet"), people[0], self.photos)
        settings = self.params.finetune
        how = {"prior_share": settings.prior_users, "fused_axes": settings.fused, "iterations": settings.iterations}
        whole = finetune(self.photos, *people, self.ratings, how | {"confidence": lora.NEVER})
        assert whole is not None
        self.rows = torch.nonzero(whole.judged).flatten()
        self.bank: Bank = whole.take(self.rows.tolist())
        self.choosing = np.array([held_for_choosing(user) for user in self.bank.users])
        paths = {"models": pretrain / "models", "mesh": data / "mesh", "embeddings": data / "embeddings"}
        paths |= {"photos": data / "cohort" / "photos", "pixels": Path(".physique/pixels")}
        self.network = lora.Network.read({name: str(path) for name, path in paths.items()})
        fit = self.photos.fitting()
        place = torch.full((len(whole.users),), -1)
        place[self.rows] = torch.arange(len(self.rows))
        own = self.ratings[place[self.ratings.user] >= 0]
        own.user = place[own.user]
        self.given, test = own[fit[own.photo]], own[~fit[own.photo]]
        self.rated = wide(test, len(self.rows), len(self.photos.ids))
        everything = torch.ones(len(self.bank.basis.experts), len(self.photos.ids), dtype=torch.bool)
        names = list(self.bank.basis.experts)
        self.experts: dict[int, Experts] = {
            rank: self.network.experts(names, self.photos.ids, everything, rank) for rank in RANKS
        }
        self.phi = self.bank.basis.phi(self.photos.predictions, self.photos.fused)
        self.test = torch.nonzero(~fit).flatten()
        self.random = np.random.default_rng(seed)

    def draw(self, count: int) -> Ratings:
        """`count` random ratings of each user."""
        shuffled = torch.from_numpy(self.random.permutation(len(self.given)))
        by_user = shuffled[torch.argsort(self.given.user[shuffled], stable=True)]
        have = torch.bincount(self.given.user, minlength=len(self.rows)).numpy()
        first = np.arange(len(by_user)) - np.repeat(np.cumsum(have) - have, have)
        return self.given[by_user[torch.from_numpy(first < count)]]

    def judged(self, said: np.ndarray | Tensor) -> np.ndarray:
        """(U,) SRCC of scores (U, test photos, D), mean over the dimensions a user rated."""
        said, rated = np.asarray(said), self.rated[:, self.test]
        per = np.stack([metrics.srcc(said[..., d], rated[..., d]) for d in range(len(DIMENSIONS))])
        return with_mean(per)[-1][1]

    def linear(self, weights: Tensor) -> np.ndarray:
        return torch.einsum("ndp,udp->und", self.phi[self.test], weights).numpy()

    def bayes(self, told: Ratings) -> tuple[np.ndarray, Tensor]:
        """What the default method says, and the experts it selects."""
        stats = personal.sufficient(self.phi[told.photo], told.y, told.user, len(self.rows))
        weights = personal.posterior(self.bank.prior, self.bank.prior_mean, stats).mean
        return self.linear(weights), self.bank.selection.choose(self.bank.surveys, stats)[0]

    def low_rank(self, told: Ratings, expert: Tensor, rank: int, pull: float) -> np.ndarray:
        """(U, test photos, D) of lora without its gate."""
        prior = torch.einsum("ndp,ndp->nd", self.phi[told.photo], self.bank.prior_mean[told.user])
        given = padded(told.user, told.photo, told.y - prior, torch.ones(len(told)), len(self.rows))
        rows = self.experts[rank].fit(expert, given, pull).rows
        moved = self.experts[rank].moved(expert, rows, self.test.expand(len(self.rows), -1)).numpy()
        return self.linear(self.bank.prior_mean) + moved

    def gated(self, told: Ratings, rank: int, pull: float) -> tuple[np.ndarray, float]:
        """(U, test photos, D) of lora as it is served, the prior where the gate says no; and the share promoted."""
        config = {"rank": rank, "pull": pull}
        entries, found = lora.first_entries(self.network, self.bank, self.photos, told, config)
        promoted = lora.decide(entries, found, config)
        moved = self.experts[rank].moved(entries.expert, entries.rows, self.test.expand(len(self.rows), -1)).numpy()
        served = np.where(entries.served[:, None].numpy(), moved, 0.0)
        return self.linear(self.bank.prior_mean) + served, float(promoted.float().mean())


def chosen(bench: Bench, counts: list[int]) -> tuple[dict[int, float], list[dict[str, Any]]]:
    """The pull that serves the choosing users best at each rank, mean over counts; and all that was tried."""
    draws = {count: bench.draw(count) for count in counts}
    experts = {count: bench.bayes(told)[1] for count, told in draws.items()}
    tried: list[dict[str, Any]] = []
    for rank in RANKS:
        for pull in PULLS:
            by_count = {
                count: float(np.nanmean(bench.judged(bench.low_rank(told, experts[count], rank, pull))[bench.choosing]))
                for count, told in draws.items()
            }
            whole = float(np.mean(list(by_count.values())))
            tried.append({"rank": rank, "pull": pull, "srcc": whole, "by_count": by_count})
            print(json.dumps(tried[-1]), file=sys.stderr, flush=True)
    return {rank: best_of(tried, rank) for rank in RANKS}, tried


def best_of(tried: list[dict[str, Any]], rank: int) -> float:
    return max((each for each in tried if each["rank"] == rank), key=lambda each: each["srcc"])["pull"]


def whole_models(bench: Bench, told: Ratings, expert: Tensor, users: list[int], pretrain: Path) -> np.ndarray:
    """(U, test photos, D) of method full for `users`, NaN for all others."""
    said = np.full((len(bench.rows), len(bench.test), len(DIMENSIONS)), np.nan)
    at = torch.tensor([bench.network.inputs.rows()[bench.photos.ids[i]] for i in bench.test.tolist()])
    for user in users:
        own = told[told.user == user]
        name = bench.bank.basis.experts[int(expert[user])]
        config = unit_settings(bench.bank.users[user], name, bench.photos, own, pretrain, bench.params)
        with tempfile.TemporaryDirectory() as folder:
            config = write_labels(config, Path(folder) / "labels.parquet")
            start = joint(config["units"][0], config)
            try:
                unit = Unit(config["units"][0], bench.network.inputs, config, torch.device("cpu"), start=start)
            except ValueError:  # all of a few ratings are for validation
                continue
        while not unit.done:
            unit.train_epoch()
        if unit.best is not None:
            unit.frame.load_state_dict(unit.best)
        unit.frame.eval()
        said[user] = score_views(unit.frame, bench.network.inputs, at, survey_code(unit.answers))[0].numpy()
    return said


def speed(bench: Bench, rank: int, pull: float, count: int = 50, alone: int = 40) -> dict[str, Any]:
    """Users learned per second: all of the bench in one batch, and one after the other; tangents are there already. And
    what everybody's entries take with all of their ratings, tangents and evidence included."""
    told = bench.draw(count)
    expert = torch.zeros(len(bench.rows), dtype=torch.long)
    given = padded(told.user, told.photo, told.y, torch.ones(len(told)), len(bench.rows))
    experts = bench.experts[rank]
    for user in range(4):
        experts.fit(expert[:1], given[torch.tensor([user])], pull)
    started = time.perf_counter()
    experts.fit(expert, given, pull)
    together = len(expert) / (time.perf_counter() - started)
    started = time.perf_counter()
    for user in range(alone):
        experts.fit(expert[:1], given[torch.tensor([user])], pull)
    single = alone / (time.perf_counter() - started)
    started = time.perf_counter()
    lora.first_entries(bench.network, bench.bank, bench.photos, bench.given, {"rank": rank, "pull": pull})
    whole = {"users": len(expert), "ratings": len(bench.given), "seconds": time.perf_counter() - started}
    ratio = together / single
    return {"users": len(expert), "ratings": count, "together": together, "alone": single, "ratio": ratio, "stage": whole}


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("--data", type=Path, default=Path("data"))
    ask.add_argument("--pretrain", type=Path, default=Path("artifacts/pretrain"))
    ask.add_argument("--counts", type=int, nargs="+", default=[5, 10, 25, 50])
    ask.add_argument("--repeats", type=int, default=2)
    ask.add_argument("--full-users", type=int, default=0, help="judged users who also get whole models")
    ask.add_argument("--settings", type=Path, help="a file of --out: pulls are taken from there, not chosen again")
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--out", type=Path, default=Path("methods.json"))
    asked = ask.parse_args()
    torch.set_num_threads(1)
    bench = Bench(asked.data, asked.pretrain, asked.seed)
    if asked.settings is None:
        best, tried = chosen(bench, asked.counts)
        asked.out.write_text(json.dumps({"tried": tried}, indent=1))
    else:
        tried = read_json(asked.settings)["tried"]
        best = {rank: best_of(tried, rank) for rank in RANKS}
    rank = max(best, key=lambda r: max(each["srcc"] for each in tried if each["rank"] == r))
    judged = np.flatnonzero(~bench.choosing)
    some = judged[: asked.full_users].tolist()
    rows, promoted = [], {}
    for count in [0, *asked.counts]:
        found: dict[str, list[np.ndarray]] = {}
        for _ in range(asked.repeats if count else 1):
            told = bench.draw(count)
            said, expert = bench.bayes(told)
            arms: dict[str, Any] = {"bayes": said, "prior": bench.linear(bench.bank.prior_mean)}
            scores = bench.photos.predictions[bench.test].numpy()
            arms["generic"] = np.broadcast_to(scores[None, :, bench.photos.models.index("generic")], said.shape)
            arms["selected expert"] = scores[:, expert.numpy()].transpose(1, 0, 2)
            if count:
                arms |= {f"lora {r}": bench.low_rank(told, expert, r, pull) for r, pull in best.items()}
                arms["lora, as served"], share = bench.gated(told, rank, best[rank])
                promoted.setdefault(count, []).append(share)
                if some:
                    arms["full"] = whole_models(bench, told, expert, some, asked.pretrain)
            for name, values in arms.items():
                found.setdefault(name, []).append(bench.judged(values)[judged])
        values = {name: np.mean(each, 0) for name, each in found.items()}
        for name, own in values.items():
            row: dict[str, Any] = {"ratings": count, "method": name, "users": int((~np.isnan(own)).sum())}
            row["srcc"] = metrics.interval(own, asked.seed)
            for rival in ("generic", "selected expert", "prior", "bayes"):
                if rival != name:
                    row[f"over {rival}"] = metrics.interval(own - values[rival], asked.seed)
            rows.append(row)
            print(json.dumps(row), flush=True)
    result = {
        "simulated": bool(read_json(asked.data / "cohort" / "cohort.json")["simulated"]),
        "users": {"choosing": int(bench.choosing.sum()), "judged": len(judged)},
        "pulls": best,
        "served": {"rank": rank, "pull": best[rank]},
        "rows": rows,
        "promoted": promoted,
        "speed": speed(bench, rank, best[rank]),
        "tried": tried,
    }
    print(json.dumps(result["speed"]))
    asked.out.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
