"""Mirrors: what the real dashboards have of a run, after interruptions and kills, and what they cannot do to it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_runs import BANDIT, STEPS, assert_same_run, go, quicken
from wandb_files import records

import runs.tracking
import runs.training
from runs.agents import SNAILConfig
from runs.algorithms.ppo import PPOLearner
from runs.cli import run
from runs.config.serialization import flat, to_dict
from runs.results.folder import RunFolder
from runs.system.errors import Interrupted, RunError
from runs.tracking import Tracker, open_tracker
from runs.tracking.dashboards import Position, Run, Wandb, wandb_mode
from runs.tracking.follow import Positions, held, mirror_file
from runs.tracking.follow import metrics as lines_of
from runs.tracking.labels import Labels

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent
ATTENDS = replace(BANDIT, agent="snail", model=SNAILConfig())
BOTH = "wandb+trackio"


@pytest.fixture(autouse=True)
def at_home(monkeypatch, tmp_path_factory):
    """Nobody has logged in to anything, and however busy the machine is, mirrors are waited for."""
    quicken(monkeypatch)
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_", "HF_"))]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("CACHE", "CONFIG", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(home / name))
    monkeypatch.setattr(runs.tracking, "PATIENCE", 120.0)


@pytest.fixture
def dashboards() -> None:
    pytest.importorskip("wandb")
    if importlib.util.find_spec("trackio") is None:
        pytest.skip("needs trackio")


def in_place(results: Path, name: str = "run") -> Path:
    """A folder where a tiny run's would be among all results."""
    return results / BANDIT.experiment / "gru" / name


def position(folder: Path, name: str) -> Position:
    """How far a dashboard has the run where it would go now."""
    return Positions(name, Run.read(folder)).here


class Kept:
    """What a dashboard has of the runs: by id, its lines of metrics by step, in order, and the rest."""

    def __init__(self) -> None:
        self.lines: defaultdict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
        self.media: defaultdict[str, set[str]] = defaultdict(set)
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.about: dict[str, tuple[str, ...]] = {}
        self.filed: dict[str, tuple[str, list[str], str]] = {}
        self.axes: dict[str, str] = {}


def wandb_has(folder: Path) -> Kept:
    """From the files that wandb leaves offline."""
    kept = Kept()
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        name = path.stem.removeprefix("run-")
        for r in records(path):
            if r.HasField("run"):
                kept.about[name] = (r.run.project, r.run.run_group, r.run.job_type, r.run.display_name)
                kept.config |= {item.key: json.loads(item.value_json) for item in r.run.config.update}
                kept.filed[name] = (r.run.entity, list(r.run.tags), r.run.notes)
            if r.HasField("metric"):
                kept.axes[r.metric.glob_name or r.metric.name] = r.metric.step_metric
            if r.HasField("summary"):
                kept.summary |= {item.key or item.nested_key[0]: item.value_json for item in r.summary.update}
            if r.HasField("history"):
                values = {tuple(i.nested_key) or (i.key,): json.loads(i.value_json) for i in r.history.item}
                kept.media[name] |= {k[0] for k, v in values.items() if k[1:] == ("_type",) and v == "image-file"}
                values = {k[0]: v for k, v in values.items() if k[0][0] != "_" and k[0] not in kept.media[name]}
                if values:
                    kept.lines[name].append((r.history.step.num, values))
    return kept


TRACKIO_READER = """
import json, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
found = []
for run in trackio.Api().runs("snail"):
    found.append([run.id, run.name, run.config, SQLiteStorage.get_logs("snail", run.name, run_id=run.id)])
print("\\n" + json.dumps(found))
"""


