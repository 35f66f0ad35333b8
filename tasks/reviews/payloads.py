"""What an answer may hold: one pydantic model per kind, and errors that name the field and what would be right.

    uv run pytest tests/review/test_answers.py
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from model.scores import DIMENSIONS, SCALE
from tasks.printable import printable

LONGEST_COMMENT = 4000


class Refused(ValueError):
    """The answer cannot be taken; one line that names the field and what would be right."""


class NotYours(Refused):
    """The photo is not among this person's, which may mean that there is no such photo."""


class Conflict(ValueError):
    """The key is known with other content."""


Photo = Annotated[str, Field(pattern="^[0-9a-f]{64}$", description="the id of a photo (64 digits 0-9a-f)")]
Score = Annotated[
    float | None,
    Field(ge=SCALE[0], le=SCALE[1], allow_inf_nan=False, description="a number from 0 to 10, or null for “can't tell”"),
]
Comment = Annotated[
    str | None, Field(max_length=LONGEST_COMMENT, description=f"text of {LONGEST_COMMENT:,} characters at most")
]
Thumb = Annotated[Literal[-1, 1], Field(description="1 or -1")]
Preference = Annotated[Literal[-1, 0, 1], Field(description="1, 0 or -1")]
Answer = Annotated[str | Annotated[int, Field(ge=-(10**15), le=10**15)] | float | None, Field(union_mode="left_to_right")]
Version = Annotated[str | None, Field(max_length=200, description="the version of the model whose scores were shown")]


class _Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @field_validator("comment", "text", "answers", "model_version", mode="before", check_fields=False)
    @classmethod
    def _storable(cls, value: Any) -> Any:
        """Text without NUL, which Postgres cannot hold, and half emoji, which a browser's length limit may leave."""
        if isinstance(value, dict):
            return {name: storable(answer) if isinstance(answer, str) else answer for name, answer in value.items()}
        return storable(value) if isinstance(value, str) else value


class _Scored(_Payload):
    photo_id: Photo
    appearance: Score
    health: Score
    posture: Score
    comment: Comment = None


class Review(_Scored):
    """An expert's revision of a draft."""

    round: Annotated[int, Field(ge=1, le=2**31 - 1, description="the number of a round")]


class Rating(_Scored):
    """A user's view of a prediction."""

    model_version: Version = None


class Undo(_Payload):
    """The latest review or rating of a photo is taken back."""

    photo_id: Photo
    round: Annotated[int | None, Field(ge=1, le=2**31 - 1, description="the number of a round, or null")] = None


class ThumbUp(_Payload):
    """Yes or no to a prediction."""

    photo_id: Photo
    value: Thumb
    model_version: Version = None


class Comparison(_Payload):
    """Which of two photos is preferred: 1 the first, -1 the other, 0 neither."""

    photo_id: Photo
    other_id: Photo
    dimension: Annotated[Literal["appearance", "health", "posture"], Field(description=f"one of {', '.join(DIMENSIONS)}")]
    value: Preference
    model_version: Version = None


class Remark(_Payload):
    """Words about a photo, or about all of it."""

    photo_id: Photo | None = None
    text: Annotated[str, Field(max_length=LONGEST_COMMENT, description=f"text of 1 to {LONGEST_COMMENT:,} characters")]

    @field_validator("text")
    @classmethod
    def _said(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("blank")
        return text


class Answers(_Payload):
    """A filled-in survey; its answers are checked against the survey itself."""

    version: Annotated[str, Field(min_length=1, max_length=100, description="the version of the survey")]
    answers: Annotated[
        dict[Annotated[str, Field(max_length=100)], Answer],
        Field(max_length=200, description="answers by question: text or numbers"),
    ]


KINDS: dict[str, tuple[type[_Payload], tuple[str, ...]]] = {
    "review": (Review, ("expert",)),
    "rating": (Rating, ("user",)),
    "undo": (Undo, ("expert", "user")),
    "thumb": (ThumbUp, ("user",)),
    "comparison": (Comparison, ("user",)),
    "comment": (Remark, ("expert", "user")),
    "survey": (Answers, ("expert", "user")),
}
"""Model of the payload, and whose answers may be of this kind."""


def storable(text: str) -> str:
    """`text` as both databases and UTF-8 can hold it."""
    return text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")


def checked(kind: str, payload: Any, role: str) -> dict:
    """The payload as it is stored. Raises Refused."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise Refused(f"kind: is unknown; right is one of {', '.join(KINDS)}")
    model, roles = KINDS[kind]
    if role not in roles:
        raise Refused(f"kind: {kind} is not for {role}s")
    if not isinstance(payload, dict):
        raise Refused("payload: must be a JSON object")
    try:
        return model.model_validate(payload).model_dump()
    except ValidationError as error:
        raise Refused(_line(model, error.errors()[0])) from None


def _line(model: type[_Payload], problem: Any) -> str:
    field = printable(str(problem["loc"][0])[:80]) if problem["loc"] else "payload"
    if field not in model.model_fields:  # or is no text at all: half of a surrogate pair
        return f"{field}: is unknown; known are {', '.join(model.model_fields)}"
    right = model.model_fields[field].description or "text"
    if problem["type"] == "missing":
        return f"{field}: is missing; it must be {right}"
    return f"{field}: it must be {right}"
