"""Configurations survive JSON, mistakes in them are named, and everything in the catalogue can be built."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import MISSING, dataclass, fields, replace
from importlib.util import find_spec
from typing import Any, Literal

import pytest
import torch

import runs.tasks
from envs.fewshot.datasets.base import ImageClasses
from runs.agents import AGENTS, METHODS
from runs.algorithms.tuning import Tuning
from runs.catalogue import BUDGETS, CATALOGUE, RunConfig, find
from runs.commands.training import Train
from runs.config.command_line import changed as with_settings
from runs.config.command_line import parse
from runs.config.serialization import from_dict, to_dict, to_json
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.tasks import BanditTask, FewShotTask, MDPTask
from runs.training import build_learner

CONFIGS = {
    f"{e.id}-{agent}-{algorithm}-{budget}": e.config(agent, seed=3, budget=budget, algorithm=algorithm)
    for e in CATALOGUE.values()
    for agent in e.agents
    for algorithm in e.algorithms(agent)
    for budget in e.budgets
}
KINDS = {tuple(type(getattr(c, f.name)) for f in fields(c)): name for name, c in CONFIGS.items()}
"""One configuration of each combination of task, model, training and test."""


def one_of_each_class() -> dict[str, RunConfig]:
    """The first configuration with each class of task, model, training and test."""
    seen: set[type] = set()
    found = {}
    for classes, name in KINDS.items():
        if not seen.issuperset(classes):
            found[name] = CONFIGS[name]
            seen.update(classes)
    return found


# ----- to JSON and back


def test_json_round_trip():
    for name, config in CONFIGS.items():
        again = from_dict(RunConfig, json.loads(to_json(config)))
        assert again == config, name
        assert to_json(again) == to_json(config), name  # 1 and 1.0 are equal too
        assert to_dict(config) == json.loads(to_json(config)), name


def keys(data: Any, path: tuple = ()) -> list[tuple]:
    """The path to every key of nested dictionaries."""
    found = []
    for key, value in data.items():
        if key != "type":
            found.append((*path, key))
            found += keys(value, (*path, key)) if isinstance(value, dict) else []
    return found


def changed(data: Any, path: tuple, change) -> Any:
    """A copy in which ``change(dictionary, key)`` was done at the end of the path."""
    data = copy.deepcopy(data)
    owner = data
    for key in path[:-1]:
        owner = owner[key]
    change(owner, path[-1])
    return data


def owner_of(config: Any, path: tuple) -> Any:
    """The dataclass that has the last key of the path."""
    for key in path[:-1]:
        config = getattr(config, key)
    return config


def test_a_missing_key_is_its_default_or_is_named():
    for name, config in one_of_each_class().items():
        data = to_dict(config)
        paths = keys(data)
        expected = {("seed",), ("task",), ("training", "steps")} - set(paths)
        assert not expected or isinstance(config.training, Tuning), name
        for path in paths:
            without = changed(data, path, lambda owner, key: owner.pop(key))
            field = next(f for f in fields(owner_of(config, path)) if f.name == path[-1])
            if field.default is not MISSING:
                read = from_dict(RunConfig, without, "run")
                assert getattr(owner_of(read, path), field.name) == field.default, (name, path)
                continue
            with pytest.raises(RunError) as e:
                from_dict(RunConfig, without, "run")
            assert ".".join(("run", *path[:-1])) + f" has no key {path[-1]!r}" in str(e.value), name


def test_an_unknown_key_is_named_and_the_known_are_listed():
    for name, config in one_of_each_class().items():
        data = to_dict(config)
        for path in keys(data):
            with pytest.raises(RunError) as e:
                from_dict(RunConfig, changed(data, path, lambda owner, key: owner.update(flavour=1)), "run")
            message = str(e.value)
            assert ".".join(("run", *path[:-1])) + " has an unknown key 'flavour'" in message, name
            assert path[-1] in message, name


@pytest.mark.parametrize("wrong", [{"wrong": 1}, [[]], {"type": "Wrong"}, [{"type": "RunConfig"}]], ids=str)
def test_a_value_of_another_type_is_named(wrong):
    for name, config in one_of_each_class().items():
        data = to_dict(config)
        for path in keys(data):
            with pytest.raises(RunError) as e:
                from_dict(RunConfig, changed(data, path, lambda owner, key: owner.update({key: wrong})), "run")
            assert ".".join(("run", *path)) in str(e.value), name
            assert "\n" not in str(e.value)


@pytest.mark.parametrize("wrong", [None, 3, "text", [], True])
def test_a_configuration_is_an_object(wrong):
    with pytest.raises(RunError, match="run must be an object, got"):
        from_dict(RunConfig, wrong, "run")


# ----- every kind of value


@dataclass(frozen=True)
class Inner:
    depth: int


@dataclass(frozen=True)
class Other:
    depth: int
    name: str = "x"


@dataclass(frozen=True)
class Everything:
    count: int = 1
    rate: float = 0.5
    name: str = "a"
    flag: bool = False
    choice: Literal["red", "blue"] = "red"
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")
    optional: int | None = None
    nested: Inner | Other = Inner(1)
    optional_nested: Inner | None = None
    several: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    "value",
    [
        {"sizes": ()},
        {"sizes": (3,)},
        {"pair": (7, "z")},
        {"optional": 4},
        {"optional": 0},
        {"choice": "blue"},
        {"nested": Other(2, "y")},
        {"nested": Inner(2)},
        {"optional_nested": Inner(5)},
        {"several": (Inner(1), Inner(2))},
        {"flag": True},
        {"rate": 1e-8},
        {"rate": 2.0},
        {"name": 'quote " and \u00fc'},
    ],
    ids=str,
)
def test_values_come_back_as_they_were(value):
    config = replace(Everything(), **value)
    again = from_dict(Everything, json.loads(to_json(config)))
    assert again == config
    for f in fields(config):
        assert type(getattr(again, f.name)) is type(getattr(config, f.name))


def test_whole_numbers_are_read_as_floats_where_floats_are_due():
    again = from_dict(Everything, to_dict(Everything()) | {"rate": 2})
    assert again.rate == 2.0 and type(again.rate) is float


@pytest.mark.parametrize(
    "value, message",
    [
        ({"count": 1.0}, "config.count must be int, got 1.0"),
        ({"count": True}, "config.count must be int, got True"),
        ({"count": None}, "config.count must be int, got None"),
        ({"rate": "1"}, "config.rate must be float, got '1'"),
        ({"rate": True}, "config.rate must be float, got True"),
        ({"flag": 1}, "config.flag must be bool, got 1"),
        ({"name": 1}, "config.name must be str, got 1"),
        ({"choice": "green"}, "config.choice .*got 'green'"),
        ({"sizes": [1, "2"]}, r"config.sizes\[1\] must be int, got '2'"),
        ({"sizes": 1}, "config.sizes .*got 1"),
        ({"pair": [1]}, r"config.pair .*got \[1\]"),
        ({"pair": [1, 2]}, r"config.pair\[1\] must be str, got 2"),
        ({"pair": [1, "a", 2]}, "config.pair .*got"),
        ({"optional": "4"}, "config.optional .*'4'"),
        ({"nested": {"type": "Nobody", "depth": 1}}, "config.nested.type must be one of Inner, Other, got 'Nobody'"),
        ({"nested": {"depth": 1}}, "config.nested.type must be one of Inner, Other, got None"),
        ({"nested": {"type": "Inner", "depth": "1"}}, "config.nested.depth must be int, got '1'"),
        ({"nested": {"type": "Inner", "depth": 1, "name": "x"}}, "config.nested has an unknown key 'name'"),
        ({"nested": {"type": "Inner"}}, "config.nested has no key 'depth'"),
        ({"optional_nested": {"type": "Inner", "depth": None}}, "config.optional_nested.depth must be int, got None"),
        ({"several": [{"type": "Inner", "depth": 1}, {"type": "Inner"}]}, r"config.several\[1\] has no key 'depth'"),
    ],
)
def test_wrong_values_are_quoted(value, message):
    with pytest.raises(RunError, match=message):
        from_dict(Everything, to_dict(Everything()) | value)


# ----- the catalogue


def test_fixed_names():
    assert {"bandit/n10-k5", "omniglot/5way"} <= set(CATALOGUE)
    bandits = {f"bandit/n{n}-k{k}" for n in (10, 100, 500) for k in (5, 10, 50)} | {"bandit/n1000-k50"}
    assert bandits | {f"mdp/n{n}" for n in (10, 25, 50, 75, 100)} <= set(CATALOGUE)
    assert {"snail", "lstm", "gru", "transformer"} <= set(AGENTS)


def test_ids_are_unique_and_well_formed():
    ids = [e.id for e in CATALOGUE.values()]
    assert ids == list(CATALOGUE) and len({i.lower() for i in ids}) == len(ids)
    for i in ids:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*/[a-z0-9]+(-[a-z0-9]+)*", i)


def test_experiments_are_described_and_complete():
    for e in CATALOGUE.values():
        assert e.about and e.agents and len(set(e.agents)) == len(e.agents)
        assert set(AGENTS) <= set(e.agents) and all(e.agents[a] == AGENTS[a] for a in AGENTS)
        assert {"full", "smoke"} <= set(e.budgets) and list(e.budgets) == [b for b in BUDGETS if b in e.budgets]
        for agent in AGENTS:
            for algorithm in e.algorithms(agent):
                steps = [e.config(agent, budget=b, algorithm=algorithm).training.steps for b in e.budgets]
                assert steps == sorted(steps, reverse=True) and steps[-1] < steps[0]


def test_ids_say_what_the_tasks_are():
    for e in CATALOGUE.values():
        family, _, variant = e.id.partition("/")
        for budget in e.budgets.values():
            if isinstance(budget.task, BanditTask):
                assert e.id == f"bandit/n{budget.task.pulls}-k{budget.task.arms}"
            elif isinstance(budget.task, MDPTask):
                assert e.id == f"mdp/n{budget.task.episodes}"
            elif isinstance(budget.task, FewShotTask):
                one_shot = "-1shot" if budget.task.shots == (1,) and variant.endswith("-1shot") else ""
                pretrained = "-pretrained" if e.config("snail").training.embedding_from else ""
                assert (family, variant) == (budget.task.data, f"{budget.task.ways}way{one_shot}{pretrained}")


def test_a_config_is_what_was_asked_for():
    for name, config in CONFIGS.items():
        experiment = CATALOGUE[config.experiment]
        algorithm = name.split("-")[-2]
        assert name == f"{config.experiment}-{config.agent}-{algorithm}-{config.budget}" and config.seed == 3
        budget = experiment.budgets[config.budget]
        training = budget.algorithms[algorithm]
        if algorithm == experiment.algorithms(config.agent, config.budget)[0] and config.agent in budget.learning_rates:
            training = replace(training, learning_rate=budget.learning_rates[config.agent])
        expected = (budget.task, training, budget.test, experiment.agents[config.agent])
        assert (config.task, config.training, config.test, config.model) == expected, name
        usual = experiment.config(config.agent, seed=3, budget=config.budget)
        assert (config == usual) == (algorithm == experiment.algorithms(config.agent, config.budget)[0]), name
        assert hash(config) == hash(from_dict(RunConfig, to_dict(config))), name


def noise_classes(name: str, split: str, **options: Any) -> ImageClasses:
    """Stands in for data sets that need drawing or downloading."""
    shape = (3, 84, 84) if name == "mini-imagenet" else (1, 28, 28)
    images = torch.randint(0, 256, (25, 20, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageClasses(images, name, split)


HAS_LEARN2LEARN = find_spec("learn2learn") is not None
BUILT = {*KINDS.values(), *(name for name, c in CONFIGS.items() if c.agent == "snail" and c.budget == "full")}


@pytest.mark.parametrize("experiment", CATALOGUE)
def test_configs_build_their_learners(experiment, monkeypatch):
    monkeypatch.setattr(runs.tasks, "load_classes", noise_classes)
    for name in sorted(n for n in BUILT if CONFIGS[n].experiment == experiment):
        config = CONFIGS[name]
        if config.agent == "maml" and not HAS_LEARN2LEARN:
            continue
        if hasattr(config.training, "batch_size"):
            batch = {"batch_size": getattr(config.training, "minibatches", 1)}
            config = replace(config, training=replace(config.training, **batch))
        learner = build_learner(config, Machine(torch.device("cpu")))
        assert learner.steps >= 1 and learner.units(0) >= 0, name
        learns = config.agent not in METHODS
        assert (sum(p.numel() for p in learner.model.parameters()) > 7_000) == learns, name
        learner.load_state_dict(learner.state_dict())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"batch_size": 10, "minibatches": 4}, "multiple of minibatches, got 10 and 4"),
    ],
)
def test_bandit_settings_that_cannot_be_are_refused(change, message):
    config = find("bandit/n10-k5").config("gru", budget="smoke")
    with pytest.raises(RunError, match=message):
        build_learner(replace(config, training=replace(config.training, **change)), Machine(torch.device("cpu")))


@pytest.mark.parametrize(
    "task, training, message",
    [
        ({"shots": (30,)}, {}, "shots must be between 1 and 17, got 30"),
        ({"ways": 30}, {}, "ways must be between 2 and 25, the number of classes, got 30"),
        ({}, {"queries": 100}, "queries must be between 1 and 95, got 100"),
    ],
)
def test_few_shot_settings_that_cannot_be_are_refused(task, training, message, monkeypatch):
    monkeypatch.setattr(runs.tasks, "load_classes", noise_classes)
    config = find("omniglot/5way").config("gru", budget="smoke")
    config = replace(config, task=replace(config.task, **task), training=replace(config.training, **training))
    with pytest.raises(RunError, match=f"omniglot/5way: {message}"):
        build_learner(config, Machine(torch.device("cpu")))


@pytest.mark.parametrize(
    "name, hint",
    [
        ("bandit/n10-k6", "did you mean bandit/n10-k5?"),
        ("omniglot-5way", "did you mean omniglot/5way?"),
        ("zzz", "choose from "),
        ("", "choose from "),
    ],
)
def test_an_unknown_experiment_suggests_the_nearest(name, hint):
    with pytest.raises(RunError) as e:
        find(name)
    assert f"unknown experiment {name!r}" in str(e.value) and hint in str(e.value)
    assert "`snail list`" in str(e.value)
    if hint == "choose from ":
        assert all(i in str(e.value) for i in CATALOGUE)


def test_an_unknown_agent_or_budget_suggests_the_nearest():
    experiment = find("bandit/n10-k5")
    with pytest.raises(RunError, match=r"unknown agent 'snial' for bandit/n10-k5; did you mean snail"):
        experiment.config("snial")
    with pytest.raises(RunError, match="unknown agent 'zzz' for bandit/n10-k5; choose from snail, lstm"):
        experiment.config("zzz")
    with pytest.raises(RunError, match=r"unknown algorithm 'tpro' for snail on bandit/n10-k5; did you mean trpo"):
        experiment.config("snail", algorithm="tpro")
    with pytest.raises(RunError, match=r"unknown budget 'smoek' for bandit/n10-k5; did you mean smoke"):
        experiment.config("snail", budget="smoek")


# ----- former names


def test_former_names_of_settings_are_read(tmp_path):
    """Records and scripts from before settings were renamed."""
    config = find("bandit/n10-k5").config("snail", budget="smoke")
    data = to_dict(config)
    for section, new, old in (
        ("training", "clip_eps", "clip"),
        ("training", "entropy_coef", "entropy_bonus"),
        ("training", "max_grad_norm", "gradient_clip"),
        ("model", "window_type", "reach"),
    ):
        data[section][old] = data[section].pop(new)
    data["training"]["clip"] = 0.3
    assert from_dict(RunConfig, data) == replace(config, training=replace(config.training, clip_eps=0.3))
    data["training"]["clip_eps"] = 0.2
    with pytest.raises(RunError, match=r"config\.training has both clip_eps and clip"):
        from_dict(RunConfig, data)
    shown = to_dict(find("control/cheetah-direction-told").config("snail"))
    shown["task"]["told"] = shown["task"].pop("show_task")
    assert from_dict(RunConfig, shown).task.show_task is True


def test_former_names_of_types_are_read():
    """The published records of SNAIL with glimpses are older than the present name."""
    config = find("omniglot/5way-1shot").config("snail-glimpses", budget="short")
    data = to_dict(config)
    assert data["model"]["type"] == "EmbeddingSNAILConfig"
    data["model"]["type"] = "LookingSNAILConfig"
    assert from_dict(RunConfig, data) == config
    data["model"]["type"] = "SNAILConfig"
    with pytest.raises(RunError, match="unknown key 'embedding'"):
        from_dict(RunConfig, data)


def test_former_options_are_hidden_aliases(capsys):
    train = Train.defaults(["bandit/n10-k5", "--budget", "smoke"])
    for words in (["--training.clip", "0.3"], ["--training.clip=0.3"], ["--training.clip-eps", "0.3"]):
        parsed = parse(Train, ["bandit/n10-k5", *words], "train", default=train)
        assert parsed.training == replace(train.training, clip_eps=0.3)
    changed_training = with_settings(train, {"training.entropy-bonus": 0.5}, "train").training
    assert changed_training == replace(train.training, entropy_coef=0.5)
    with pytest.raises(SystemExit):
        parse(Train, ["--help"], "train", default=train)
    shown = capsys.readouterr().out
    assert "--training.clip-eps" in shown and "--training.clip " not in shown and "gradient-clip" not in shown
