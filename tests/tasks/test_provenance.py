"""Hashes of a stage's inputs, as dvc.lock has them."""

from tasks.provenance import dvc_hashes

YAML = """stages:
  cohort:
    outs: [data/cohort]
  nights:
    outs:
      - data/nights:
          persist: true
  learn:
    deps: [data/cohort/labels.parquet, data/cohort/photos, data/nights, model/bank.py]
"""
LOCK = """stages:
  cohort:
    outs:
    - {path: data/cohort, md5: aa.dir}
  nights:
    outs:
    - {path: data/nights, md5: bb.dir}
"""


def test_an_input_inside_an_output_counts_as_that_output(tmp_path):
    (tmp_path / "dvc.yaml").write_text(YAML)
    assert dvc_hashes("learn", tmp_path) == {}
    (tmp_path / "dvc.lock").write_text(LOCK)
    assert dvc_hashes("learn", tmp_path) == {"data/cohort": "aa.dir", "data/nights": "bb.dir"}
