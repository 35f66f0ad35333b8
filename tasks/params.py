"""params.yaml, checked: one pydantic model per section, and errors that name the setting and what would be
right.

Notable: no defaults here, `params.yaml` is the only place of values; unknown keys are errors, so that a typo
never passes for a default; YAML 1.2 numbers as DVC writes them (1e-3).
Command: `python -m tasks.params [FILE]` checks a file and prints it.
"""

import difflib
import math
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Count = Annotated[int, Field(ge=1, description="a whole number, 1 or more")]
Zero = Annotated[int, Field(ge=0, description="a whole number, 0 or more")]
Share = Annotated[float, Field(ge=0, le=1, description="a number from 0 to 1")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False, description="a number above 0")]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False, description="a number, 0 or more")]
Text = Annotated[str, Field(min_length=1, description="text")]
OptionalText = Annotated[Annotated[str, Field(min_length=1)] | None, Field(description="a path, or null")]


class BadParams(ValueError):
    """params.yaml cannot be used; every line of the message names one section.key and what would be right."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Data(_Section):
    """Where the cohort comes from."""

    source: Literal["mannequins", "folder", "physiqueaa50k", "features"]
    path: Text
    scale: Annotated[
        list[float] | None,
        Field(description="two numbers, the lowest and the highest score, as in [1, 7]; or null"),
    ]
    experts: Annotated[Annotated[int, Field(ge=1)] | None, Field(description="a whole number, 1 or more; or null")]

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: list[float] | None) -> list[float] | None:
        if scale is not None and (len(scale) != 2 or not -math.inf < scale[0] < scale[1] < math.inf):
            raise ValueError("not a scale")
        return scale


class Body(_Section):
    """The body model."""

    model: OptionalText


class Mannequins(_Section):
    """The simulated cohort."""

    photos: Count
    experts: Count
    users: Count
    ratings_per_user: Count
    nights: Count
    feedback_per_user: Zero
    judging_per_user: Zero
    drift: Share
    nobody: Share
    unreadable: Share


class Meshnet(_Section):
    """Training of the small mesh network."""

    start: OptionalText
    crops: Count
    held_out: Count
    workers: Count
    epochs: Count
    batch: Count
    lr: Positive


class Mesh(_Section):
    """Meshes of the photos."""

    network: Literal["tiny", "s32", "b32", "l32", "h32"]
    weights: OptionalText
    cache: OptionalText
    detector: Text
    detector_weights: OptionalText
    people: Literal["largest", "all"]
    shard: Count
    batch: Count
    actors: Count
    decoders: Zero
    cpus_per_actor: Count
    gpus_per_actor: NotNegative
    gpus_per_decoder: NotNegative
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    compile: bool


class Embed(_Section):
    """Image features of the photos."""

    encoder: Text
    weights: OptionalText
    shard: Count
    actors: Count
    batch: Count
    gpus_per_actor: NotNegative


class Model(_Section):
    """PhysiqueFrame."""

    size: Literal["tiny", "full"]
    compat: Literal["fixed", "reference"]
    start: OptionalText
    backbone: OptionalText


class Pretrain(_Section):
    """Stage 1: expert models."""

    labeller: Text
    labeller_scale: Annotated[
        list[float], Field(description="two numbers, the lowest and the highest score of that labeller, as in [0, 10]")
    ]
    rounds: Count
    round_photos: Annotated[Annotated[int, Field(ge=1)] | None, Field(description="a whole number, 1 or more; or null")]
    enough: Annotated[float, Field(gt=0, le=1, description="a number above 0, up to 1")]
    rounds_seed_share: Share
    rule: Literal["supervised", "preference", "none"]
    pick: Literal["random", "uncertainty", "disagreement"]
    just_noticeable: NotNegative
    begin: Literal["joint", "separate"]
    epochs: Count
    own_epochs: Count
    patience: Zero
    batch: Count
    lr: Positive
    own_lr: Positive
    weight_decay: NotNegative
    loss: Literal["uncertainty", "sum"]
    schedule: Literal["cosine", "paper"]
    precision: Literal["auto", "bf16", "fp32"]
    recompute: bool
    compile: bool
    workers: Count
    gpus_per_worker: NotNegative


class Finetune(_Section):
    """Stage 2: the first personal bank."""

    method: Literal["bayes", "lora"]
    rank: Count
    pull: NotNegative
    iterations: Count
    workers: Count
    prior_users: Annotated[float, Field(gt=0, lt=1, description="a number between 0 and 1, neither of them")]
    fused: Zero
    confidence: Annotated[float, Field(ge=0.5, lt=1, description="a number from 0.5 to below 1")]
    min_ratings: Count


class Continual(_Section):
    """Stage 3: one night of feedback."""

    forget: Annotated[list[Share], Field(min_length=1, description="weights from 0 to 1, as in [1, 0.5]")]
    confidence: Annotated[float, Field(ge=0.5, lt=1, description="a number from 0.5 to below 1")]
    workers: Count


class Evaluate(_Section):
    """The report's measurements."""

    counts: Annotated[list[int], Field(min_length=1, description="rising whole numbers, 0 or more, as in [0, 5, 10]")]
    repeats: Count
    bootstrap: Count

    @field_validator("counts")
    @classmethod
    def _rising(cls, counts: list[int]) -> list[int]:
        if counts[0] < 0 or any(a >= b for a, b in pairwise(counts)):
            raise ValueError("not rising")
        return counts


