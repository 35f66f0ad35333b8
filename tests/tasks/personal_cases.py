"""A small made-up cohort for the tests of personal models: three experts, users who mix their tastes."""

from hashlib import sha256

import numpy as np
import pyarrow as pa

from model.scores import DIMENSIONS

MODELS = ("expert-1", "expert-2", "expert-3", "generic")


def photo_id(i: int) -> str:
    return sha256(f"photo {i}".encode()).hexdigest()


class Cohort:
    """Tables of the contract with health never rated, and the true taste behind them."""

    def __init__(self, users: int = 60, photos: int = 200, each: int = 60, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.users = [f"user-{i:03d}" for i in range(users)]
        self.ids = [photo_id(i) for i in range(photos)]
        self.scores = np.full((photos, 4, 3), np.nan)
        common = self.rng.normal(size=(photos, 1, 2))
        self.scores[:, :3, [0, 2]] = 5 + 0.9 * common + 1.2 * self.rng.normal(size=(photos, 3, 2))
        self.scores[:, 3] = self.scores[:, :3].mean(1)
        self.mix = self.rng.dirichlet([0.6] * 3, users)
        self.each = each
        rows = []
        for u, user in enumerate(self.users):
            for i in self.rng.permutation(photos)[:each]:
                rows.append((self.ids[i], user, *self.rate(u, i)))
        for e, name in enumerate(MODELS[:3]):
            for i in range(photos):
                rows.append((self.ids[i], name, self.scores[i, e, 0], None, self.scores[i, e, 2]))
        self.labels = pa.table(
            {
                "photo_id": [r[0] for r in rows],
                "rater_id": [r[1] for r in rows],
                **{d: pa.array([r[2 + k] for r in rows], pa.float32()) for k, d in enumerate(DIMENSIONS)},
                "origin": ["rated"] * len(rows),
                "round": pa.array([0] * len(rows), pa.int32()),
                "at": pa.array([None] * len(rows), pa.timestamp("us", tz="UTC")),
            }
        )
        self.raters = pa.table(
            {
                "rater_id": [*self.users, *MODELS[:3]],
                "role": ["user"] * users + ["expert"] * 3,
                "survey": pa.array(
                    [[("q", f"{self.mix[u].argmax()}")] for u in range(users)] + [[("q", f"{e}")] for e in range(3)],
                    pa.map_(pa.string(), pa.string()),
                ),
            }
        )
        long = [(p, m, *self.scores[i, k]) for i, p in enumerate(self.ids) for k, m in enumerate(MODELS)]
        self.predictions = pa.table(
            {
                "photo_id": [r[0] for r in long],
                "model": [r[1] for r in long],
                **{
                    d: pa.array([None if np.isnan(r[2 + k]) else r[2 + k] for r in long], pa.float32())
                    for k, d in enumerate(DIMENSIONS)
                },
            }
        )

    def rate(self, user: int, photo: int, mix: np.ndarray | None = None) -> tuple:
        """(appearance, None, posture) by this user's taste, or by `mix`."""
        taste = (self.mix[user] if mix is None else mix) @ self.scores[photo, :3][:, [0, 2]]
        noisy = np.clip(taste + self.rng.normal(0, 0.7, 2), 0, 10)
        return float(noisy[0]), None, float(noisy[1])

    def feedback(self, photos: dict[int, list[int]], mixes: dict[int, np.ndarray] | None = None) -> pa.Table:
        """Rating events: user index → photo indices; by `mixes` where a user's taste has changed."""
        rows = []
        for user, rated in photos.items():
            for i in rated:
                scores = self.rate(user, i, (mixes or {}).get(user))
                for d, value in zip(DIMENSIONS, scores):
                    if value is not None:
                        rows.append((self.users[user], self.ids[i], d, value))
        return events(rows)


def events(rows: list[tuple], kinds: list[str] | None = None, ids: list[str] | None = None) -> pa.Table:
    """Feedback table of (user, photo_id, dimension, value) rows, a second apart."""
    n = len(rows)
    return pa.table(
        {
            "event_id": ids or [f"e{k:05d}" for k in range(n)],
            "user_id": pa.array([r[0] for r in rows], pa.string()),
            "photo_id": pa.array([r[1] for r in rows], pa.string()),
            "kind": pa.array(kinds or ["rating"] * n, pa.string()),
            "dimension": pa.array([r[2] for r in rows], pa.string()),
            "value": pa.array([r[3] for r in rows], pa.float32()),
            "at": pa.array([1_777_000_000_000_000 + k * 1_000_000 for k in range(n)], pa.timestamp("us", tz="UTC")),
        }
    )
