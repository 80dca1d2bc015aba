"""Imports point one way, and the core needs nothing but its own requirements."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "snail": set(),
    "envs": set(),
    "baselines": {"snail", "envs"},
    "runs": {"snail", "envs", "baselines"},
}
OURS = {*MAY_IMPORT, "tests"}
OPTIONAL = ("wandb", "trackio", "matplotlib", "mpl_toolkits", "PIL", "learn2learn", "torchvision", "gym")
OPTIONAL += ("ray", "submitit", "pandas", "playwright", "nbclient", "mkdocs")


def imported(source: str, package: str = "") -> set[str]:
    """Top-level names of all that a module imports, inside functions too; those of relative imports are ``package``."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(package if node.level else (node.module or "").split(".")[0])
    return found


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_imports_are_found():
    """Guards the tests below against a reader that sees nothing."""
    source = "import runs.tasks as t, os\ndef f():\n    from baselines.x import y\nfrom . import z"
    assert imported(source, "snail") == {"runs", "os", "baselines", "snail"}
    assert all(len(modules(package)) >= 4 for package in MAY_IMPORT)


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package):
    allowed = MAY_IMPORT[package] | {package}
    wrong = {
        str(path.relative_to(ROOT)): sorted(forbidden)
        for path in modules(package)
        if (forbidden := imported(path.read_text(encoding="utf-8"), package) & OURS - allowed)
    }
    assert not wrong


LAYERS = (
    "system",
    "config",
    "agents",
    "tasks",
    "algorithms",
    "catalogue",
    "extensions",
    "results",
    "tracking",
    "training",
    "loading",
    "launch",
    "dashboard",
    "bench",
    "commands",
    "cli",
    "generate",
)
"""What ``runs`` consists of: each imports only what stands before it."""


def imports(path: Path) -> set[str]:
    """Dotted names of the modules of ours that a module imports, inside functions too, not for types alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inside)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inside in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def test_layers_of_runs_point_one_way():
    assert {path.stem if path.suffix else path.name for path in (ROOT / "runs").iterdir()} >= set(LAYERS)
    wrong = []
    for path in modules("runs"):
        layer = path.relative_to(ROOT / "runs").parts[0].removesuffix(".py")
        if layer == "__init__":
            continue  # offers runs.load
        for name in imports(path):
            parts = name.split(".")
            ours = parts[0] == "runs" and len(parts) > 1 and parts[1] in LAYERS
            if ours and LAYERS.index(parts[1]) > LAYERS.index(layer):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_modules_import_each_other_in_a_circle():
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in MAY_IMPORT
        for path in modules(package)
    }
    graph = {name: (imports(path) & set(names)) - {name} for name, path in names.items() if name != "runs"}
    sorter = graphlib.TopologicalSorter(graph)
    sorter.prepare()  # raises CycleError, which names them


def test_the_model_needs_torch_alone():
    for path in modules("snail"):
        assert imported(path.read_text(encoding="utf-8"), "snail") <= {"torch", "snail"} | sys.stdlib_module_names


CORE_ONLY = """
import importlib, pkgutil, sys

class Without:
    '''A finder that does not find the optional packages, as if they were not installed.'''
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {optional!r}:
            return None
        return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in {optional!r}:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(name + " is still there")

for package in {packages!r}:
    for module in pkgutil.walk_packages([package], package + "."):
        if not module.name.endswith("__main__") and ".published" not in module.name:
            importlib.import_module(module.name)

from runs.cli import run

for tracker in ("none", "auto"):
    if code := run([*sys.argv[2:], "--tracker", tracker, "--results", sys.argv[1] + "/" + tracker]):
        raise SystemExit(code)
"""


@pytest.mark.slow
def test_training_needs_no_optional_package(tmp_path):
    script = CORE_ONLY.format(optional=OPTIONAL, packages=tuple(MAY_IMPORT))
    options = "--budget smoke --agent gru --model.hidden-size 8 --task.arms 3 --task.pulls 4 --training.steps 2"
    options += " --training.batch-size 16 --test.trials 50 --threads 1"
    command = [sys.executable, "-c", script, str(tmp_path), "train", "bandit/n10-k5", *options.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for tracker in ("none", "auto"):
        assert len(list((tmp_path / tracker).rglob("result.json"))) == 1
