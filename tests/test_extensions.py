"""Files of the user's add environments, agents and experiments, and mistakes in them are told in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.bandits import Thompson
from envs.fewshot.datasets.image_folder import ImageFolder
from envs.fewshot.datasets.registry import register_dataset
from envs.fewshot.datasets.storage import DataError
from runs.agents import GRUConfig, SequenceAgent
from runs.catalogue import CATALOGUE, Experiment, RunConfig, as_catalogued, find, meta_rl, register, register_agent
from runs.cli import run
from runs.config.serialization import from_dict, to_dict
from runs.extensions import VARIABLE, load_extensions, take_extensions
from runs.results.records import read_results
from runs.results.tables import register_row
from runs.system.errors import RunError
from runs.tasks import BanditTask, Task

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


@pytest.fixture(autouse=True)
def apart(own_catalogue, monkeypatch, tmp_path):
    """Every test works in a folder of its own, without extensions."""
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.chdir(tmp_path)


# ----- the examples of the documents, for real


QUICK = "--budget smoke --tracker none --threads 1 --training.steps 2 --test.trials 50"
RUNS = {
    "dark_room.py": ("dark-room/n3", "snail", f"{QUICK} --training.batch-size 16"),
    "fast_weights.py": ("bandit/n10-k5", "fast-weights", f"{QUICK} --training.batch-size 16 --model.size 8"),
    "few_arms.py": ("few-arms/n20-k3", "snail-narrow", f"{QUICK} --training.batch-size 16"),
    "pole_lengths.py": ("pole/n3", "gru", f"{QUICK} --training.batch-size 8 --task.max-steps 9"),
    "own_drawings.py": ("drawings/5way", "snail", "--budget smoke --tracker none --threads 1 --test.episodes 50"),
}


@pytest.fixture(autouse=True)
def drawings(monkeypatch, tmp_path_factory) -> Path:
    """A folder of images: dark strokes on white, of other places in each class."""
    image = pytest.importorskip("PIL.Image")
    root = tmp_path_factory.mktemp("drawings")
    for split in ("train", "val", "test"):
        for label in range(6):
            (root / split / f"class-{label}").mkdir(parents=True)
            for n in range(7 + label):
                pixels = np.full((30, 40), 255, np.uint8)
                pixels[4 * label : 4 * label + 4, n : n + 20] = 0
                image.fromarray(pixels).save(root / split / f"class-{label}" / f"{n:02}.{('png', 'jpg')[n % 2]}")
    monkeypatch.setenv("DRAWINGS", str(root))
    return root


def test_every_example_is_run():
    assert {p.name for p in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("file", RUNS)
def test_an_example_is_short(file):
    assert len((EXAMPLES / file).read_text().splitlines()) <= 40


@pytest.mark.parametrize("file", RUNS)
def test_an_example_trains_leaves_a_record_and_evaluates(file, capsys):
    experiment, agent, options = RUNS[file]
    extend = ["--extend", str(EXAMPLES / file)]
    assert run([*extend, "train", experiment, "--agent", agent, *options.split()]) == 0
    result, *_ = read_results([Path("results")])
    assert (result.experiment, result.agent, result.n) == (experiment, agent, 50)
    said = capsys.readouterr().out
    assert f"{experiment} {agent} seed 0: {'accuracy' if 'way' in experiment else 'return'}" in said
    assert run([*extend, "evaluate", str(result.path.parent)]) == 0
    again = capsys.readouterr().out.splitlines()
    assert again[0] in said  # the same number on the same frozen tasks
    assert run([*extend, "list"]) == 0
    listed = capsys.readouterr().out
    assert f"{experiment} " in listed and agent in listed


def test_own_rows_make_a_table_of_their_own_and_add_to_the_papers(capsys):
    extend = ["--extend", str(EXAMPLES / "own_drawings.py")]
    assert run([*extend, "table", "mine"]) == 0
    text = capsys.readouterr().out
    assert text.count("not run") == 3 and "97.4 +- 0.3" in text and "drawings, 5-way 1-shot" in text
    words = ["--run-missing", "--budget", "smoke", "--engine", "process", "--tracker", "none", "--format", "csv"]
    assert run([*extend, "table", "mine", "--agents", "protonet", *words]) == 0
    assert ",97.4" in capsys.readouterr().out
    register_row("3", "as few as 10", "bandit/n10-k5", ("gru",))
    assert run([*extend, "table", "3", "--results", "none"]) == 0
    assert "as few as 10" in capsys.readouterr().out  # there are published records of it
    for row, message in (
        (("3", "N=10 K=5", "bandit/n10-k5"), "table 3 has a row 'N=10 K=5' already"),
        (("4", "x", "bandit/n10-k5", ("nobody",)), "bandit/n10-k5 has no agent nobody"),
        (("4", "x", "nothing/here"), "unknown experiment"),
        (("1", "x", "omniglot/5way", ("snail",), 2), "shots of omniglot/5way must be one of 1, 5, got 2"),
    ):
        with pytest.raises(RunError, match=message):
            register_row(*row)


def test_folders_of_images_are_classes(drawings):
    folder = ImageFolder("drawings", drawings, size=10, invert=True)
    classes = folder.load("val")
    assert classes.images.shape == (6, 7, 1, 10, 10) and classes.images.dtype == torch.uint8
    rows = classes.images.float().mean((1, 2, 4))  # (classes, height): ink is light, where each class has it
    assert rows.argmax(1).tolist() == sorted(rows.argmax(1).tolist()) and rows.min() < 20 < rows.max()
    assert ImageFolder("colour", drawings, channels=3).load("test").images.shape == (6, 7, 3, 28, 28)
    status = folder.status()
    assert status.cached and status.classes == {"train": 6, "val": 6, "test": 6} and status.per_class == 7
    with pytest.raises(DataError, match="there are no classes in"):
        ImageFolder("none", drawings / "nowhere").load("train")
    with pytest.raises(ValueError, match="a data set 'omniglot' exists already"):
        register_dataset("omniglot", folder)
    (drawings / "val" / "class-0" / "00.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"cannot read .*00.png .*; remove or replace it"):
        folder.load("val")
    for path in (drawings / "val" / "class-0").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="class-0 needs at least 2 images"):
        folder.load("val")


def test_an_unknown_data_set_is_named(capsys):
    assert run(["train", "glyphs/5way", "--budget", "smoke", "--task.data", "nothing", "--tracker", "none"]) == 2
    assert "the data set must be one of omniglot, glyphs, mini-imagenet" in capsys.readouterr().err


def test_worker_processes_inherit_extensions(tmp_path):
    """A process that is told nothing but the environment variable reads a run of an extension."""
    config = tmp_path / "config.json"
    take_extensions(["--extend", str(EXAMPLES / "dark_room.py")])
    load_extensions()
    wanted = find("dark-room/n3").config("gru", seed=4)
    config.write_text(json.dumps(to_dict(wanted)))
    script = (
        "import sys; from pathlib import Path; from runs.extensions import load_extensions; load_extensions();"
        "from runs.results.folder import RunFolder, run_path; from runs.training import build_learner;"
        f"config = RunFolder(Path({str(tmp_path)!r})).config(); print(run_path(Path(), config), config.task.episodes)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=EXAMPLES.parents[1])
    assert done.stdout.strip() == "dark-room/n3/gru/full-seed4 3", done.stderr


def test_a_run_of_an_extension_is_read_with_it_alone(capsys):
    extend = ["--extend", str(EXAMPLES / "few_arms.py")]
    train = ["train", "few-arms/n20-k3", "--agent", "thompson", "--budget", "smoke", "--tracker", "none"]
    assert run([*extend, *train]) == 0
    result, *_ = read_results([Path("results")])
    assert result.current and result.as_catalogued and result.path.parent.name == "smoke-seed0"
    del CATALOGUE["few-arms/n20-k3"]
    result, *_ = read_results([Path("results")])  # still a record, no row of a table
    assert result.as_catalogued and not result.current


# ----- what cannot be extended so


def said(capsys, *args: str) -> str:
    """The one line that a command ends with."""
    assert run(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    return error


def test_a_missing_file_is_named(capsys):
    assert "nothing.py is not a Python file" in said(capsys, "--extend", "nothing.py", "list")
    assert "needs a file" in said(capsys, "list", "--extend")


@pytest.mark.parametrize(
    "code, message",
    [
        ("import torch\n1 / 0\n", "bad.py, line 2, fails: ZeroDivisionError: division by zero"),
        ("x = (\n", "bad.py fails: SyntaxError: '(' was never closed, line 1"),
        ("import nothing_of_that_name\n", "No module named 'nothing_of_that_name'"),
        (
            "from runs.catalogue import find, register\n\nregister(find('bandit/n10-k5'))\n",
            "line 3, fails: an experiment bandit/n10-k5 exists already; choose another id",
        ),
    ],
)
def test_a_broken_file_is_named_with_the_line(code, message, capsys):
    Path("bad.py").write_text(code)
    for _ in range(2):  # what failed is not half there the next time
        assert message in said(capsys, "--extend", "bad.py", "list")


def test_two_files_of_one_name_are_refused(capsys):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "mine.py").write_text("")
    assert "two extensions are called mine.py" in said(capsys, "--extend", "a/mine.py", "--extend=b/mine.py", "list")


def test_extensions_are_loaded_once_and_wherever_the_option_stands():
    Path("mine.py").write_text("import os\nos.environ['TIMES'] = os.environ.get('TIMES', '') + 'x'\n")
    os.environ.pop("TIMES", None)
    try:
        assert take_extensions(["list", "--extend", "mine.py", "--help", "--extend=mine.py"]) == ["list", "--help"]
        assert os.environ[VARIABLE] == str(Path("mine.py").resolve())
        load_extensions()
        load_extensions()
        assert os.environ["TIMES"] == "x"
    finally:
        os.environ.pop("TIMES", None)


def copy_of(name: str = "bandit/n10-k5", **changes) -> Experiment:
    return replace(find(name), **{"id": "mine/copy", **changes})


@pytest.mark.parametrize(
    "name", ["", "mine", "mine/", "/mine", "../x", "mine/..", "mine/a/b", "Mine/x", "mine/x y", "a/b\n"]
)
def test_ids_that_are_no_folders_are_refused(name):
    with pytest.raises(RunError, match="id must be family/name"):
        register(copy_of(id=name))
    assert name not in CATALOGUE


def test_agents_that_are_no_folders_are_refused():
    with pytest.raises(RunError, match=r"an agent's name must be .*'\.\.'"):
        register(copy_of(agents={"..": GRUConfig()}))
    with pytest.raises(RunError, match="an agent's name must be"):
        register_agent("a/b", GRUConfig(), "bandit/*")


def test_experiments_that_cannot_be_run_are_refused():
    usual = find("bandit/n10-k5")
    with pytest.raises(RunError, match="mine/copy has no agents"):
        register(copy_of(agents={}))
    with pytest.raises(RunError, match="budgets must be some of full, demo, short, smoke, full among them, got smoke"):
        register(copy_of(budgets={"smoke": usual.budgets["smoke"]}))
    with pytest.raises(RunError, match="got full, huge"):
        register(copy_of(budgets={"full": usual.budgets["full"], "huge": usual.budgets["full"]}))
    untuned = replace(usual.budgets["full"], algorithms={"ppo": meta_rl(3)["ppo"]})
    with pytest.raises(
        RunError, match="thompson on mine/copy: the full budget has no algorithm for this agent, got ppo"
    ):
        register(copy_of(agents={"thompson": Thompson()}, budgets={"full": untuned}))
    assert "mine/copy" not in CATALOGUE


@dataclass(frozen=True)
class ListAgent(GRUConfig):
    sizes: tuple = ()


@dataclass
class MeltedAgent(SequenceAgent):
    width: int = 3

    def build(self, role, input_size, output_size, max_len):
        raise NotImplementedError


@pytest.mark.parametrize(
    "agent, message",
    [
        (ListAgent(sizes=([1],)), "mine on bandit/n10-k5.*unhashable"),
        (MeltedAgent(), "mine on bandit/n10-k5.*unhashable"),
        (GRUConfig(hidden_size="many"), "model.hidden_size has no valid value: 'many'"),  # type: ignore[arg-type]
    ],
    ids=lambda x: type(x).__name__,
)
def test_agents_that_do_not_survive_their_folder_are_refused(agent, message):
    with pytest.raises(RunError, match=message):
        register_agent("mine", agent, "bandit/n10-k5")
    assert "mine" not in find("bandit/n10-k5").agents


def test_agents_are_added_to_all_or_none():
    register_agent("gru-8", GRUConfig(8), "bandit/n10-k5", "mdp/*")
    assert [e.id for e in CATALOGUE.values() if "gru-8" in e.agents] == [
        "bandit/n10-k5", "mdp/n10", "mdp/n25", "mdp/n50", "mdp/n75", "mdp/n100",
    ]  # fmt: skip
    assert as_catalogued(find("mdp/n10").config("gru-8"))
    with pytest.raises(RunError, match="bandit/n10-k5 already has an agent gru-8"):
        register_agent("gru-8", GRUConfig(8), "bandit/*")
    assert "gru-8" not in find("bandit/n10-k10").agents
    with pytest.raises(RunError, match=r"unknown experiment 'bandits/\*'"):
        register_agent("gru-9", GRUConfig(9), "bandits/*")


# ----- fields that hold whatever derives from their type


@dataclass(frozen=True)
class WiderTask(BanditTask):
    """A task of the tests."""

    spread: float = 1.0
    """How wide."""


def test_a_new_class_is_read_back_and_its_fields_are_options(capsys):
    budgets = {"full": replace(find("bandit/n10-k5").budgets["full"], task=WiderTask(3, 4))}
    register(copy_of(budgets=budgets))
    config = find("mine/copy").config("snail")
    assert from_dict(RunConfig, json.loads(json.dumps(to_dict(config)))) == config
    assert type(from_dict(Task, to_dict(config.task))) is WiderTask
    with pytest.raises(SystemExit):
        run(["train", "mine/copy", "--help"])
    shown = capsys.readouterr().out
    assert "A task of the tests." in shown and "How wide. (default: 1.0)" in shown
    data = to_dict(config)
    data["task"]["type"] = "NoTask"
    with pytest.raises(RunError, match=r"config.task.type must be one of .*WiderTask.*, got 'NoTask'; .*--extend FILE"):
        from_dict(RunConfig, data)


def test_bases_cannot_be_read():
    data = to_dict(find("bandit/n10-k5").config("gru"))
    for name in ("SequenceAgent", "_RecurrentConfig", "MetaRLTraining", "RunConfig"):
        data["model"]["type"] = name
        with pytest.raises(RunError, match=r"config\.model\.type must be one of"):
            from_dict(RunConfig, data)


def test_two_classes_of_one_name_are_told_apart_by_renaming():
    def make(module: str) -> type:
        return dataclass(frozen=True)(type("Twin", (Task,), {"__module__": module, "__annotations__": {}}))

    kept = [make("one"), make("one")]  # as a notebook does that runs a cell twice
    assert type(from_dict(Task, {"type": "Twin"})) is kept[1]
    kept.append(make("two"))
    with pytest.raises(RunError, match="'Twin' is the name of classes in one and two; rename one"):
        from_dict(Task, {"type": "Twin"})


def test_runs_of_an_extension_can_be_launched_in_workers(tmp_path):
    """Which are other processes, and know nothing of it at first."""
    words = ["--extend", "docs/examples/few_arms.py", "sweep", "few-arms/n20-k3", "--agents", "thompson"]
    options = ["--budget", "smoke", "--workers", "1", "--tracker", "none", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "runs.cli", *words, *options],
        cwd=EXAMPLES.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "few-arms/n20-k3 thompson seed 0: return" in done.stdout
