"""``snail play``: what is told and shown of a trial is what was played."""

from __future__ import annotations

import re
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from tiny_runs import noise_classes

import runs.tasks
from runs.algorithms.attention_maps import PlayedTrial
from runs.cli import run
from runs.results.trial_film import film
from runs.results.trial_plots import draw_trial
from runs.results.trial_text import describe_trial, optimal_values, posterior_means, seen
from runs.tasks import BanditTask, GymnasiumTask, MDPTask, RecallTask
from snail.actions import Categorical, Gaussian


def bandit_trial() -> PlayedTrial:
    """Arm 1 pays twice and then not, arm 0 never."""
    actions = torch.tensor([1, 0, 1, 1])
    rewards = torch.tensor([1.0, 0, 1, 0])
    zeros, layers = torch.zeros(4, dtype=torch.long), (torch.ones(2, 4, 4).tril(),)
    return PlayedTrial(
        torch.tensor([0.25, 0.75]), zeros, actions, rewards, torch.ones(4) > 0, torch.zeros(4, 2), layers
    )


def test_a_bandit_is_told_by_its_counts():
    found = posterior_means(BanditTask(2, 4), bandit_trial())
    expected = [[1 / 2, 1 / 2], [1 / 2, 2 / 3], [1 / 3, 2 / 3], [1 / 3, 3 / 4], [1 / 3, 3 / 5]]
    torch.testing.assert_close(found, torch.tensor(expected))
    text = describe_trial(BanditTask(2, 4), bandit_trial())
    rows = [line.split() for line in text.splitlines()]
    assert ["3", "1", "1"] in rows  # the third pull
    assert ["1", "0.75", "3", "2", "0.60"] in rows and ["0", "0.25", "1", "0", "0.33"] in rows
    assert rows[-1][:3] == ["total", "reward", "2.00;"] and "3.00 expected" in text


def mdp_trial() -> PlayedTrial:
    """Two states, each of which leads to the other; only state 1's action 1 pays, 2."""
    task = torch.zeros(2, 2, 3)
    task[0, :, 1] = task[1, :, 0] = 1.0
    task[1, 1, 2] = 2.0
    seen, actions = torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 1, 0])
    ended = torch.tensor([False, True, False, True])
    return PlayedTrial(task, seen, actions, torch.tensor([0.0, 2, 0, 0]), ended, torch.zeros(4, 2), ())


def test_an_mdp_is_told_by_its_episodes():
    task = MDPTask(episodes=2, states=2, actions=2, episode_length=2)
    values = optimal_values(task, mdp_trial())
    torch.testing.assert_close(values[0, 0], torch.tensor([2.0, 2.0]))  # then state 1, where action 1 pays
    torch.testing.assert_close(values[1, 1], torch.tensor([0.0, 2.0]))
    rows = [line.split() for line in describe_trial(task, mdp_trial()).splitlines()]
    assert ["1", "2", "2.00"] in rows and ["2", "2", "0.00"] in rows
    assert " ".join(rows[-1]) == "total reward 2.00; an optimal policy: 4.00 expected, 2.00 an episode"


RECALL = RecallTask(pairs=2, queries=2, keys=3, values=2)


def recall_trial() -> PlayedTrial:
    """Keys 2 and 0 with values 0 and 1, then queries for 0 and 2, of which the first is answered."""
    shown, answers = torch.tensor([0, 3, 4, 1, 5, 1, 3]), torch.tensor([-1, -1, -1, -1, -1, 1, 0])
    actions, rewards = torch.tensor([0, 0, 0, 0, 0, 1, 1]), torch.tensor([0.0, 0, 0, 0, 0, 1, 0])
    task, ended = torch.stack([shown, answers], dim=1).float(), torch.arange(7) == 6
    return PlayedTrial(task, shown, actions, rewards, ended, torch.zeros(7, 2), ())


def test_recall_is_told_by_its_queries():
    assert seen(RECALL, recall_trial()) == ["", "k2", "0", "k0", "1", "k0?", "k2?"]
    rows = [line.split() for line in describe_trial(RECALL, recall_trial()).splitlines()]
    assert ["6", "k0", "5", "1", "1"] in rows and ["7", "k2", "3", "0", "1"] in rows
    assert " ".join(rows[-1]) == "total reward 1.00 of 2"


@pytest.mark.parametrize("kind", ["bandit", "mdp", "recall"])
def test_a_trial_is_drawn(tmp_path, kind):
    trial = {"bandit": bandit_trial, "mdp": mdp_trial, "recall": recall_trial}[kind]()
    task = {"bandit": BanditTask(2, 4), "mdp": MDPTask(2, 2, 2, 2), "recall": RECALL}[kind]
    path = draw_trial(task, trial, Categorical(2), "a run", tmp_path / "new" / "trial.png")
    assert path.read_bytes().startswith(b"\x89PNG")


