"""flows → tasks → model, never back; and importing does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN = {
    "model": {"flows", "tasks", "review", "prefect", "ray", "mlflow", "dvc", "pyarrow", "pandas"},
    "tasks": {"flows", "review"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, inside functions too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("room", FORBIDDEN)
def test_nothing_points_back(room):
    found = {str(path): imported(path) & FORBIDDEN[room] for path in sorted((ROOT / room).rglob("*.py"))}
    assert found, f"{room}/ holds no Python file"
    assert not {path: names for path, names in found.items() if names}


def test_the_rule_sees_an_import_inside_a_function(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from flows.mesh import mesh\n    return mesh\n")
    assert imported(file) & FORBIDDEN["tasks"] == {"flows"}


def test_importing_the_command_loads_nothing_heavy():
    code = "import sys, flows.cli; print([m for m in ('torch', 'ray', 'prefect', 'mlflow', 'dvc') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_model_and_tasks_touches_no_disk(tmp_path):
    modules = sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("model", "tasks")
        for path in (ROOT / room).rglob("*.py")
        if path.name not in ("__init__.py", "served.py")  # served.py is what MLflow itself runs
    )
    code = "import importlib\nfor m in " + repr(modules) + ": importlib.import_module(m)"
    bare = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, check=True, env=bare)
    # Prefect makes its own home when it is imported; ours is to leave everything else alone.
    assert {path.name for path in tmp_path.iterdir()} <= {".prefect"}
