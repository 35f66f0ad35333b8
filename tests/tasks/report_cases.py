"""Results as the judge fills them, for the tests of the report: a simulated cohort and a London-like one."""

import io

import numpy as np
from PIL import Image

from tasks.report.contact import Card

HOSTILE = "<script>alert('x')</script>&$a_b$.jpg"
NAN = float("nan")


def picture(width: int = 120, height: int = 160, seed: int = 0, form: str = "JPEG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(out, form)
    return out.getvalue()


def around(mean: float, half: float) -> list[float]:
    return [mean, mean - half, mean + half]


def row(stage, model, dimension, srcc, *, baseline=False, gain=None, against=None, raters=40, photos=186) -> dict:
    """A row of the table, PLCC and accuracy made from SRCC."""
    known = {"stage": stage, "model": model, "baseline": baseline, "dimension": dimension}
    figures = {
        "srcc": around(srcc, 0.031),
        "plcc": around(srcc + 0.017, 0.029),
        "accuracy": around(0.735, 0.022),
    }
    extra = {"against": against} if against else {}
    return known | figures | {"gain": gain, "raters": raters, "photos": photos} | extra


def simulated_results() -> dict:
    """A three-dimension cohort: fine-tuning helps, the labeller's first stage is unclear, posture loses."""
    dimensions = {"mean": 0.0, "appearance": 0.012, "health": 0.041, "posture": -0.053}
    table, curve, night = [], [], []
    for name, shift in dimensions.items():
        for stage, raters in (("pretrain", 6), ("finetune", 40)):
            table.append(row(stage, "generic", name, 0.611 + shift, baseline=True, raters=raters))
        gain = around(0.009, 0.024)
        table.append(row("pretrain", "expert's own", name, 0.620 + shift, gain=gain, against="generic", raters=6))
        table.append(
            row("finetune", "selected expert", name, 0.634 + shift, baseline=True, gain=around(0.023, 0.015))
            | {"against": "generic"}
        )
        gain = around(-0.034, 0.021) if name == "posture" else around(0.027, 0.013)
        table.append(row("finetune", "personal", name, 0.661 + shift, gain=gain, against="selected expert"))
        for ratings, won in ((0, 0.0), (3, 0.004), (10, 0.018), (20, 0.026), (50, 0.047)):
            point = {
                "ratings": ratings,
                "dimension": name,
                "model": "personal",
                "srcc": around(0.634 + won + shift, 0.03),
            }
            expert = around(won, 0.012) if ratings else None
            curve.append(point | {"gain_generic": around(0.023 + won, 0.016), "gain_expert": expert})
        for group, users, moved in (
            ("everyone", 40, 0.011),
            ("promoted", 14, 0.039),
            ("taste drifted", 11, 0.028),
        ):
            before = around(0.655 + shift, 0.033)
            after = around(0.655 + moved + shift, 0.031)
            known = {"group": group, "dimension": name, "before": before, "after": after, "users": users}
            night.append(known | {"gain": around(moved, 0.008)})
    return {
        "simulated": True,
        "cohort": {
            "name": "mannequins",
            "photos": 600,
            "experts": 6,
            "users": 40,
            "labels": 11874,
            "feedback": 812,
        },
        "provenance": {
            "created": "2026-11-24 00:10 UTC",
            "git_commit": "3f6c1d2e9a",
            "prefect_run": "0b0c7a1e-53c9",
            "versions": {
                "python": "3.11.9",
                "torch": "2.15.0",
                "ray": "2.60.0",
                "prefect": "3.8.8",
                "dvc": "3.67.1",
            },
            "dvc": {
                "data/cohort": "a7d0ffb2.dir",
                "data/mesh": "e19c44de.dir",
                "data/embeddings": "90aa0172.dir",
            },
            "models": {
                "physique-personal": "version 2 @champion",
                "physique-expert-e03": "version 1 @champion",
            },
            "params": {
                "cohort": {"photos": 600, "seed": 7},
                "finetune": {"prior": "experts", "steps": 60, "lr": 1e-3},
            },
        },
        "stages": [
            {"name": "body", "seconds": 3.1},
            {"name": "cohort", "seconds": 96.4},
            {"name": "meshnet", "seconds": 71.0},
            {"name": "mesh", "seconds": 58.2},
            {"name": "embed", "seconds": 64.8},
            {"name": "pretrain", "seconds": 83.0},
            {"name": "finetune", "seconds": 61.5},
            {"name": "continual", "seconds": 44.9},
        ],
        "table": table,
        "effort": {
            "rows": [
                {
                    "round": r,
                    "dimension": d,
                    "change": around(1.42 - 0.31 * r + s, 0.11),
                    "changed": 0.81 - 0.1 * r,
                }
                | {"labels": 1240, "baseline": around(1.61 + s, 0.12)}
                for r in (1, 2)
                for d, s in (("appearance", 0.12), ("health", 0.0), ("posture", 0.25))
            ]
        },
        "curve": curve,
        "night": night,
        "gate": {
            "promoted": 14,
            "kept_back": 26,
            "reasons": {"fewer than 8 held-out ratings": 15, "no better than the selected expert": 11},
            "rule": "lower end of the paired interval above zero, against the entry before and the expert",
            "version": "physique-personal version 2",
            "entries": [
                {"user": "u017", "decision": "promoted", "before": 0.612, "after": 0.688, "ratings": 31},
                {"user": "u022", "decision": "kept back", "before": 0.701, "after": 0.694, "ratings": 12},
            ],
        },
        "mesh_error": {"error_mm": around(31.8, 1.9), "baseline_mm": around(58.4, 2.6), "photos": 180}
        | {"extractor": "small-0.1", "precision": 0.983, "recall": 0.971},
        "quarantine": [
            {
                "file": HOSTILE,
                "row": None,
                "field": "photo",
                "reason": "not an image",
                "value": "first bytes 'PK'",
            },
            *(
                {
                    "file": "ratings.csv",
                    "row": 12 + i,
                    "field": "health",
                    "reason": "outside the scale",
                    "value": "77",
                }
                for i in range(9)
            ),
        ],
        "accounting": {
            "photos": {
                "seen": 620,
                "ok": 583,
                "no_person": 18,
                "unreadable": 9,
                "duplicates": 6,
                "quarantined": 4,
            },
            "ratings": {"seen": 11883, "kept": 11874, "quarantined": 9},
        },
    }


def london_results() -> dict:
    """Real portraits: one dimension, no feedback, no truth; what cannot be known comes as NaN or None."""
    unknown = [NAN, NAN, NAN]
    table = [
        row("finetune", "generic", "appearance", 0.6402, baseline=True, raters=300, photos=31),
        row("finetune", "selected expert", "appearance", 0.6431, baseline=True, raters=300, photos=31)
        | {"gain": around(0.0029, 0.0072), "against": "generic"},
        row("finetune", "personal", "appearance", 0.6297, raters=300, photos=31)
        | {"gain": around(-0.0134, 0.0061), "against": "selected expert"},
        row("finetune", "personal", "mean", 0.6297, raters=300, photos=31),
        row("finetune", "personal", "health", NAN) | {"srcc": unknown, "plcc": unknown, "accuracy": unknown},
    ]
    curve = [
        {"ratings": n, "dimension": "appearance", "model": "personal", "srcc": around(0.6431 + g, 0.01)}
        | {"gain_generic": around(g + 0.0029, 0.007), "gain_expert": around(g, 0.006) if n else None}
        for n, g in ((0, 0.0), (10, -0.0134), (50, 0.0031))
    ]
    curve += [{"ratings": 10, "dimension": "posture", "model": "personal", "srcc": unknown, "gain_generic": None}]
    curve[-1]["gain_expert"] = None
    return {
        "simulated": False,
        "cohort": {"name": "london", "photos": np.int64(102), "experts": 8, "users": 300},
        "provenance": {"git_commit": "3f6c1d2e9a", "params": {"data": {"source": "folder", "scale": [1, 7]}}},
        "stages": [
            {"name": "cohort", "seconds": 0.4, "cached": True},
            {"name": "mesh", "seconds": np.float32(12.5)},
        ],
        "table": table,
        "effort": None,
        "curve": curve,
        "night": [],
        "gate": None,
        "mesh_error": {"error_mm": unknown, "baseline_mm": unknown, "photos": 0},
        "quarantine": [],
        "accounting": {"photos": {"seen": 102, "ok": 96, "no_person": 6, "unreadable": 0}},
    }


CARDS = [
    Card(picture(90, 160), "m0001.jpg", scores={"appearance": 6.12, "posture": 4.4}, rated={"appearance": 7.0}),
    Card(picture(320, 90, 1, "PNG"), HOSTILE, lines=("rater u001",), scores={"appearance": 3.3}),
    Card(None, "broken.jpg", status="unreadable"),
    Card(b"not a picture", "lies.jpg"),
]
