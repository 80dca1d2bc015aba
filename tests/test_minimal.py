"""The fast SNAIL computes what the plain one does, and so do its gradients."""

from __future__ import annotations

import pytest
import torch

from snail import SNAIL, TC, Attention, minimal
from snail.minimal import minimal_copy

MODELS = {
    "few-shot": lambda: SNAIL.fewshot(8, ways=3, max_shots=2),
    "policy": lambda: SNAIL.policy(7, actions=5, horizon=20),
    "value": lambda: SNAIL.value(7, horizon=20),
    "own": lambda: SNAIL(4, 3, 11, (Attention(5, 4), TC(6), Attention(4, 4), TC(3)), stem=7),
}


@pytest.mark.parametrize("name", MODELS)
def test_fast_and_plain_agree_in_outputs_and_gradients(name):
    torch.manual_seed(0)
    fast = MODELS[name]().double()
    plain = minimal_copy(fast).double()
    for steps in (1, 2, fast.max_len):
        x = torch.randn(2, steps, fast.input_size, dtype=torch.float64, requires_grad=True)
        outputs = [model(x) for model in (fast, plain)]
        torch.testing.assert_close(*outputs)
        weight = torch.randn_like(outputs[0])
        ours, reference = (torch.autograd.grad((y * weight).sum(), [x, model.head.weight], retain_graph=True)
                           for y, model in zip(outputs, (fast, plain), strict=True))  # fmt: skip
        torch.testing.assert_close(ours, reference)
    outputs[0].square().sum().backward()
    outputs[1].square().sum().backward()
    norms = [
        sum(p.grad.square().sum() for n, p in model.named_parameters() if n.startswith("blocks"))
        for model in (fast, plain)
    ]
    torch.testing.assert_close(*norms)  # of all weights inside, which the two arrange differently


@pytest.mark.parametrize("name, preset", [("few-shot", minimal.FEWSHOT), ("policy", minimal.POLICY)])
def test_presets_of_the_plain_model_are_those_of_the_fast_one(name, preset):
    fast = MODELS[name]()
    stem = 32 if name == "policy" else None
    plain = minimal.SNAIL(fast.input_size, fast.head.out_features, fast.max_len, preset, stem)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (plain, minimal_copy(fast))]
    assert shapes[0] == shapes[1]


def test_the_plain_model_sees_no_future():
    model = minimal.SNAIL(3, 2, 9, (("tc", 4), ("attention", 4, 4)), stem=5)
    x = torch.randn(1, 9, 3)
    changed = x.clone()
    changed[:, 5:] += 1
    assert torch.equal(model(x)[:, :5], model(changed)[:, :5])
    assert not torch.equal(model(x)[:, 5:], model(changed)[:, 5:])
