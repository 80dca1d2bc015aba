"""What the documents say can be done: their code runs, their commands and files exist."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from runs.cli import run
from runs.commands import COMMANDS
from runs.extensions import VARIABLE, take_extensions

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    """All fenced code of a language in the documents."""
    fences = [re.findall(r"^```(\w*)\n(.*?)^```$", d.read_text(), re.S | re.M) for d in DOCUMENTS]
    return [code for found in fences for name, code in found if name == language]


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_runs(code, own_catalogue):
    exec(compile(code, "README", "exec"), {})


def test_the_shapes_in_the_readme_are_right():
    code = next(c for c in blocks("python") if "SNAIL(" in c)  # the README is the first
    names: dict = {}
    exec(compile(code, "README", "exec"), names)
    assert names["y"].shape == (2, 100, 5)
    assert names["y_60"].shape == (2, 5)
    assert names["alternatives"].shape == (2, 15, 5)


def test_every_command_exists(capsys, monkeypatch, tmp_path, own_catalogue):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    commands = [line.split("#")[0] for code in blocks("sh") for line in code.splitlines() if line.startswith("snail ")]
    assert len(commands) > 5
    for command in commands:
        os.environ[VARIABLE] = ""  # a command knows its own extensions only
        _, *said = shlex.split(command)
        name = take_extensions(said)[0]
        assert name in COMMANDS, command
        if name == "evaluate":
            continue  # needs a run
        with pytest.raises(SystemExit) as left:  # --help parses all that stands before it
            run([*said, "--help"])
        assert left.value.code == 0, command
    capsys.readouterr()


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_the_folder_picture_is_the_tree():
    picture = next(code for code in blocks("") if code.startswith("snail/"))
    folders = re.findall(r"^(\w+)/", picture, re.M)
    tracked = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    assert set(folders) <= tracked


def test_options_named_in_the_reproduction_notes_exist(capsys):
    from runs.commands.training import Train
    from runs.config.command_line import option_names

    known = set()
    on_bandits = (f"bandit/n10-k5/{agent}" for agent in ("snail", "lstm", "transformer"))
    for named in ("omniglot/5way", "omniglot/5way/maml", "mdp/n10/snail", *on_bandits):
        known |= set(option_names(Train.defaults([named])))
    text = (ROOT / "docs" / "reproduction.md").read_text()
    options = re.findall(r"--((?:training|model|task|test)\.[\w.-]+)", text)
    assert options
    for option in options:
        section, name = option.rsplit(".", 1)
        assert option in known or f"{section}.{name.removeprefix('no-')}" in known, option


def test_files_named_in_the_notes_exist():
    for document in DOCUMENTS:
        for name in re.findall(r"`((?:snail|envs|baselines|runs|tests)/[\w/]+\.py)`", document.read_text()):
            assert (ROOT / name).exists(), name


def test_every_published_number_has_its_samples():
    from runs.results.records import PUBLISHED, read_results

    results = read_results([PUBLISHED])
    assert len(results) > 100
    for r in results:
        samples = r.samples()
        assert samples is not None, r.path
        assert abs(samples.mean(dtype="float64") - r.mean) < 1e-4 * max(1, abs(r.mean)), r.path


def test_the_demos_table_is_of_what_the_demo_runs():
    from runs.commands.demo import AGENTS, BANDIT, OMNIGLOT

    printed = (ROOT / "docs/results/index.md").read_text(encoding="utf-8").partition("## Output of `make demo`")[2]
    rows = re.findall(r"^\| (\S.*?) \| (\w+) \| .*\| demo[^|]*\|$", printed, re.M)
    expected = {BANDIT: "N=10 K=5", OMNIGLOT: "5-way 1-shot only"}
    assert sorted(rows) == sorted((expected[e], agent) for e in expected for agent in AGENTS[e])
