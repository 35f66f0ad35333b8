"""Surveys: the one that is shipped, what a file may say, what may be answered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

from tasks.intake.quarantine import BadInput
from tasks.mannequins.raters import simulate
from tasks.surveys import DEFAULT, Survey, load_survey

ROOT = Path(__file__).resolve().parents[2]
GOOD = {
    "ideal_build": "slim",
    "muscles": "a lot",
    "favourite_body_type": "tall",
    "upright_matters": "very",
    "extraversion": "3",
    "openness": "4",
    "age_group": "60+",
}


@pytest.fixture(scope="module")
def survey() -> Survey:
    return load_survey(ROOT / DEFAULT)


def test_simulated_raters_answer_the_survey_that_people_answer(survey):
    truth = pd.DataFrame({"photo": ["a.jpg", "b.jpg"], "kind": "person", "bmi": [21.0, 29.0]})
    people = simulate(truth, experts=8, users=60, ratings_per_user=1, feedback_per_user=0).raters
    for answers in people.to_dict("records"):
        given = {name: answer for name, answer in answers.items() if name not in ("rater_id", "role")}
        assert survey.validate_answers(given) == given


def test_answers_are_codes_in_the_order_of_the_survey(survey):
    posted = {"exercise_hours": 7, "health_signs": " "} | GOOD | {"extraversion": 3, "openness": 4.0}
    answers = survey.validate_answers(posted)
    assert answers == GOOD | {"exercise_hours": "7"}
    asked = [question.id for question in survey.questions]
    assert list(answers) == [name for name in asked if name in answers]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"muscles": None}, "muscles: is not answered"),
        ({"muscles": ""}, "muscles: is not answered"),
        ({"muscles": "Some"}, "muscles: 'Some' is no answer; right is one of no matter, some, a lot"),
        ({"extraversion": 6}, "extraversion: '6' is no answer; right is a whole number from 1 to 5"),
        ({"extraversion": 2.5}, "extraversion: '2.5' is no answer"),
        ({"extraversion": True}, "extraversion: true and false are no answers here"),
        ({"exercise_hours": "nan"}, "exercise_hours: 'nan' is no answer; right is a number from 0 to 80"),
        ({"exercise_hours": "inf"}, "exercise_hours: 'inf' is no answer"),
        ({"exercise_hours": "many"}, "exercise_hours: 'many' is no answer"),
        ({"health_signs": "x" * 2001}, "health_signs: is 2,001 characters long; 2,000 at most"),
        ({"shoe_size": "43"}, "shoe_size: is no question of this survey"),
    ],
)
def test_an_answer_that_is_none_names_its_question(survey, change, said):
    with pytest.raises(ValueError) as told:
        survey.validate_answers(GOOD | change)
    assert str(told.value).startswith(said)


@pytest.mark.parametrize(("posted", "kept"), [("0.1234567891", "0.1234567891"), (80, "80"), ("-0", "0"), ("7.0", "7")])
def test_numbers_are_kept_as_they_are(survey, posted, kept):
    assert survey.validate_answers(GOOD | {"exercise_hours": posted})["exercise_hours"] == kept


def _without(name: str):
    return lambda values: values["questions"][0].pop(name)


def _with(name: str, value: object, number: int = 0):
    return lambda values: values["questions"][number].update({name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("type"), "question ideal_build, type: Field required"),
        (_without("values"), "question ideal_build, values: a choice needs two or more, all different"),
        (_with("values", ["slim", "slim", "full"]), "question ideal_build, values: a choice needs two or more"),
        (_with("about", "weather"), "question ideal_build, about: Input should be 'object' or 'person'"),
        (_with("typo", 1), "question ideal_build, typo: Extra inputs are not permitted"),
        (_with("en", {"text": "?", "options": ["Slim"]}), "question ideal_build, en.options: must name each of the 3"),
        (_with("zh", {}), "question ideal_build, zh.text: Field required"),
        (_with("hi", 0, 5), "question extraversion, lo, hi: a scale needs both, lo below hi"),
        (_with("hi", 100, 5), "question extraversion, lo, hi: a scale has whole numbers, 11 at most"),
        (_with("en", {"text": "?"}, 5), "question extraversion, en.ends: a scale needs words for its two ends"),
        (_with("id", "muscles"), "questions: two are called muscles"),
        (_with("id", "Two words"), "question Two words, id: String should match pattern"),
        (lambda values: values.pop("version"), "version: Field required"),
        (lambda values: values.update(questions=[]), "questions: List should have at least 1 item"),
        (lambda values: values.update(questions=["what?"]), "question 1, Input should be"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path, change, said):
    yaml = YAML(typ="safe", pure=True)
    values = yaml.load((ROOT / DEFAULT).read_text(encoding="utf-8"))
    change(values)
    file = tmp_path / "survey.yaml"
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(values, stream)
    with pytest.raises(BadInput) as told:
        load_survey(file)
    assert str(told.value).startswith(f"{file}: {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "the survey cannot be read (No such file or directory); run in the project's folder"),
        (b"\xff\xfe\xff", "the survey cannot be read"),
        (b"questions: [", "is not YAML"),
        (b"", "Input should be"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_a_file_that_is_no_survey(tmp_path, content, said):
    file = tmp_path / "survey.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(BadInput) as told:
        load_survey(file)
    assert said in str(told.value)
    assert str(told.value).startswith(str(file))


def test_the_command_lists_the_questions_or_tells_the_fault(tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "tasks.surveys", *words)
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert len(run().stdout.splitlines()) == 9
    failed = run(str(tmp_path / "none.yaml"))
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
