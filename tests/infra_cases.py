"""Reading what lies in infra/: files as they are meant, commands as the programs themselves take them."""

from __future__ import annotations

import shlex
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
INFRA = ROOT / "infra"


def compose() -> dict[str, Any]:
    """compose.yaml with its anchors resolved and what only anchors are for taken out."""
    whole = YAML(typ="safe").load(INFRA / "compose.yaml")
    return {key: value for key, value in whole.items() if not key.startswith("x-")}


def manifests() -> list[dict[str, Any]]:
    """All objects that kustomization.yaml names."""
    named = kustomization()["resources"]
    return [each for name in named for each in YAML(typ="safe").load_all(INFRA / "k8s" / name) if each]


def kustomization() -> dict[str, Any]:
    return YAML(typ="safe").load(INFRA / "k8s/kustomization.yaml")


def assignments(path: Path) -> dict[str, str]:
    """NAME=value lines of a file."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def pods(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name → pod template, those of Ray's groups too."""
    found = {}
    for each in objects:
        spec = each.get("spec", {})
        if each["kind"] in ("Deployment", "Job"):
            found[each["metadata"]["name"]] = spec["template"]
        if each["kind"] == "RayCluster":
            found["ray-head"] = spec["headGroupSpec"]["template"]
            found |= {f"ray-{group['groupName']}": group["template"] for group in spec["workerGroupSpecs"]}
    return found


SECRETS = assignments(INFRA / "example.env")
"""Names of what has to be given, by the environment or a secret."""


@cache
def locked(package: str) -> str:
    """The version of a package in uv.lock."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    return next(each["version"] for each in lock["package"] if each["name"] == package)


def commands(words: list[str]) -> list[list[str]]:
    """The programs that the words of a container start, those of a shell one by one."""
    if words[:2] != ["sh", "-c"]:
        return [words]
    parts = " ".join(words[2].split()).split("&&")
    return [[word for word in shlex.split(part) if word != "exec"] for part in parts]


def parse(words: list[str]) -> None:
    """Have the program's own parser take the words, without running anything. Raises what it says of them."""
    program, *rest = words
    if program == "python":
        if rest[0] == "-c":
            compile(rest[1], "-c", "exec")
            return
        assert rest[0] == "-m" and find_spec(rest[1]) is not None, words
        if rest[1] != "flows.cli":
            assert '__name__ == "__main__"' in Path(find_spec(rest[1]).origin).read_text(), words
            return
        program, rest = "physique", rest[2:]
    if program == "prefect":
        from prefect.cli._app import _app

        _app.parse_args(rest, exit_on_error=False, print_error=False)
        return
    _click(_program(program), program, rest)


def _program(name: str) -> click.Command:
    if name == "mlflow":
        from mlflow.cli import cli
    elif name == "ray":
        from ray.scripts.scripts import cli
    elif name == "physique":
        import typer

        from flows.cli import app

        cli = typer.main.get_command(app)
    else:
        raise AssertionError(f"{name!r} is no program that we start")
    return cli


def _click(command: Any, name: str, rest: list[str], parent: Any = None) -> None:
    """Any command tree of click, typer's own copy of it too."""
    if not hasattr(command, "resolve_command"):
        command.make_context(name, list(rest), parent=parent)
        return
    context = command.make_context(name, list(rest), parent=parent)
    left = [*getattr(context, "_protected_args", []), *context.args]
    name, found, rest = command.resolve_command(context, left)
    _click(found, name, rest, context)