class Painted(gymnasium.Env):
    """Each frame's grey is the number of steps so far; an action below the space's end is an error."""

    observation_space, action_space = Box(0, 9, (1,)), Box(0, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        if options:
            self.task = seed
        return np.zeros(1, np.float32), {}

    def step(self, action):
        assert 0 <= action[0] <= 1 and self.task == 7
        self.steps += 1
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        assert self.render_mode == "rgb_array"
        return np.full((8, 8, 3), 100 * self.steps, np.uint8)


@dataclass(frozen=True)
class PaintedTask(GymnasiumTask):
    def make(self):
        return Painted()


def gym_trial() -> PlayedTrial:
    actions, ended = torch.tensor([[-3.0], [0.0], [1.0], [9.0]]), torch.tensor([False, True, False, True])
    observations = torch.zeros(4, 1)
    return PlayedTrial(torch.tensor([7.0]), observations, actions, torch.arange(4.0), ended, torch.zeros(4, 2), ())


def test_a_film_shows_the_same_trial_again(tmp_path):
    from PIL import Image

    task, head = PaintedTask("painted", episodes=2, max_steps=2), Gaussian(torch.zeros(1), torch.ones(1))
    said = film(task, gym_trial(), head, tmp_path / "trial.gif")
    with Image.open(said) as found:
        greys = []
        for frame in range(found.n_frames):
            found.seek(frame)
            greys += [found.convert("L").getpixel((0, 0))] * round(found.info["duration"] / 100)
    assert greys == [0, 100, 0, 100]  # before each step; the second episode starts anew
    assert draw_trial(task, gym_trial(), head, "a run", tmp_path / "trial.png").exists()
    rows = [line.split() for line in describe_trial(task, gym_trial()).splitlines()]
    assert ["1", "2", "1.00"] in rows and ["2", "2", "5.00"] in rows


def test_what_cannot_be_rendered_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Painted, "render", lambda self: 1 / 0)
    task = PaintedTask("painted", episodes=2, max_steps=2)
    said = film(task, gym_trial(), Gaussian(torch.zeros(1), torch.ones(1)), tmp_path / "trial.gif")
    assert said.startswith("no animation: rendering failed (ZeroDivisionError") and "\n" not in said
    assert not list(tmp_path.iterdir())


def test_the_command_plays_a_published_run(tmp_path, capsys):
    assert run(["play", "bandit/n10-k5/snail", "--seed", "3", "--output", f"{tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert "always the best arm" in text and text.splitlines()[-1] == f"{tmp_path}/trial-3.png"
    assert run(["play", "bandit/n10-k5/snail", "--seed", "3", "--output", f"{tmp_path}"]) == 0
    assert capsys.readouterr().out == text  # the same trial


def test_an_agent_is_tested_on_longer_trials(capsys):
    """Of 10 pulls it knows only the first; more cannot be worth less, nor more than the best possible agent gets."""
    assert run(["evaluate", "bandit/n10-k5/gru", "--on", "bandit/n100-k5", "--test.trials", "200"]) == 0
    said = capsys.readouterr().out
    mean = float(re.search(r"^on bandit/n100-k5: bandit/n10-k5 gru seed 0: return ([\d.]+)", said)[1])
    assert 65 < mean < 83  # pulling at random earns 50; an interval of 200 trials is +- 2.4
    assert run(["evaluate", "bandit/n10-k5/gru", "--on", "bandit/n10-k10"]) == 2
    assert "trained for single_action_space Discrete(5), not Discrete(10)" in capsys.readouterr().err
    assert run(["evaluate", "bandit/n10-k5/gru", "--on", "bandit/n10-k5", "--test.trials", "200"]) == 0
    assert "of the optimum there, 6.660" in capsys.readouterr().out


def test_what_plays_no_trial(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs.tasks, "load_classes", noise_classes)
    few = ["--training.steps", "1", "--training.batch-size", "2", "--training.validation-episodes", "4"]
    words = ["--budget", "smoke", "--tracker", "none", "--results", f"{tmp_path}", "--test.episodes", "4", *few]
    assert run(["train", "glyphs/5way-1shot", "--agent", "protonet", *words]) == 0
    capsys.readouterr()
    tested = ["evaluate", f"{tmp_path}/glyphs/5way-1shot/protonet", "--on"]
    assert run([*tested, "glyphs/5way"]) == 0  # the experiment after --on is not taken for the run
    said = capsys.readouterr().out
    assert said.startswith("on glyphs/5way: glyphs/5way-1shot protonet seed 0: accuracy, 1 shot") and "5 shot" in said
    for other, why in (
        ("omniglot/20way", "trained on 5-way episodes"),
        ("mini-imagenet/5way", "images of another shape"),
    ):
        assert run([*tested, other]) == 2
        assert why in capsys.readouterr().err
    assert run(["play", f"{tmp_path}/glyphs/5way-1shot/protonet"]) != 0
    assert "plays no trials; try: snail attention" in capsys.readouterr().err
