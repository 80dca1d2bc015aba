"""Diagnosis of numbers that are not finite: which tensor was the first, and what may help."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from runs.system.errors import RunError

SMALLER_STEPS = "try a smaller --training.learning-rate or --training.max-grad-norm"
NO_BFLOAT16 = "in float32 it is finite: try --training.no-bfloat16"


class NotFinite(RunError):
    """Something in training or testing is not finite.

    Args:
        what: which tensor.
        advice: what to try.
        when: at which update, and which checkpoint is left.
    """

    def __init__(self, what: str, advice: str, when: str = ""):
        super().__init__(f"{what} is not finite{when}; {advice}")
        self.what, self.advice = what, advice


def not_finite(model: nn.Module, compute: Callable[[], Any], in_float32: Callable[[], Any] | None = None) -> NotFinite:
    """The error for a computation whose result is not finite.

    Args:
        model: the model whose weights and modules are searched.
        compute: repeats the computation; if it returns a loss, its gradients are searched as well.
        in_float32: the same without half precision; None if there is none.
    """
    what = first_not_finite(model, compute) or "a number"
    helps = in_float32 is not None and first_not_finite(model, in_float32) is None
    return NotFinite(what, NO_BFLOAT16 if helps else SMALLER_STEPS)


def require_finite(
    model: nn.Module, numbers: Sequence[Tensor], compute: Callable[[], Any], always: bool = False
) -> None:
    """Raise NotFinite unless all ``numbers``, computed by ``compute``, are finite.

    On a GPU this needs a synchronisation, so it is done only if ``always``.
    """
    if (always or numbers[0].device.type == "cpu") and not _finite(numbers):
        raise not_finite(model, compute)


def first_not_finite(model: nn.Module, compute: Callable[[], Any]) -> str | None:
    """The first tensor that is not finite when ``compute`` runs, named by its module; None if there is none."""
    if what := strange_weight(model):
        return what
    with _watching(model) as found:
        result = compute()
    if found:
        return found[0]
    if not _finite(result):
        return "the loss"
    if isinstance(result, Tensor) and result.requires_grad:
        model.zero_grad()
        result.backward()
        for name, weight in model.named_parameters():
            if weight.grad is not None and not weight.grad.isfinite().all():
                return f"the gradient of {name}"
        if not _finite(nn.utils.get_total_norm(p.grad for p in model.parameters() if p.grad is not None)):
            return "the norm of the gradients"
    return None


def strange_weight(model: nn.Module) -> str | None:
    """The first weight of a model that is not finite; None if there is none."""
    return next((f"the weight {name}" for name, p in model.named_parameters() if not p.isfinite().all()), None)


METHODS = ("forward", "prefill", "step", "branch", "encode", "predict")
"""Wrappers of the modules' methods: torch's hooks would see only ``forward``."""


@contextmanager
def _watching(model: nn.Module) -> Iterator[list[str]]:
    """A list that collects inputs and outputs of the model's modules that are not finite, in order."""
    found: list[str] = []

    def watched(method: Callable[..., Any], module: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not _finite((args, options)):
                found.append(f"the input of {module}")
            result = method(*args, **options)
            if not _finite(result):
                found.append(f"the output of {module}")
            return result

        return call

    changed = []
    for name, module in model.named_modules():
        for method in METHODS:
            if hasattr(module, method):
                title = f"{name} ({type(module).__name__})" if name else type(module).__name__
                module.__dict__[method] = watched(getattr(module, method), title)
                changed.append((module, method))
    try:
        yield found
    finally:
        for module, method in changed:
            del module.__dict__[method]


def _finite(value: Any) -> bool:
    """Whether all floating-point tensors in nested containers are finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    return all(map(_finite, vars(value).values())) if hasattr(value, "__dataclass_fields__") else True
