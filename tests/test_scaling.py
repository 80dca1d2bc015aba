"""The bench of time and memory against length: what it counts, and the exponents that it prints."""

from __future__ import annotations

import json
import weakref

import pytest
import torch

from baselines.recurrent import GRU
from runs.bench.measure import TINY
from runs.bench.report import bench, render
from runs.bench.scaling import MODELS, QUANTITIES, Scaling, _bytes, _train, bench_scaling
from runs.cli import run
from snail import AttentionBlock


def scaling(**values):
    return Scaling((16, 64), {q: {name: (2.0, 2.0) for name in MODELS} | values for q in QUANTITIES})


def test_the_exponent_is_the_slope_on_logarithmic_axes():
    found = scaling(gru=(3.0, 3.0), tcn=(1.0, 4.0), snail=(1.0, 16.0))
    assert [found.exponent("step time", name) for name in ("gru", "tcn", "snail")] == pytest.approx([0, 1, 2])


def test_every_model_and_quantity_is_measured():
    found = bench_scaling(torch.device("cpu"), 1, TINY)
    assert found.lengths == TINY.scaling_lengths
    for quantity in QUANTITIES:
        for name in MODELS:
            assert len(found.values[quantity][name]) == len(found.lengths)
            assert min(found.values[quantity][name]) > 0
    caches = found.values["step memory"]
    for name in MODELS:
        if QUANTITIES["step memory"].expected[name] == "0":
            assert found.exponent("step memory", name) == 0  # nothing but its state
    assert found.exponent("step memory", "transformer") == pytest.approx(1)
    assert caches["snail"][1] > caches["snail"][0]
    assert found.exponent("training memory", "transformer") == pytest.approx(1, abs=0.2)  # no T x T matrix


def test_the_memory_of_a_cache_is_that_of_its_buffers():
    keys_and_values = 3 * 7 * (4 + 5) * 4  # batch, steps, channels, bytes
    assert _bytes(AttentionBlock(2, 4, 5).init_cache(3, 7)) == keys_and_values
    assert _bytes(GRU(2, 3, 6).init_cache(3, 7)) == 3 * 6 * 4


def test_what_is_kept_is_freed_afterwards():
    """An output that its own node keeps, as of a sigmoid, must not keep that node."""
    seen = []

    class Watched(torch.nn.Module):
        def forward(self, x):
            y = (x @ torch.ones(3, 3, requires_grad=True)).sigmoid()
            seen.append(weakref.ref(y))
            return y

    _, kept = _train(Watched(), torch.randn(2, 5, 3))
    assert [found() for found in seen] == [None, None]
    assert kept == 2 * 2 * 5 * 3 * 4  # the input and the output


def test_parameters_are_no_memory_of_a_sequence():
    linear = torch.nn.Linear(100, 100)
    _, kept = _train(linear, torch.randn(2, 3, 100))
    assert kept < 100 * 100 * 4


@pytest.mark.slow
def test_the_report_and_the_picture(tmp_path, capsys):
    report = bench("scaling", repetitions=1, sizes=TINY)
    text = render(report)
    assert not report.benchmarks and all(q.name in text for q in QUANTITIES.values()) and "exponent" in text
    saved, picture = tmp_path / "b.json", tmp_path / "b.png"
    assert run(["bench", "scaling", "--tiny", "--repetitions", "1", "--save", f"{saved}", "--plot", f"{picture}"]) == 0
    assert json.loads(saved.read_text())["scaling"]["lengths"] == list(TINY.scaling_lengths)
    assert picture.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert run(["bench", "fewshot", "--plot", f"{picture}"]) == 2
    assert "--plot draws what `snail bench scaling` measures" in capsys.readouterr().err
