"""Surveys: questions in English and Chinese, about the object that is judged and about the person who judges.

Notable: an answer is a code (`values`, or a number as text), never the wording, so languages and simulated raters share
codes. Checked like params.yaml: one line per fault, with file and field.

    python -m tasks.surveys [FILE]      # checks a survey and lists its questions
    uv run pytest tests/review/test_surveys.py
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tasks.intake.quarantine import BadInput
from tasks.printable import printable

DEFAULT = Path("surveys/physique.yaml")
LONGEST_TEXT = 2000
Words = Annotated[str, Field(min_length=1, max_length=500)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Wording(_Strict):
    """A question in one language."""

    text: Words
    options: list[Words] | None = None
    """What each of `values` is called, in that order."""
    ends: Annotated[list[Words], Field(min_length=2, max_length=2)] | None = None
    """What the lowest and the highest number of a scale mean."""


class Question(_Strict):
    """One question."""

    id: Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,60}$")]
    type: Literal["choice", "scale", "number", "text"]
    about: Literal["object", "person"]
    required: bool
    values: list[Words] | None = None
    lo: Annotated[float, Field(allow_inf_nan=False)] | None = None
    hi: Annotated[float, Field(allow_inf_nan=False)] | None = None
    en: Wording
    zh: Wording

    @model_validator(mode="after")
    def _whole(self) -> Question:
        languages = {"en": self.en, "zh": self.zh}
        if self.type == "choice":
            if not self.values or len(set(self.values)) < max(2, len(self.values)):
                raise ValueError("values: a choice needs two or more, all different")
            for name, words in languages.items():
                if len(words.options or ()) != len(self.values):
                    raise ValueError(f"{name}.options: must name each of the {len(self.values)} values")
        elif self.values is not None:
            raise ValueError(f"values: are for a choice, not for a {self.type}")
        if self.type in ("scale", "number") and (self.lo is None or self.hi is None or not self.lo < self.hi):
            raise ValueError(f"lo, hi: a {self.type} needs both, lo below hi")
        if self.type == "scale":
            if self.lo != int(self.lo or 0) or self.hi != int(self.hi or 0) or (self.hi or 0) - (self.lo or 0) > 10:
                raise ValueError("lo, hi: a scale has whole numbers, 11 at most")
            for name, words in languages.items():
                if words.ends is None:
                    raise ValueError(f"{name}.ends: a scale needs words for its two ends")
        return self

    def code(self, answer: Any) -> str | None:
        """An answer as it is stored; None: not answered. Raises ValueError that says what would be right."""
        text = "" if answer is None else str(answer).strip()
        if not text:
            if self.required:
                raise ValueError(f"{self.id}: is not answered")
            return None
        if isinstance(answer, bool):
            raise ValueError(f"{self.id}: true and false are no answers here")
        if self.type == "choice":
            if text not in (self.values or ()):
                raise ValueError(f"{self.id}: {text[:40]!r} is no answer; right is one of {', '.join(self.values or ())}")
            return text
        if self.type == "text":
            if len(text) > LONGEST_TEXT:
                raise ValueError(f"{self.id}: is {len(text):,} characters long; {LONGEST_TEXT:,} at most")
            return text
        return self._number(text)

    def _number(self, text: str) -> str:
        lo, hi = self.lo or 0.0, self.hi or 0.0
        whole = "a whole number" if self.type == "scale" else "a number"
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lo <= value <= hi or (self.type == "scale" and value != int(value)):
            raise ValueError(f"{self.id}: {text[:40]!r} is no answer; right is {whole} from {lo:g} to {hi:g}")
        return str(int(value)) if value == int(value) else repr(value)


class Survey(_Strict):
    """All questions; a change of them is a new version."""

    name: Words
    version: Annotated[str, Field(min_length=1, max_length=100)]
    questions: Annotated[list[Question], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _apart(self) -> Survey:
        ids = [question.id for question in self.questions]
        if repeated := [each for each in ids if ids.count(each) > 1]:
            raise ValueError(f"questions: two are called {repeated[0]}")
        return self

    def validate_answers(self, answers: Mapping[str, Any]) -> dict[str, str]:
        """Answers as they are stored: codes by question, in the survey's order, without what was left out.

        Raises:
            ValueError: one line that names the question and says what would be right.
        """
        known = [question.id for question in self.questions]
        if unknown := [name for name in answers if name not in known]:
            raise ValueError(f"{printable(str(unknown[0])[:60])}: is no question of this survey")
        codes = {question.id: question.code(answers.get(question.id)) for question in self.questions}
        return {name: code for name, code in codes.items() if code is not None}


def load_survey(path: str | Path = DEFAULT) -> Survey:
    """A survey, checked. Raises BadInput, one line: file, question, field, what would be right."""
    from ruamel.yaml import YAML, YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadInput(f"{path}: the survey cannot be read ({why}); run in the project's folder") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise BadInput(f"{path}{where}: is not YAML ({getattr(error, 'problem', None) or error})") from None
    try:
        return Survey.model_validate(values)
    except ValidationError as error:
        raise BadInput(_line(str(path), values, error.errors()[0])) from None


def _line(path: str, values: Any, problem: Any) -> str:
    """One pydantic error as `surveys/physique.yaml: question muscles, values: …`."""
    where = list(problem["loc"])
    place = f"{path}: "
    if where[:1] == ["questions"] and len(where) > 1:
        entry = values["questions"][where[1]]
        name = entry.get("id") if isinstance(entry, dict) else None
        place += f"question {name if isinstance(name, str) else where[1] + 1}, "
        where = where[2:]
    what = problem["msg"].removeprefix("Value error, ")
    return place + (f"{'.'.join(str(part) for part in where)}: {what}" if where else what)


if __name__ == "__main__":
    import sys

    from tasks.faults import told

    with told():
        for each in load_survey(*sys.argv[1:2]).questions:
            print(f"{each.id:20} {each.type:7} {each.en.text}")
