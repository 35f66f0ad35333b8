"""What `physique review …` says in one line, where it cannot go on, and how it counts."""

import socket

import pytest
from typer.testing import CliRunner

from flows.cli import app
from review.command import ask_for_port
from tasks.printable import counted
from tasks.tables import read_shards


@pytest.fixture
def review(tmp_path, monkeypatch):
    """Runs a command; gives its exit code and what it says."""
    monkeypatch.setenv("PHYSIQUE_REVIEWS", f"sqlite:///{tmp_path}/reviews.db")

    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["review", *words])
        return done.exit_code, done.output

    return run


def test_a_port_in_use_is_one_line_and_nothing_is_made(review, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        line = f"physique: 127.0.0.1, port {port}: is in use; name another with --port\n"
        assert review("serve", "--port", port, "--data", str(tmp_path)) == (1, line)
        assert review("demo", "--port", port, "--data", str(tmp_path), "--store", str(tmp_path / "demo.db")) == (1, line)
    code, said = review("serve", "--host", "192.0.2.1", "--data", str(tmp_path))  # an address of nobody's
    assert code == 1 and said.startswith("physique: 192.0.2.1, port 8321: cannot be listened on (")
    assert not list(tmp_path.iterdir())
    ask_for_port("127.0.0.1", int(port))  # free again


def test_links_are_counted_and_who_never_had_one_is_told(review):
    assert review("revoke", "nobody") == (1, "physique: revoke: nobody has never had a link; these have: nobody yet\n")
    assert review("invite", "anna", "--role", "expert")[0] == 0
    assert review("revoke", "nobody") == (1, "physique: revoke: nobody has never had a link; these have: anna\n")
    assert review("revoke", "anna") == (0, "1 link revoked\n")
    assert review("revoke", "anna") == (0, "0 links revoked\n")


def test_one_is_singular():
    assert [counted(n, "photo") for n in (0, 1, 2, 1200)] == ["0 photos", "1 photo", "2 photos", "1,200 photos"]


@pytest.mark.parametrize(
    ("folder", "run"),
    [
        ("embeddings", "`uv run dvc repro embed`"),
        ("mesh", "`uv run dvc repro mesh`"),
        ("cohort/photos", "`uv run dvc repro cohort`"),
        ("elsewhere", r"the stage that writes it \(`uv run dvc repro`\)"),
    ],
)
def test_where_shards_are_missing_the_stage_is_named(tmp_path, folder, run):
    with pytest.raises(FileNotFoundError, match=rf"{folder} holds no \*\.parquet shard; run {run}$"):
        read_shards(tmp_path / folder)