def trackio_has(folder: Path) -> Kept:
    """From the database, through trackio's own reader: in a process, because it knows one database alone."""
    of = Run.read(folder)
    environment = {**os.environ, "TRACKIO_DIR": str(of.results / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", TRACKIO_READER], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    kept = Kept()
    for name, title, config, logs in json.loads(done.stdout.splitlines()[-1]):
        if title != of.name:
            continue
        kept.about[name] = ("snail", config["_Group"], title)
        kept.config |= config
        for line in logs:
            step = line.pop("step")
            kept.media[name] |= {k for k, v in line.items() if isinstance(v, dict) and v["_type"] == "trackio.image"}
            values = {k: v for k, v in line.items() if k != "timestamp" and k not in kept.media[name]}
            numbers = {k: v for k, v in values.items() if k.startswith("test/")}
            kept.summary |= numbers
            if len(values) > len(numbers):
                kept.lines[name].append((step, {k: v for k, v in values.items() if k not in numbers}))
    return kept


HAS = {"wandb": wandb_has, "trackio": trackio_has}


def metrics(folder: Path) -> list[tuple[int, dict[str, Any]]]:
    return [(line["update"], line) for line in RunFolder(folder).metrics()]


def assert_has(kept: Kept, folder: Path, name: str, exactly: bool = True) -> str:
    """The dashboard has one run, with every step once and the values that were logged; returns its id."""
    (identity,) = kept.lines
    assert identity == position(folder, name).id
    expected, found = metrics(folder), kept.lines[identity]
    assert [step for step, _ in found] == [step for step, _ in expected] == list(range(1, STEPS + 1))
    for (_, values), (_, line) in zip(found, expected, strict=True):
        assert set(values) == set(line)
        timed = () if exactly else tuple(k for k in line if k.startswith("time/"))
        assert {k: v for k, v in values.items() if k not in timed} == {k: v for k, v in line.items() if k not in timed}
    return identity


# ----- what the real ones have


def test_both_dashboards_have_the_whole_run(dashboards, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(runs.training, "PICTURES_AFTER", 0.0)
    folder = tmp_path / BANDIT.experiment / "snail" / "smoke-seed1"
    (number,) = go(ATTENDS, folder, BOTH)["results"]
    name = f"{BANDIT.experiment}/snail/smoke-seed1"
    kept = wandb_has(folder)
    identity = assert_has(kept, folder, "wandb")
    assert kept.about == {identity: ("snail", f"{BANDIT.experiment}/snail/smoke", "snail", name)}
    assert kept.media[identity] == {"curve", "attention/layer-1"}
    assert {k: v for k, v in kept.config.items() if k != "_wandb"} == flat(to_dict(ATTENDS))
    numbers = {"test/return": number["mean"], "test/return_ci95": number["ci95"], "test/return_n": number["n"]}
    assert {k: json.loads(kept.summary[k]) for k in numbers} == numbers
    kept = trackio_has(folder)
    identity = assert_has(kept, folder, "trackio")
    assert kept.about == {identity: ("snail", f"{BANDIT.experiment}/snail/smoke", name)}
    assert kept.media[identity] == {"curve", "attention/layer-1"}
    assert {k: v for k, v in kept.config.items() if k[0] != "_"} == flat(to_dict(ATTENDS))
    assert kept.summary == numbers


def test_runs_are_filed_as_options_and_variables_say(dashboards, tmp_path, monkeypatch):
    """Options come before wandb's own variables; `snail track push` knows them later."""
    monkeypatch.setenv("WANDB_PROJECT", "of-the-variable")
    monkeypatch.setenv("WANDB_TAGS", "a, b")
    monkeypatch.setenv("WANDB_NOTES", "some notes")
    folder = in_place(tmp_path)
    go(BANDIT, folder, BOTH, labels=Labels.given(project="mine", entity="", group="g", name="n", tags=(), notes=None))
    kept, id = wandb_has(folder), position(folder, "wandb").id
    assert kept.about[id] == ("mine", "g", "gru", "n") and kept.filed[id][1:] == (["a", "b"], "some notes")
    families = {f"{family}/*": "env_steps" for family in ("train", "validation", "time", "diagnostics")}
    assert {k: v for k, v in kept.axes.items() if v} == families
    assert Labels.of_run(folder) == Labels("mine", "", "g", "n", ("a", "b"), "some notes")
    assert run(["track", "push", str(folder)]) == run(["track", "push", str(folder), "--to", "trackio"]) == 0
    assert list(wandb_has(folder).about.values()) == [("mine", "g", "gru", "n")]
    # to another project all is sent
    assert run(["track", "push", str(folder), "--project", "other"]) == 0
    assert {about[0] for about in wandb_has(folder).about.values()} == {"other"}  # the same run, sent later
    assert len(list(folder.glob("wandb/offline-run-*"))) == 3  # one more for the picture that the first push drew


def test_the_options_of_train_reach_the_tracker(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr("runs.training.open_tracker", lambda *a: seen.append(a[-1]) or Tracker([], tmp_path, "id"))
    words = ["--training.steps", "1", "--training.batch-size", "8", "--test.trials", "50", "--results", str(tmp_path)]
    filed = ["--project", "p", "--entity", "e", "--group", "g", "--tags", "x", "y", "--notes", "n"]
    assert run(["train", "bandit/n10-k5", *words, *filed, "--name", "one"]) == 0
    sweep = ["--set", "training.steps=1", "--set", "training.batch-size=8", "--set", "test.trials=50", "--seeds", "1"]
    assert run(["sweep", "bandit/n10-k5", *sweep, *filed, "--results", str(tmp_path), "--engine", "process"]) == 0
    assert seen == [Labels("p", "e", "g", "one", ("x", "y"), "n"), Labels("p", "e", "g", "", ("x", "y"), "n")]


def test_runs_are_pushed_by_name(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    go(BANDIT, in_place(tmp_path / "results"))
    assert run(["track", "push", f"{BANDIT.experiment}/gru", "--to", "tensorboard"]) == 0
    assert f"sent {STEPS} lines of metrics" in capsys.readouterr().out


def test_tensorboard_has_the_whole_run(tmp_path, monkeypatch):
    """Through its own reader, after a stop and a resume; what is pushed later is the same."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = in_place(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            go(BANDIT, folder, "tensorboard")
    record = go(BANDIT, folder, "tensorboard", resume=True)
    read = EventAccumulator(str(folder / "tensorboard"))
    read.Reload()
    for name in metrics(folder)[0][1]:
        expected = [(step, pytest.approx(line[name])) for step, line in metrics(folder)]
        assert [(e.step, e.value) for e in read.Scalars(name)] == expected
    (tested,) = read.Scalars("test/return")
    assert tested.value == pytest.approx(record["results"][0]["mean"])
    assert run(["track", "push", str(folder), "--to", "tensorboard"]) == 0


def stop_at(patch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    update = PPOLearner.update

    def changed(self, number):
        if number == step:
            act()
        return update(self, number)

    patch.setattr(PPOLearner, "update", changed)


def test_a_stopped_run_goes_on_under_its_id(dashboards, tmp_path):
    folder = in_place(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            go(BANDIT, folder, BOTH)
    before = [position(folder, name) for name in ("wandb", "trackio")]
    assert [p.step for p in before] == [3, 3] and [p.finished for p in before] == [None, None]
    go(BANDIT, folder, BOTH, resume=True)
    assert assert_has(wandb_has(folder), folder, "wandb") == before[0].id
    assert assert_has(trackio_has(folder), folder, "trackio") == before[1].id


KILLED = """
import os, signal, sys
from pathlib import Path
import pytest, torch
from tiny_runs import BANDIT, go, quicken
import runs.training
from runs.algorithms.ppo import PPOLearner

torch.set_num_threads(1)
update = PPOLearner.update

def dies(self, number):
    if number == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, number)

with pytest.MonkeyPatch.context() as patch:
    quicken(patch)
    patch.setattr(runs.training, "CHECKPOINT_SECONDS", float(sys.argv[3]))
    patch.setattr(PPOLearner, "update", dies)
    go(BANDIT, Path(sys.argv[1]), "wandb+trackio")
"""


@pytest.mark.parametrize("interval", [-1.0, 1e9], ids=["with a checkpoint", "before the first checkpoint"])
def test_a_killed_run_has_every_step_once(dashboards, tmp_path, interval):
    """What was logged after the last checkpoint is logged again, and mirrored once."""
    folder = in_place(tmp_path)
    path = os.pathsep.join([str(TESTS), *sys.path])
    command = [sys.executable, "-c", KILLED, str(folder), "4", str(interval)]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    go(BANDIT, folder, BOTH, resume=True)
    assert_has(wandb_has(folder), folder, "wandb", exactly=False)
    assert_has(trackio_has(folder), folder, "trackio", exactly=False)


def test_killed_mirrors_lose_nothing_for_good(dashboards, tmp_path, monkeypatch):
    """As when the whole machine goes down: what they had not written yet, the next start sends."""
    opened: list[Tracker] = []
    real = open_tracker
    monkeypatch.setattr(runs.training, "open_tracker", lambda *a: opened.append(real(*a)) or opened[-1])

    def kill():
        until = time.monotonic() + 60  # they are at work, whatever they have written of it
        while time.monotonic() < until and not all(position(folder, n).id for n in ("wandb", "trackio")):
            time.sleep(0.05)
        time.sleep(0.3)
        for mirror in opened[-1]._followers.values():
            os.killpg(mirror.pid, signal.SIGKILL)
        signal.raise_signal(signal.SIGINT)

    folder = in_place(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3, kill)
        with pytest.raises(Interrupted):
            go(BANDIT, folder, BOTH)
    go(BANDIT, folder, BOTH, resume=True)
    assert_has(wandb_has(folder), folder, "wandb")
    assert_has(trackio_has(folder), folder, "trackio")


def test_what_was_kept_before_sessions_were_recorded_stays(tmp_path, monkeypatch):
    """Of a position without sessions nothing counts as left by a killed sender, now or later."""
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "x", "agent": "y", "task": {}}))
    kept = tmp_path / "wandb" / "offline-run-20260101_000000-abc"
    kept.mkdir(parents=True)
    (kept / "run-abc.wandb").write_text("")
    wandb = pytest.importorskip("wandb")
    monkeypatch.setattr(wandb, "init", lambda **options: SimpleNamespace(define_metric=lambda *a, **o: None))
    position = Position(id="abc", step=3)
    for _ in range(2):  # the first sender is killed
        Wandb(Run.read(tmp_path), "abc", position)
        assert kept.exists() and position.sessions == [kept.name]
    left = kept.with_name("offline-run-20260102_000000-abc")
    left.mkdir()
    Wandb(Run.read(tmp_path), "abc", position)
    assert kept.exists() and not left.exists()


def test_an_overwritten_run_is_a_new_one(dashboards, tmp_path):
    folder = in_place(tmp_path)
    go(replace(BANDIT, seed=2), folder, "trackio")
    first = position(folder, "trackio").id
    go(BANDIT, folder, "trackio", overwrite=True)
    kept = trackio_has(folder)
    assert kept.lines.pop(first)[0][1]["train/loss"] != metrics(folder)[0][1]["train/loss"]
    assert_has(kept, folder, "trackio")


NO_NETWORK = """
import os, sys
def told(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo"):
        with open(os.environ["EVENTS"], "a") as file:
            file.write(f"{event} {arguments}\\n")
with open(os.environ["EVENTS"], "a") as file:
    file.write("watched\\n")
sys.addaudithook(told)
"""


def test_trackio_neither_calls_nor_listens(dashboards, tmp_path, monkeypatch):
    """Not even where somebody has logged in and set up a server for other projects."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("EVENTS", str(tmp_path / "events"))
    for name, value in {"HF_TOKEN": "hf_x", "TRACKIO_SPACE_ID": "me/mine", "TRACKIO_SERVER_URL": "http://x"}.items():
        monkeypatch.setenv(name, value)
    folder = in_place(tmp_path / "results")
    go(BANDIT, folder, "trackio")
    assert (tmp_path / "events").read_text() == "watched\n"
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name)
    assert_has(trackio_has(folder), folder, "trackio")


# ----- afterwards


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_pushing_sends_what_is_not_there_yet(dashboards, tmp_path, capfd, name):
    folders = [in_place(tmp_path, n) for n in ("one", "two")]
    go(BANDIT, folders[0])
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(Interrupted):
            go(BANDIT, folders[1])

    def push(*words: str) -> list[str]:
        capfd.readouterr()
        assert run(["track", "push", str(tmp_path), "--to", name, *words]) == 0
        return capfd.readouterr().out.splitlines()

    def kept() -> Kept:
        return HAS[name](folders[0])

    first = push()
    assert first[0] == f"{folders[0]}: sent {STEPS} lines of metrics up to update {STEPS}, the final numbers, 1 picture"
    assert first[1] == f"{folders[1]}: sent 3 lines of metrics up to update 3"
    assert first[2].startswith("kept offline; once you have logged in: wandb sync" if name == "wandb" else "look at it")
    assert all(word in first[2] for word in (str(tmp_path), "wandb sync" if name == "wandb" else "trackio show"))
    lines, identity = kept().lines, position(folders[0], name).id
    assert lines[identity] == metrics(folders[0])
    assert "curve" in kept().media[identity] and "test/return_ci95" in kept().summary
    assert push() == [f"{f}: {name} has all of it already; --again uploads it anew" for f in folders]
    assert kept().lines == lines
    go(BANDIT, folders[1], name, resume=True)  # goes on where the push has ended
    assert_has(HAS[name](folders[1]), folders[1], name)
    assert push("--again")[0] == first[0]
    again = position(folders[0], name).id
    assert again != identity and kept().lines[again] == kept().lines[identity] == metrics(folders[0])


ONLINE = """
import json, os, wandb

class Run:
    summary = {}

    def __init__(self, where):
        self.where, self.starting_step = where, 0
        if os.path.exists(where):
            with open(where) as file:
                self.starting_step = max((json.loads(line)[0] for line in file), default=-1) + 1

    def log(self, values, step):
        with open(self.where, "a") as file:
            file.write(json.dumps([step, [k for k in values if k != "curve"]]) + "\\n")

    def define_metric(self, name, **options):
        pass

    def finish(self):
        pass

def init(*, id, mode, **others):
    assert mode == "online"
    server = os.environ["WANDB_BASE_URL"].rpartition("/")[2]
    return Run(os.path.join(os.environ["SERVERS"], server + "-" + id))

wandb.init = init
"""


@pytest.fixture
def servers(monkeypatch, tmp_path) -> tuple[Callable[[str], None], Callable[[str], dict[str, list[int]]]]:
    """Two servers of wandb, one and two, that are no real ones: in the mirrors' processes ``wandb.init`` is replaced.

    All else is the real wandb. Gives what logs in to one, and the steps that it has of each run, pictures aside.
    """
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(ONLINE)
    monkeypatch.setenv("SERVERS", str(tmp_path))

    def use(server: str) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://wandb.example.org/{server}")
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(site)

    def has(server: str) -> dict[str, list[int]]:
        found = {}
        for path in sorted(tmp_path.glob(f"{server}-*")):
            lines = map(json.loads, path.read_text().splitlines())
            found[path.name.removeprefix(f"{server}-")] = [step for step, names in lines if names]
        return found

    return use, has


def test_every_place_is_sent_all_that_it_does_not_have(dashboards, servers, tmp_path, monkeypatch, capfd):
    """A run that was kept offline goes to a server whole, from step 1, and then to another one."""
    monkeypatch.setattr(runs.training, "PICTURES_AFTER", 0.0)  # or they were drawn, and be new, by the first push
    use, has = servers
    folder, steps = in_place(tmp_path / "results"), list(range(1, STEPS + 1))
    go(BANDIT, folder, "wandb")
    first = position(folder, "wandb").id

    def push(*words: str) -> str:
        capfd.readouterr()
        assert run(["track", "push", str(folder), *words]) == 0, capfd.readouterr()
        return capfd.readouterr().out.splitlines()[0].removeprefix(f"{folder}: ")

    everything = f"sent {STEPS} lines of metrics up to update {STEPS}, the final numbers, 1 picture"
    nothing = "wandb has all of it already; "
    for server in ("one", "two"):
        use(server)
        assert push() == everything
        assert has(server) == {first: steps}
        assert push().startswith(nothing)
        assert has(server) == {first: steps}
    assert push("--again") == everything
    assert position(folder, "wandb").id != first and has("two") == {first: steps, position(folder, "wandb").id: steps}
    use("one")
    assert push().startswith(nothing) and has("one") == {first: steps}
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert push().startswith(nothing)
    assert_has(wandb_has(folder), folder, "wandb")


def test_what_a_server_has_by_other_ways_it_is_not_sent(dashboards, servers, tmp_path):
    """Such as by `wandb sync` of what was kept offline: it is the same run there."""
    use, has = servers
    folder = in_place(tmp_path / "results")
    go(BANDIT, folder, "wandb")
    name = position(folder, "wandb").id
    (tmp_path / f"one-{name}").write_text('[1, ["loss"]]\n[2, ["loss"]]\n')
    use("one")
    assert run(["track", "push", str(folder)]) == 0
    assert has("one") == {name: list(range(1, STEPS + 1))}


def test_another_database_of_trackio_is_sent_all(dashboards, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(runs.training, "PICTURES_AFTER", 0.0)  # or they were drawn, and be new, by the first push
    folder = in_place(tmp_path / "results")
    go(BANDIT, folder, "trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "other"))
    assert run(["track", "push", str(folder), "--to", "trackio"]) == 0
    assert f"sent {STEPS} lines of metrics up to update {STEPS}" in capfd.readouterr().out
    monkeypatch.delenv("TRACKIO_DIR")
    moved = tmp_path / "moved"
    (tmp_path / "results").rename(moved)  # the database, too
    folder = in_place(moved)
    assert run(["track", "push", str(folder), "--to", "trackio"]) == 0
    assert "trackio has all of it already" in capfd.readouterr().out
    assert_has(trackio_has(folder), folder, "trackio")
    (moved / "trackio").rename(moved / "first")
    (tmp_path / "other").rename(moved / "trackio")  # where the reader looks
    assert [step for lines in trackio_has(folder).lines.values() for step, _ in lines] == list(range(1, STEPS + 1))


def test_a_run_that_is_being_mirrored_is_left_alone(dashboards, tmp_path, capfd):
    """Two that send the same run at once would send it twice."""
    folder, said = in_place(tmp_path), []

    def push():
        until = time.monotonic() + 60
        while not position(folder, "trackio").id and time.monotonic() < until:
            time.sleep(0.05)
        assert run(["track", "push", str(folder), "--to", "trackio"]) == 0
        said.append(capfd.readouterr().out)

    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 2, push)
        go(BANDIT, folder, "trackio")
    assert said == [f"{folder}: is mirrored to trackio while it trains\n"]
    assert_has(trackio_has(folder), folder, "trackio")


@pytest.mark.parametrize("damaged", ["config.json", "result.json"])
def test_a_damaged_run_does_not_keep_the_others_from_being_pushed(dashboards, tmp_path, capfd, damaged):
    folders = [in_place(tmp_path, n) for n in ("one", "two")]
    for folder in folders:
        go(BANDIT, folder)
    (folders[0] / damaged).write_text("{")
    assert run(["track", "push", str(tmp_path), "--to", "trackio"]) == 2
    out, err = capfd.readouterr()
    assert out.splitlines()[0].startswith(f"{folders[0]}: failed")
    assert out.splitlines()[1].startswith(f"{folders[1]}: sent {STEPS} lines of metrics up to update {STEPS}")
    assert err.splitlines()[-1] == "error: 1 of 2 runs could not be sent to trackio; the same command tries again"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["push", "nowhere"], "there is no run with metrics in nowhere"),
        (["push", "--too", "wandb"], "did you mean --to?"),
    ],
)
def test_mistakes_in_pushing_get_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert run(["track", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


# ----- what a mirror cannot do to a run


FAKE = """
import time

class Settings:
    def __init__(self, **options):
        pass

class Run:
    starting_step, summary = 0, {{}}
    def define_metric(self, name, **options):
        pass
    def log(self, values, step):
        {log}
    def finish(self):
        {finish}

def teardown():
    pass

def init(**arguments):
    {init}
    return Run()
"""


@pytest.fixture
def fake_wandb(monkeypatch, tmp_path_factory):
    """Stands in for the real one, in the mirror's process, too, and does something else at a call of one function."""

    def install(call: str, act: str) -> None:
        calls = {"log": "pass", "finish": "pass", "init": "pass", call: act}
        site = tmp_path_factory.mktemp("site")
        (site / "wandb.py").write_text(FAKE.format(**calls) if call != "import" else act)
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("WANDB_MODE", "shared")  # its files are nobody's business

    return install


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        go(BANDIT, tmp_path_factory.mktemp("whole"))
    return tmp_path_factory.getbasetemp() / "whole0"


@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("import", "1 / 0"),
        ("import", "raise SystemExit('I am not for you')"),
        ("init", "raise RuntimeError('no route\\nto host')"),
        ("log", "raise OSError('the disk is full')"),
        ("finish", "raise RuntimeError('upload failed')"),
        ("log", "import os; os._exit(1)"),
    ],
)
def test_a_failing_mirror_costs_one_warning(whole, fake_wandb, call, act, tmp_path, capfd):
    fake_wandb(call, act)
    go(BANDIT, tmp_path, "wandb")
    assert_same_run(tmp_path, whole)
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert warning.startswith("warning: wandb") and "snail track push" in warning


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_hanging_mirror_holds_nothing_up(whole, fake_wandb, call, tmp_path, monkeypatch, capfd):
    fake_wandb(call, "time.sleep(600)")
    monkeypatch.setattr(runs.tracking, "PATIENCE", 0.1)
    go(BANDIT, tmp_path, "wandb")
    assert_same_run(tmp_path, whole)
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert "has not finished mirroring in" in warning and "snail track push" in warning
    assert not held(tmp_path, "wandb")  # nothing of it is left


def test_a_mirror_that_hangs_for_long_is_not_waited_for_by_a_line(fake_wandb, tmp_path):
    """Nor is there an end to how many lines it can be told of."""
    fake_wandb("init", "time.sleep(600)")
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "x", "agent": "y"}))
    tracker = open_tracker("wandb", tmp_path, "id")
    for _ in range(200_000):  # more than any pipe holds
        tracker._woken = 0.0
        tracker.wake()
    runs.tracking.PATIENCE, patience = 0.0, runs.tracking.PATIENCE
    tracker.close()
    runs.tracking.PATIENCE = patience


