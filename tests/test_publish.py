"""Published runs: what is copied, and that anybody can test them again."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import gymnasium
import pytest
import torch
from safetensors.torch import load, save
from tiny_runs import BANDIT, CPU, FEWSHOT, go, quicken

from runs.agents import MAMLPolicyConfig
from runs.algorithms.learner import Measurement
from runs.cli import run as cli
from runs.commands.verify import Verify, _verdict, verify
from runs.results.folder import RunFolder, write_json
from runs.results.publish import publish
from runs.results.records import PUBLISHED
from runs.results.tables import tables
from runs.results.weights import pack, unpack
from runs.system.errors import RunError
from runs.tasks import BanditTask, GymnasiumTask
from runs.training import build_learner, evaluate, load_model

pytestmark = pytest.mark.slow


@pytest.fixture(params=[BANDIT, FEWSHOT], ids=["bandit", "few-shot"])
def run_and_copy(request, tmp_path, monkeypatch):
    quicken(monkeypatch)
    monkeypatch.setattr("runs.results.records.as_catalogued", lambda config: True)
    config = replace(request.param, seed=0, budget="full")
    go(config, tmp_path / "run")
    return config, RunFolder(tmp_path / "run"), RunFolder(tmp_path / "published")


def test_what_is_published_tests_the_same(run_and_copy):
    config, run, copy = run_and_copy
    assert publish(run, copy) and not publish(run, copy)  # once
    names = {"result.json", "samples.npz", "metrics.jsonl", "weights.safetensors"}
    assert {p.name for p in copy.path.iterdir()} == names
    assert copy.config() == config and copy.result() == run.result()
    learner = build_learner(config, CPU)
    assert load_model(learner, copy, config).step == learner.steps
    for measured, r in zip(evaluate(learner, quiet=True), run.result()["results"], strict=True):
        assert (measured.task_set, measured.shots, measured.n) == (r["task_set"], r.get("shots"), r["n"])
        assert measured.mean == pytest.approx(r["mean"], abs=0.1)  # of 30 answers


def test_packed_weights_are_within_half_a_step_of_their_block():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 13, generator=generator) * torch.logspace(-4, 2, 7)[:, None]  # 91 numbers: a short last block
    others = {"vector": x[0], "zeros": torch.zeros(4, 8), "count": torch.tensor(3)}
    stored = pack({"matrix": x, "transposed": x.mT, **others})
    assert {name: t.dtype for name, t in stored.items() if "." not in name} == {
        "matrix": torch.int8,
        "transposed": torch.int8,
        "vector": torch.half,
        "zeros": torch.int8,
        "count": torch.int64,
    }
    found = unpack(load(save(stored)))
    for block, rounded in zip(x.flatten().split(32), found["matrix"].flatten().split(32), strict=True):
        scale = (block.abs().max() / 127).half().float()  # up to 2**-11 smaller than exact: the largest is cut by that
        assert (rounded / scale - (rounded / scale).round()).abs().max() < 1e-4
        assert (rounded - block).abs().max() <= scale * (0.5 + 127 * 2**-11 + 1e-4)
    assert found["matrix"].dtype == torch.float32 and found["matrix"].shape == x.shape
    torch.testing.assert_close(found["transposed"], x.mT, rtol=0, atol=float(x.abs().max()) / 250)
    assert torch.equal(found["vector"], x[0].half()) and found["count"] == 3
    assert torch.equal(found["zeros"], torch.zeros(4, 8))


def test_weights_that_half_precision_cannot_hold_are_kept_as_they_are():
    x = torch.tensor([[1e6, 1.0]])
    assert torch.equal(unpack(pack({"large": x}))["large"], x)


def test_a_demo_run_is_published_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("runs.results.records.as_catalogued", lambda config: True)
    go(replace(BANDIT, seed=0, budget="demo"), tmp_path / "run")
    copy = RunFolder(tmp_path / "published")
    assert publish(RunFolder(tmp_path / "run"), copy) and not copy.weights_path.exists()


def test_a_short_run_is_published_without_weights_and_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("runs.results.records.as_catalogued", lambda config: True)
    copy = RunFolder(tmp_path / "published")
    for name, config in (("first", BANDIT), ("second", replace(BANDIT, test=replace(BANDIT.test, trials=50)))):
        go(replace(config, seed=0, budget="short"), tmp_path / name)
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    assert publish(first, copy) and not copy.weights_path.exists()
    assert not publish(second, copy) and copy.result() == first.result()


@pytest.mark.parametrize("kind", ["maml", "ant"])
def test_weights_that_no_rounding_may_change_are_not_rounded(kind, tmp_path, monkeypatch):
    quicken(monkeypatch)
    monkeypatch.setattr("runs.results.records.as_catalogued", lambda config: True)
    monkeypatch.setitem(gymnasium.registry, "Ant-tiny", replace(gymnasium.spec("CartPole-v1"), id="Ant-tiny"))
    maml = MAMLPolicyConfig(hidden_size=4, layers=1, inner_steps=1)
    changed = {"agent": "maml", "model": maml} if kind == "maml" else {"task": GymnasiumTask("Ant-tiny", 1, 4)}
    config = replace(BANDIT, seed=0, budget="full", **changed)
    go(config, tmp_path / "run")
    run, copy = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "published")
    publish(run, copy)
    exact = run.tested_weights(config)
    assert all(torch.equal(x, exact[name]) for name, x in copy.tested_weights(config).items())


def test_weights_of_an_earlier_record_do_not_stay_beside_a_new_one(run_and_copy):
    _, run, copy = run_and_copy
    publish(run, copy)
    write_json(copy.result_path, copy.result() | {"train_seconds": 1.0})
    run.checkpoint_path.unlink()
    assert publish(run, copy) and copy.result() == run.result() and not copy.weights_path.exists()


def test_large_weights_are_not_published(run_and_copy, monkeypatch, capsys):
    config, run, copy = run_and_copy
    monkeypatch.setattr("runs.results.publish.LARGEST", {config.agent: 100})
    assert publish(run, copy) and not copy.weights_path.exists() and copy.result() == run.result()
    assert "too large to publish" in capsys.readouterr().out


def test_published_weights_are_verified(run_and_copy):
    config, run, copy = run_and_copy
    publish(run, copy)
    assert {verdict for *_, verdict in verify(run, CPU)} == {"agrees exactly"}
    assert all(verdict.startswith("agrees") for *_, verdict in verify(copy, CPU))
    generator = torch.Generator().manual_seed(0)
    weights = copy.tested_weights(config)
    changed = {name: torch.randn(x.shape, generator=generator) for name, x in weights.items() if x.dim() > 1}
    copy.weights_path.write_bytes(save(weights | changed))
    assert any(abs(now - recorded) > 0.02 for _, recorded, now, _ in verify(copy, CPU))


@pytest.mark.parametrize(
    "shift, verdict",
    [
        (0.0, "agrees exactly"),
        (0.01, r"agrees, by \+0.01"),
        (0.5, r"differs, by \+0.5\d* ± 0.0"),
        (-0.5, "differs, by -0."),
    ],
)
def test_verdicts_are_of_paired_differences(shift, verdict):
    before = torch.linspace(0, 10, 400, dtype=torch.float64)
    noise = 0.2 * torch.sin(torch.arange(400.0, dtype=torch.float64)) if shift else torch.zeros(400)
    now = Measurement.of("return", before + shift + noise, "tasks")
    record = {"mean": before.mean().item(), "task_set": "tasks"}
    assert re.match(verdict, _verdict(record, now, before.numpy()))


def test_the_command(run_and_copy, capsys):
    _, run, copy = run_and_copy
    publish(run, copy)
    assert cli(["verify", str(copy.path)]) == 0
    assert "agrees" in capsys.readouterr().out
    record = run.result()
    record["results"][0]["task_set"] = "other"
    write_json(copy.result_path, record)
    assert cli(["verify", str(copy.path)]) == 2
    out, err = capsys.readouterr()
    assert "differs: the test tasks are not the same" in out and "1 of" in err
    assert cli(["verify", "nothing/here"]) == 2
    assert "there is no run 'nothing/here'" in capsys.readouterr().err
    copy.weights_path.unlink()
    assert cli(["verify", str(copy.path)]) == 2
    assert "none of these runs has weights" in capsys.readouterr().err


def test_a_table_means_all_of_its_experiments():
    assert {path.relative_to(PUBLISHED).parts[0] for path in Verify._places("3")} == {"bandit"}
    assert len(Verify._places("3")) == len(tables()["3"].cells)
    assert Verify._places("bandit/n10-k5/gru") == [PUBLISHED / "bandit/n10-k5/gru"]


@pytest.mark.exhaustive
def test_small_published_rows_agree(capsys):
    assert cli(["verify", "bandit/n10-k5/gru", "bandit/n10-k5/lstm", "--threads", "1"]) == 0
    assert capsys.readouterr().out.count("agrees") == 2


def test_an_unfinished_run_is_not_published(run_and_copy):
    _, run, copy = run_and_copy
    run.result_path.unlink()
    assert not publish(run, copy) and not copy.path.exists()


def test_damaged_weights_are_named(run_and_copy):
    config, run, copy = run_and_copy
    publish(run, copy)
    copy.weights_path.write_bytes(copy.weights_path.read_bytes()[:-3])
    with pytest.raises(RunError, match=r"weights.safetensors is damaged: "):
        load_model(build_learner(config, CPU), copy, config)


def test_weights_are_those_that_were_selected(run_and_copy):
    config, run, copy = run_and_copy
    publish(run, copy)
    state = run.load_checkpoint(config)[1]["learner"]
    tested = state["selected"]["weights"] if state.get("selected") else state["model"]
    published = copy.tested_weights(config)
    for name, x in published.items():
        torch.testing.assert_close(x.float(), tested[name].float(), rtol=2**-10, atol=tested[name].abs().max() / 250)
    left_out = set(tested) - set(published)
    assert left_out == ({n for n in tested if n.startswith("value.")} if isinstance(config.task, BanditTask) else set())
    shutil.rmtree(copy.path)
