"""The report: what it says, what it never says, and that it loads nothing."""

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from report_cases import CARDS, NAN, around, london_results, picture, simulated_results

from tasks.report.contact import contact_sheet
from tasks.report.files import flat_metrics
from tasks.report.page import render, write_report
from tasks.report.plots import DARK, INK, curve_panel, darkened, night_panel
from tasks.report.results import clean, lost, verdict
from tasks.report.summary import PICTURE_BYTES, markdown_summary, shard_summary, terminal_summary
from tasks.report.words import duration, headline, number


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    out = tmp_path_factory.mktemp("simulated") / "report"
    write_report(simulated_results(), CARDS, out)
    return out


@pytest.fixture(scope="module")
def london(tmp_path_factory):
    out = tmp_path_factory.mktemp("london") / "report"
    write_report(london_results(), CARDS[:1], out)
    return out


def seen(html: str) -> str:
    """The page without its style and pictures."""
    html = re.sub(r"<style>.*?</style>", "", html, flags=re.S)
    return re.sub(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+", "data:", html)


@pytest.mark.parametrize("which", ["simulated", "london"])
def test_page_loads_nothing(which, request):
    html = (request.getfixturevalue(which) / "index.html").read_text()
    for address in re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']?([^"'\s>]+)""", html):
        assert address.startswith(("data:image/", "#")), address
    assert not re.search(r"https?://|@import|<script|<link|<iframe|url\(", seen(html) + style(html))


def style(html: str) -> str:
    return re.search(r"<style>(.*?)</style>", html, re.S).group(1)


@pytest.mark.parametrize("which", ["simulated", "london"])
def test_nothing_is_nan(which, request):
    out = request.getfixturevalue(which)
    texts = [seen((out / "index.html").read_text()), *(p.read_text() for p in out.glob("plots/*.csv"))]
    texts += [(out / "metrics.json").read_text(), (out / "plots/night.json").read_text()]
    source = {"simulated": simulated_results, "london": london_results}[which]()
    texts += [markdown_summary(source), terminal(source)]
    for text in texts:
        assert not re.search(r"\b(nan|NaN|None|inf|Infinity|null|Undefined)\b", text)


def test_hostile_names_are_text(simulated):
    html = (simulated / "index.html").read_text()
    assert "<script>alert" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;$a_b$.jpg") >= 2  # card and quarantine


def test_hostile_names_in_markdown():
    source = simulated_results()
    source["table"][0]["model"] = "a|b](x) <img src=x>"
    text = markdown_summary(source)
    assert "<img" not in text and "a\\|b\\](x) &lt;img src=x&gt;" in text


def test_hostile_group_names_survive_the_plots():
    source = simulated_results()
    for point in source["night"] + source["curve"]:
        point["group" if "group" in point else "model"] = "$\\frac{<b>"
    for panel in (
        night_panel(source["night"], "mean", form="svg"),
        curve_panel(source["curve"], "mean", form="svg"),
    ):
        assert b"<b>" not in panel and panel.rstrip().endswith(b"</svg>")


def test_plots_for_a_dark_page_leave_no_light_ink():
    svg = curve_panel(simulated_results()["curve"], "mean", form="svg")
    assert INK in svg.decode() and INK not in darkened(svg).decode() and DARK[INK] in darkened(svg).decode()
    assert len(svg) == len(darkened(svg))


def test_page_with_photos_of_people_says_so(simulated, london):
    assert "It holds photos of people" in (london / "index.html").read_text()
    assert "It holds photos of people" not in (simulated / "index.html").read_text()


def test_every_number_of_the_table_is_on_the_page(simulated):
    html = seen((simulated / "index.html").read_text())
    for line in simulated_results()["table"]:
        for value in (*line["srcc"], *line["plcc"], *line["accuracy"]):
            assert number(value) in html
        for value in line["gain"] or ():
            assert number(value, signed=True) in html
    for fact in (
        "31.8",
        "58.4",
        "0.983",
        "1.23",
        "3f6c1d2e9a",
        "a7d0ffb2.dir",
        "2.60.0",
        "1 min 36 s",
        "11,883",
    ):
        assert fact in html, fact
    assert "… and 4 more" in html and "outside the scale" in html
    assert "physique-expert-e03" in html and "finetune.lr" in html and "0.001" in html


def test_badge_only_where_simulated(simulated, london):
    assert seen((simulated / "index.html").read_text()).count('<span class="badge">simulated</span>') == 9
    assert "simulated" not in seen((london / "index.html").read_text()).lower()
    assert "*simulated*" in markdown_summary(simulated_results())
    assert "imulated" not in markdown_summary(london_results()) + terminal(london_results())


def test_unrated_dimensions_never_appear(london):
    for text in (
        seen((london / "index.html").read_text()),
        (london / "metrics.json").read_text(),
        (london / "plots/learning_curve.csv").read_text(),
        markdown_summary(london_results()),
        terminal(london_results()),
    ):
        for unrated in ("health", "posture", "mean over"):
            assert unrated not in text


def test_empty_sections_say_why(london):
    html = seen((london / "index.html").read_text())
    assert html.count("No feedback in this cohort") == 3  # headline, night, gate
    assert "up to date" in html and "12 s in all" in html  # the cached stage took no time
    assert "No pseudo-labels were revised" in html and "mesh error cannot be measured" in html
    assert "Nothing was set aside." in html


def test_notes_of_the_run_replace_the_usual_reason(tmp_path):
    write_report(london_results() | {"curve": [], "notes": {"night": "continual was switched off"}}, [], tmp_path)
    assert "continual was switched off" in (tmp_path / "index.html").read_text()


def test_headline_tells_a_loss_as_a_loss():
    first, gains, night, photos = headline(clean(london_results()))
    assert first.tone == "worse"
    assert "worse than the selected expert model: −0.013 [−0.019, −0.007], a loss" in first.text
    assert "10 ratings −0.013 [−0.019, −0.007] (a loss)" in gains.text
    assert "50 ratings +0.003 [−0.003, +0.009] (includes zero)" in gains.text
    assert night.text == "No feedback in this cohort, so there was no night to compare."
    assert photos.text == "Of 102 photo files: 96 ok, 6 no person; none is unaccounted for."


def test_headline_takes_the_personal_curve_and_everyone():
    source = simulated_results()
    flat = [point | {"model": "generic", "gain_expert": [-0.5, -0.6, -0.4]} for point in source["curve"]]
    source["curve"] = flat + source["curve"]
    source["night"].reverse()
    said = headline(clean(source))
    assert "50 ratings +0.047" in said[1].text and "(everyone)" in said[2].text


def test_headline_tells_a_gain_and_an_interval_with_zero():
    said = headline(clean(simulated_results()))
    assert said[0].tone == "better" and "better than the selected expert model by +0.027" in said[0].text
    assert "a gain of +0.011 [+0.003, +0.019]; the gate promoted 14 entries and kept back 26" in said[2].text.replace(
        "Gate", "gate"
    )
    source = simulated_results()
    for line in source["table"]:
        line["gain"] = around(-0.004, 0.01)
    unclear = headline(clean(source))[0]
    assert unclear.tone == "unclear" and "an interval that includes zero" in unclear.text
    assert "−0.004" in unclear.text and "better" not in unclear.text
    for line in source["table"]:
        line["gain"] = [0.03, None, None]
    assert "too few users for an interval" in headline(clean(source))[0].text


def test_a_lost_photo_is_said(tmp_path):
    source = london_results() | {"curve": []}
    source["accounting"]["photos"]["ok"] = 94
    assert lost(source["accounting"]["photos"]) == 2
    assert headline(clean(source))[-1].tone == "worse"
    write_report(source, [], tmp_path)
    assert "2 unaccounted for" in (tmp_path / "index.html").read_text()


def test_metrics_are_flat_and_plots_are_tables(simulated):
    metrics = json.loads((simulated / "metrics.json").read_text())
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert metrics["finetune.personal.mean.srcc"] == 0.661
    assert metrics["finetune.personal.posture.gain"] == -0.034
    assert metrics["gate.promoted"] == 14 and metrics["photos.no_person"] == 18
    assert metrics["mesh.error_mm"] == 31.8 and metrics["night.everyone.mean.gain"] == 0.011
    with (simulated / "plots/learning_curve.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and float(rows[4]["gain_expert"]) == 0.047 and rows[0]["gain_expert"] == ""
    with (simulated / "plots/gain.csv").open() as file:
        assert [(r["dimension"], r["ratings"]) for r in csv.DictReader(file)][-1] == ("mean", "50")
    assert len(json.loads((simulated / "plots/night.json").read_text())) == 2


def test_every_declared_plot_exists_even_without_data(simulated, london):
    names = sorted(path.name for path in (simulated / "plots").iterdir())
    assert names == sorted(path.name for path in (london / "plots").iterdir()) and len(names) == 7
    assert (london / "plots/night.csv").read_text().count("\n") == 1
    assert Image.open(london / "plots/night.png").height < 150 < Image.open(simulated / "plots/night.png").height


def test_same_results_same_bytes(simulated, tmp_path):
    write_report(simulated_results(), CARDS, tmp_path)
    for file in simulated.rglob("*.*"):
        assert file.read_bytes() == (tmp_path / file.relative_to(simulated)).read_bytes(), file.name


def test_results_that_lack_a_part_are_refused():
    with pytest.raises(ValueError, match="lack gate, table"):
        clean({k: v for k, v in london_results().items() if k not in ("gate", "table")})
    with pytest.raises(ValueError, match=r"results\.provenance\.params is a set"):
        clean(london_results() | {"provenance": {"params": {1, 2}}})


def test_flat_metrics_leave_out_what_is_unknown():
    metrics = flat_metrics(clean(london_results()))
    assert not [key for key in metrics if "health" in key or "posture" in key or key.startswith(("mesh", "night"))]


def test_a_gain_or_baseline_that_is_unknown_is_left_out():
    source = simulated_results()
    source["mesh_error"]["baseline_mm"] = None
    for line in [*source["table"], *source["night"]]:
        line["gain"] = [NAN, NAN, NAN]
    source |= {"curve": [point | {"gain_expert": [NAN, NAN, NAN]} for point in source["curve"]]}
    ready = clean(source)
    html = render(ready | {"curve": [], "night": ready["night"][:1]}, [])
    assert "there is no baseline to compare with" in html and not re.search(r"\b(nan|None)\b", seen(html))
    assert "nan" not in terminal(source).lower()
    assert not [key for key in flat_metrics(ready) if key.endswith(("gain", "gain_expert", "baseline_mm"))]


def test_contact_sheet_fits_any_shape():
    sheet = Image.open(io.BytesIO(contact_sheet(CARDS, columns=3, cell=100)))
    pad = 8
    assert sheet.width == pad + 3 * (100 + pad) and sheet.height > 2 * 133
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    wide = pixels[pad : pad + 133, 2 * pad + 100 : 2 * pad + 200]  # the second cell, a 320 × 90 photo
    assert (wide[66].std(0) > 20).all() and (wide[8:40] == wide[8, 50]).all()  # photo in the middle, ground above
    assert Image.open(io.BytesIO(contact_sheet([]))).width > 50


def terminal(results: dict, width: int = 110) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(terminal_summary(results))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 110])
def test_terminal_summary(width):
    text = terminal(simulated_results(), width)
    for fact in (
        "simulated",
        "0.661",
        "+0.027 ± 0.013",
        "physique up",
        "physique predict",
        "dvc plots",
    ):
        assert fact in text
    assert max(map(len, text.splitlines())) <= width


def test_markdown_summary_keeps_its_picture_small():
    big = picture(2400, 1800, form="PNG")
    text = markdown_summary(simulated_results(), big)
    found = re.search(r"!\[contact sheet\]\(data:image/jpeg;base64,([A-Za-z0-9+/=]+)\)", text)
    jpeg = base64.b64decode(found.group(1))
    assert len(jpeg) <= PICTURE_BYTES and Image.open(io.BytesIO(jpeg)).width >= 260
    assert "| Fine-tuning | posture | **personal** | 0.608" in text


def test_shard_summary_counts():
    counts = {"ok": 1180, "no_person": 14, "unreadable": 6}
    text = shard_summary("mesh", counts, computed=200, reused=1000, seconds=80.0, picture=CARDS[0].picture)
    assert "| no person | 14 |" in text and "| **all** | **1,200** |" in text
    assert "200 computed, 1,000 reused, 1 min 20 s (2.5 photos/s)" in text and "data:image/jpeg" in text
    assert "nothing to compute" in shard_summary("embed", counts, computed=0, reused=1200, seconds=0.4)


def test_words():
    assert number(-0.0004) == "0.000" and number(None) == "–" and number(-0.5, 1, True) == "−0.5"
    assert [duration(s) for s in (0.44, 38.4, 125, 4320, None)] == [
        "0.4 s",
        "38 s",
        "2 min 05 s",
        "1 h 12 min",
        "–",
    ]
    assert verdict([0.1, 0.0, 0.2]) == "unclear" and verdict([0.1, 0.01, 0.2]) == "better"
    assert verdict([-0.1, -0.2, -0.01]) == "worse" and verdict(None) == "unclear"