class Params(_Section):
    """All of params.yaml."""

    seed: Zero
    data: Data
    body: Body
    mannequins: Mannequins
    meshnet: Meshnet
    mesh: Mesh
    embed: Embed
    model: Model
    pretrain: Pretrain
    finetune: Finetune
    continual: Continual
    evaluate: Evaluate

    def changed(self, **sections: Any) -> "Params":
        """A checked copy with some keys changed: `params.changed(finetune={"iterations": 2})`."""
        values = self.model_dump()
        for name, keys in sections.items():
            values[name] = {**values[name], **keys} if isinstance(keys, dict) else keys
        return _validated(values, "params")


def load_params(path: str | Path = "params.yaml") -> Params:
    """params.yaml, checked. Raises BadParams, one line per setting: where, what is wrong, what is right."""
    from ruamel.yaml import YAML, YAMLError

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadParams(f"{path}: cannot be read ({why}); run in the project's folder") from None
    try:
        values = YAML(typ="safe", pure=True).load(text)  # pure: YAML 1.2, where 1e-3 is a number
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise BadParams(f"{path}{where}: is not YAML ({problem})") from None
    if not isinstance(values, dict):
        raise BadParams(f"{path}: must hold the sections {', '.join(Params.model_fields)}")
    named = {str(key): _keyed(value) for key, value in values.items()}
    return _validated(named, str(path))


def _keyed(section: Any) -> Any:
    """A section with its keys as text, as YAML reads `1:` and `yes:` otherwise."""
    return {str(key): value for key, value in section.items()} if isinstance(section, dict) else section


def _validated(values: dict, path: str) -> Params:
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = dict.fromkeys(_line(path, problem) for problem in error.errors())  # a union tells twice
        raise BadParams("\n".join(lines)) from None


def _line(path: str, problem: Any) -> str:
    """One pydantic error as `params.yaml: finetune.workers is 0; it must be a whole number, 1 or more`."""
    location = [part for part in problem["loc"][:2] if isinstance(part, str)]
    where = f"{path}: {'.'.join(location)}"
    section: Any = Params
    for part in location[:-1]:
        section = section.model_fields[part].annotation
    known = list(section.model_fields)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{where} is unknown; {hint}"
    right = _right(section, location[-1])
    if problem["type"] == "missing":
        return f"{where} is missing; it must be {right}"
    if len(problem["loc"]) > 2 and isinstance(problem["loc"][2], int):
        return f"{where}, item {problem['loc'][2] + 1}, is {_shown(problem['input'])}; it must be {right}"
    return f"{where} is {_shown(problem['input'])}; it must be {right}"


def _right(section: type[BaseModel], key: str) -> str:
    field = section.model_fields[key]
    if field.description:
        return field.description
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return f"a section with {', '.join(field.annotation.model_fields)}"
    return "one of " + ", ".join(str(choice) for choice in getattr(field.annotation, "__args__", ()))


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)[:60]


if __name__ == "__main__":
    import sys

    try:
        print(load_params(*sys.argv[1:2]).model_dump_json(indent=2))
    except BadParams as error:
        sys.exit(str(error))
