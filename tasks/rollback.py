"""Taking back: one user's last promotion, or all that was served since a version of `physique-personal`.

    uv run physique rollback user-0001          their entry before the last promotion serves again, as a new version
    uv run physique rollback --to 7             version 7 serves again

The next night goes on from what is served, because both also write the pipeline's own bank (artifacts/continual/bank, from
which the next night starts): with the entries that serve now, and with all ratings that were ever learned from. So no
rating is lost or learned twice, and a candidate made of them has to pass the gate against the entry that serves now.
A night that learns everything anew (experts or settings changed) makes all entries anew, those taken back too.

The alias moves last; whoever is killed before that serves as before, and a second call does it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tasks.banks import CONTENT
from tasks.intake.quarantine import BadInput
from tasks.tables import read_json, write_json


def rollback_user(user: str, artifacts: Path = Path("artifacts")) -> dict[str, Any]:
    """Serve a user's entry before the last promotion again, all dimensions; the registered version that does.

    Raises:
        BadInput: no bank yet, an unknown user, or one without an entry before this one.
    """
    from model.bank_opened import open_bank
    from model.lora_bank import has_lora
    from tasks.lora_rollback import user_taken_back
    from tasks.registry import PERSONAL, champion

    folder = _pipeline_bank(artifacts)
    bank = open_bank(folder / "bank")
    if int(bank.index([user])[0]) < 0:
        raise BadInput(f"user {user!r} is not in the bank {folder / 'bank'}; nothing was changed")
    part = bank.part([user])
    lora = user_taken_back(folder / "bank", user) if has_lora(folder / "bank") else None
    if lora is None and (int(part.version[0]) == 0 or torch.equal(part.weights, part.previous)):
        raise BadInput(f"user {user!r} has no entry before the one that is served; nothing was changed")
    part.rollback(torch.tensor([0]))
    bundle, serving = champion(PERSONAL)
    with TemporaryDirectory(dir=artifacts) as temporary:
        fresh = Path(temporary) / "bank"
        _save(bank.updated([part], about={"stage": "rollback"}), lora, fresh)
        version = _registered(bundle, fresh, Path(temporary) / "bundle", {"user": user}, serving)
        _save(open_bank(fresh), lora, folder / "bank")
    return _serving(folder, version)


def rollback_to(version: str, artifacts: Path = Path("artifacts")) -> dict[str, Any]:
    """Let a version of `physique-personal` serve again, and the next night go on from its entries.

    Raises:
        BadInput: there is no such version, or no bank yet.
        ValueError: it was made with other experts or another prior, so the next night could not go on from it.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    from model.bank import shared_parts
    from model.bank_opened import open_bank
    from tasks.lora_rollback import as_then
    from tasks.registry import PERSONAL, use_tracking

    folder = _pipeline_bank(artifacts)
    use_tracking()
    try:
        found = Path(mlflow.artifacts.download_artifacts(f"models:/{PERSONAL}/{version}")) / "artifacts/bundle"
    except MlflowException:
        raise BadInput(f"--to: {PERSONAL} has no version {version}; `physique models` lists what there is") from None
    bank, then = open_bank(folder / "bank"), open_bank(found / "bank")
    (_, ours), (_, theirs) = shared_parts(bank.common), shared_parts(then.common)
    if bank.basis.models != then.basis.models or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise ValueError(
            f"--to: version {version} was made with other experts or another prior than {folder / 'bank'}, and a night "
            "could not go on from it; check out the commit and data it was made with (its tags name them), then "
            "`physique run`"
        )
    lora = as_then(folder / "bank", found / "bank")
    _save(bank.updated(_as_then(bank, then), about={"stage": "rollback"}), lora, folder / "bank")
    return _serving(folder, {"name": PERSONAL, "version": str(version), "uri": f"models:/{PERSONAL}/{version}"})


def _as_then(bank: Any, then: Any) -> Any:
    """Entries of all users with what `then` served, users who came later with their prior; ratings as they are."""
    for part in bank.parts():
        known = (then.index(part.users) >= 0).tolist()
        old = then.part([user for user, there in zip(part.users, known) if there])
        fresh = [k for k, there in enumerate(known) if not there]
        start = bank.starting([part.users[k] for k in fresh], [part.surveys[k] for k in fresh])
        for rows, source in ((torch.tensor(known).nonzero().flatten(), old), (torch.tensor(fresh), start)):
            for name in ("weights", "cov", "noise", "previous", "previous_cov", "previous_noise", "version"):
                getattr(part, name)[rows.long()] = getattr(source, name)
        part.served_anew(torch.ones_like(part.reason, dtype=torch.bool))
        yield part


def _save(bank: Any, lora: Any, folder: Path) -> None:
    """A bank, and the low-rank entries beside it if there are any."""
    bank.save(folder)
    if lora is not None:
        lora.save(folder)


def _pipeline_bank(artifacts: Path) -> Path:
    """The folder of the bank that the next night starts from."""
    folder = artifacts / "continual"
    if not (folder / "bank").is_dir():
        raise BadInput(f"{folder}: no personal models yet; run `dvc repro` first")
    return folder


def _registered(bundle: Path, bank: Path, temporary: Path, about: dict[str, str], serving: str) -> dict[str, Any]:
    """Register the bundle of the version that serves with another bank in it; not yet the champion."""
    from model.bank_opened import content_hash
    from model.files import link
    from tasks.ancestry import PARENTS
    from tasks.registry import PERSONAL, register, stage_run

    shutil.copytree(bundle, temporary, copy_function=link, ignore=lambda at, _: ["bank"] if Path(at) == bundle else [])
    shutil.copytree(bank, temporary / "bank", copy_function=link)
    tags = {"bank.stage": "rollback", CONTENT: content_hash(bank), PARENTS: f"{PERSONAL}/{serving}"}
    tags |= {f"rollback.{k}": v for k, v in about.items()}
    with stage_run("rollback", about):
        return register(PERSONAL, temporary, "rollback", metrics={}, about=tags, champion=False)


def _serving(folder: Path, version: dict[str, Any]) -> dict[str, Any]:
    """Note what serves from now on, and let it."""
    from tasks.registry import promote

    facts = folder / "continual.json"
    write_json(read_json(facts) | {"registered": version}, facts)
    promote(version["name"], version["version"])
    return version