def test_a_full_disk_under_a_dashboard_is_told(dashboards, whole, tmp_path, monkeypatch, capfd):
    """trackio itself would only have warned, and lost them."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "file" / "trackio"))
    go(BANDIT, tmp_path / "run", "trackio")
    assert_same_run(tmp_path / "run", whole)
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert warning.startswith("warning: trackio")


# ----- which


@pytest.fixture
def nothing_installed(monkeypatch):
    find = importlib.util.find_spec
    missing = ("wandb", "trackio")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a))


@pytest.mark.parametrize("tracker", ["none", "auto"])
def test_runs_without_dashboards(whole, nothing_installed, tracker, tmp_path):
    go(BANDIT, tmp_path, tracker)
    assert_same_run(tmp_path, whole)
    assert not list(tmp_path.glob("mirror-*"))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_dashboard_that_is_asked_for_and_missing_is_an_error(nothing_installed, name, tmp_path):
    with pytest.raises(RunError, match=rf"{name} is not installed; run: pip install 'snail-suite\[track\]'"):
        go(BANDIT, tmp_path, name)


def test_a_missing_dashboard_is_noticed_before_anything_is_thrown_away(nothing_installed, tmp_path):
    go(BANDIT, tmp_path, "none")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RunError, match="is not installed"):
        go(BANDIT, tmp_path, "trackio", overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_none_mirrors_nothing_and_auto_is_wandb(fake_wandb, tmp_path):
    fake_wandb("log", "pass")
    for tracker, names in (("none", set()), ("auto", {"mirror-wandb.json"})):
        go(BANDIT, tmp_path / tracker, tracker)
        assert {path.name for path in (tmp_path / tracker).glob("mirror-*")} == names


def test_wandb_that_is_disabled_mirrors_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "wandb.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert not open_tracker("wandb", tmp_path, "id")


def test_a_folder_that_is_called_wandb_is_not_it(monkeypatch, tmp_path):
    """As wandb itself leaves one where it was used."""
    (tmp_path / "site" / "wandb").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    importlib.invalidate_caches()
    assert importlib.util.find_spec("wandb") is not None
    assert not open_tracker("auto", tmp_path, "id")


@pytest.mark.parametrize(
    "environment, machine, mode",
    [
        ({}, None, "offline"),
        ({"WANDB_API_KEY": "k"}, None, "online"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "k"}, "api.wandb.ai", "offline"),
        ({"WANDB_MODE": "disabled"}, None, "disabled"),
        ({}, "api.wandb.ai", "online"),
        ({}, "example.org", "offline"),
        ({"WANDB_BASE_URL": "https://wandb.example.org/"}, "wandb.example.org", "online"),
        ({"WANDB_BASE_URL": "https://wandb.example.org"}, "api.wandb.ai", "offline"),
    ],
)
def test_wandb_goes_online_only_for_who_has_logged_in(environment, machine, mode, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if machine:
        (tmp_path / ".netrc").write_text(f"machine {machine}\n login user\n password secret\n")
        (tmp_path / ".netrc").chmod(0o600)
    assert wandb_mode() == mode


# ----- reading what is being written


def test_lines_that_are_not_whole_are_left_out(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "x", "agent": "y"}))
    run = Run.read(tmp_path)
    assert lines_of(run) == []
    old = '{"step": 2, "seconds": 3, "return": 4, "env_steps_per_second": 5, "validation_accuracy_1shot": 6}'
    (tmp_path / "metrics.jsonl").write_text('{"update": 1}\nnonsense\n[3]\n' + old + '\n{"up')
    now = {"update": 2, "time/seconds": 3, "train/return": 4, "time/env_steps_per_second": 5}
    assert lines_of(run) == [{"update": 1}, {**now, "validation/accuracy_1shot": 6}]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"id": "x"}', '{"offline": 3}'])
def test_a_damaged_position_is_none(tmp_path, text):
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "x", "agent": "y"}))
    mirror_file(tmp_path, "wandb").write_text(text)
    assert position(tmp_path, "wandb") == Position()


def test_where_the_results_are(tmp_path):
    for place, results in (("bandit/n10-k5/gru/smoke-seed0", "."), ("else/where", "else")):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"experiment": "bandit/n10-k5", "agent": "gru"}))
        assert Run.read(folder).results == (tmp_path / results).resolve()
