"""params.yaml of the repository loads; what is wrong is named with section, key and a right value."""

from pathlib import Path

import pytest

from tasks.params import BadParams, load_params

REPO = Path(__file__).parents[2]
TEXT = (REPO / "params.yaml").read_text()


def loaded(tmp_path: Path, *changes: tuple[str, str]):
    """params.yaml with some text replaced."""
    text = TEXT
    for before, after in changes:
        assert before in text, f"the test is out of date: {before!r} is not in params.yaml"
        text = text.replace(before, after, 1)
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return load_params(path)


def complaint(tmp_path: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(BadParams) as caught:
        loaded(tmp_path, *changes)
    return str(caught.value).replace(str(tmp_path) + "/", "")


def test_the_default_file_loads():
    params = load_params(REPO / "params.yaml")
    assert params.data.source == "mannequins"
    assert params.body.model is None
    assert params.evaluate.counts == [0, 5, 10, 25, 50]


def test_yaml_1_2_numbers_as_dvc_writes_them(tmp_path):
    params = loaded(tmp_path, ("  lr: 0.0003", "  lr: 1e-3"), ("weight_decay: 0.05", "weight_decay: 0"))
    assert params.meshnet.lr == pytest.approx(0.001)
    assert params.pretrain.weight_decay == 0.0


def test_scale_of_the_raters(tmp_path):
    assert loaded(tmp_path, ("scale: null", "scale: [1, 7]")).data.scale == [1, 7]
    for bad in ("[7, 1]", "[1]", "[1, .inf]", "7", "[1, x]"):
        line = complaint(tmp_path, ("scale: null", f"scale: {bad}"))
        assert line.startswith("params.yaml: data.scale") and "[1, 7]; or null" in line
        assert "\n" not in line


@pytest.mark.parametrize(
    ("before", "after", "line"),
    [
        (
            "epochs: 2 ",
            "epochs: 0 ",
            "params.yaml: meshnet.epochs is 0; it must be a whole number, 1 or more",
        ),
        (
            "epochs: 2 ",
            "epochs: yes ",
            "params.yaml: meshnet.epochs is 'yes'; it must be a whole number, 1 or more",
        ),
        (
            "epochs: 2 ",
            "epochs: true ",
            "params.yaml: meshnet.epochs is true; it must be a whole number, 1 or more",
        ),
        (
            "epochs: 2 ",
            "epochs: 2.5 ",
            "params.yaml: meshnet.epochs is 2.5; it must be a whole number, 1 or more",
        ),
        (
            "epochs: 2 ",
            "epochs: '8' ",
            "params.yaml: meshnet.epochs is '8'; it must be a whole number, 1 or more",
        ),
        ("lr: 0.0003", "lr: .nan", "params.yaml: meshnet.lr is nan; it must be a number above 0"),
        ("drift: 0.3", "drift: 1.3", "params.yaml: mannequins.drift is 1.3; it must be a number from 0 to 1"),
        ("drift: 0.3", "drift: ", "params.yaml: mannequins.drift is null; it must be a number from 0 to 1"),
        (
            "source: mannequins",
            "source: photos",
            "params.yaml: data.source is 'photos'; it must be one of mannequins, folder, physiqueaa50k, features",
        ),
        ("method: bayes", "method: forest", "params.yaml: finetune.method is 'forest'; it must be one of bayes, lora"),
        (
            "experts: null",
            "experts: 0",
            "params.yaml: data.experts is 0; it must be a whole number, 1 or more; or null",
        ),
        (
            "  weight_decay: 0.05",
            "  weigth_decay: 0.05",
            "params.yaml: pretrain.weight_decay is missing; it must be a number, 0 or more\n"
            "params.yaml: pretrain.weigth_decay is unknown; did you mean weight_decay?",
        ),
        (
            "[0, 5, 10, 25, 50]",
            "[0, 10, 5]",
            "params.yaml: evaluate.counts is [0, 10, 5]; it must be rising whole numbers, 0 or more, as in ",
        ),
        (
            "[0, 5, 10, 25, 50]",
            "[0, five]",
            "params.yaml: evaluate.counts, item 2, is 'five'; it must be rising whole numbers, 0 or more, "
            "as in [0, 5, 10]",
        ),
        (
            "model:\n  size: tiny",
            "model: tiny\nx:\n  size: tiny",
            "params.yaml: model is 'tiny'; it must be a section with size",
        ),
        ("seed: 20251", "seed: 20251\n1: 2", "params.yaml: 1 is unknown; known are seed, data, body"),
    ],
)
def test_a_bad_value_is_named(tmp_path, before, after, line):
    assert complaint(tmp_path, (before, after)).startswith(line)


def test_every_mistake_gets_its_own_line(tmp_path):
    text = complaint(tmp_path, ("epochs: 2 ", "epochs: 0 "), ("drift: 0.3", "drift: 9"))
    assert [line.split(" is ")[0] for line in text.splitlines()] == [
        "params.yaml: mannequins.drift",
        "params.yaml: meshnet.epochs",
    ]


def test_files_that_are_no_params(tmp_path):
    path = tmp_path / "params.yaml"
    for content, wanted in (
        (b"a: [1", "line 1: is not YAML"),
        (b"- 1", "must hold the sections seed, data"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"seed: 1\nseed: 2", "duplicate key"),
    ):
        path.write_bytes(content)
        with pytest.raises(BadParams, match=r"params\.yaml") as caught:
            load_params(path)
        assert wanted in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(BadParams, match="No such file"):
        load_params(tmp_path / "nowhere.yaml")


def test_changed_is_checked_too():
    params = load_params(REPO / "params.yaml")
    assert params.changed(finetune={"iterations": 2}).finetune.iterations == 2
    assert params.finetune.iterations != 2
    with pytest.raises(BadParams, match=r"finetune\.iterations is 0"):
        params.changed(finetune={"iterations": 0})
