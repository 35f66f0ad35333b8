"""Method `full`: a whole network for one user, registered as `physique-personal-full-<user>` (docs/methods.md).

uv run physique personal-full user-0001
uv run physique up                          then: user → Run in the Prefect UI
"""

import shutil
from pathlib import Path

from prefect import flow

from tasks.full_personal import against_expert, full_page, full_settings, register_full, train_full
from tasks.once import in_turn
from tasks.params import load_params
from tasks.stage import publish


@flow
def personal_full(
    user: str,
    cohort: str = "data/cohort",
    nights: str = "data/nights",
    mesh: str = "data/mesh",
    embeddings: str = "data/embeddings",
    pretrain: str = "artifacts/pretrain",
    finetune: str = "artifacts/finetune",
    body: str = "data/body",
    meshnet: str = "data/meshnet",
) -> str:
    """Train from the user's expert on, judge on the user's own test photos, register."""
    params = load_params()
    with in_turn("training for a user"):  # whom nobody forgets meanwhile
        config, photos, ratings = full_settings(
            user, Path(cohort), Path(nights), Path(mesh), Path(embeddings), Path(pretrain), Path(finetune), params
        )
        kept = train_full(config, params)
        found = against_expert(kept, config, photos, ratings)
        version = register_full(user, kept, config, found, Path(body), Path(meshnet), params)
        shutil.rmtree(kept)
    page = full_page(user, version, config, found)
    publish("personal-full", page)
    return page


@flow
def user(user: str) -> str:
    """Train a whole network for one user, from the model of their expert on, and register it as their own.

    It is compared with the expert's on photos that the user rated and no training has seen. What the bank serves does not
    change: the model is `physique-personal-full-USER`.

    Args:
        user: Their rater_id, as in raters.csv or the review page.
    """
    return personal_full(user)
