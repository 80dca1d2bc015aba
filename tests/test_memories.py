"""Memories of fixed size against their published recurrences, step by step in float64, and beyond what laws cover."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from baselines import linear_attention, mamba, min_recurrent, xlstm
from baselines.flash import Replaced
from baselines.linear_attention import LinearAttention, read_and_write, unit
from baselines.mamba import Mamba2
from baselines.min_recurrent import MinGRU, MinLSTM, log_scan
from baselines.residual import Memory, Residual, ShortConvolution
from baselines.rotary import rotate
from baselines.state_space import DiagonalStateSpace, scan
from baselines.xlstm import MatrixLSTM, ScalarLSTM

W, B, T = 8, 2, 150  # T: longer than two chunks
MEMORIES = {
    "s5": lambda: DiagonalStateSpace(W, 6),
    "mamba2": lambda: Mamba2(W, 4, 4),
    "gated-deltanet": lambda: LinearAttention(W, 2),
    "deltanet": lambda: LinearAttention(W, 2, gated=False),
    "gated": lambda: LinearAttention(W, 2, delta=False),
    "linear-attention": lambda: LinearAttention(W, 2, delta=False, gated=False),
    "mingru": lambda: MinGRU(W),
    "minlstm": lambda: MinLSTM(W),
    "mlstm": lambda: MatrixLSTM(W, 2),
    "slstm": lambda: ScalarLSTM(W, 2),
}


def memory(name: str, dtype: torch.dtype = torch.float64) -> Memory:
    torch.manual_seed(0)
    return MEMORIES[name]().to(dtype)


def sequence(steps: int = T) -> Tensor:
    return torch.randn(B, steps, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def convolved(layer: ShortConvolution, x: Tensor) -> Tensor:
    """By torch's own convolution: (T, W) -> (T, W)."""
    taps = layer.weight.shape[-1]
    padded = F.pad(x.T, (taps - 1, 0))
    return F.silu(F.conv1d(padded, layer.weight, layer.bias, groups=x.shape[1]).T)


def normed(layer: torch.nn.RMSNorm, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + layer.eps).sqrt() * layer.weight


# ----- each recurrence as published, for one sequence (T, W)


def s5(m: DiagonalStateSpace, x: Tensor) -> Tensor:
    decay, delta = torch.complex(-m.log_decay.exp(), m.frequency), m.log_step.exp()
    a, P, ys = torch.exp(decay * delta), m.states, []
    into = torch.complex(m.input.weight[:P], m.input.weight[P:])
    out = torch.complex(m.output.weight[:, :P], -m.output.weight[:, P:])
    h = torch.zeros(P, dtype=torch.complex128)
    for u in x:
        h = a * h + (a - 1) / decay * (into @ u.to(torch.complex128))
        ys.append(2 * (out @ h).real + m.skip * u)
    y = F.gelu(torch.stack(ys))
    return y * (y @ m.gate.weight.T + m.gate.bias).sigmoid()


def mamba2(m: Mamba2, x: Tensor) -> Tensor:
    H, N, P = m.heads, m.states, m.head_size
    z, mixed, step = (x @ m.input.weight.T).split([m.inner, m.inner + 2 * N, H], dim=-1)
    u, b, c = convolved(m.convolution, mixed).split([m.inner, N, N], dim=-1)
    state, ys = torch.zeros(H, N, P, dtype=torch.float64), []
    for t in range(len(x)):
        dt = torch.log1p((step[t] + m.step_bias).exp())
        heads = u[t].view(H, P)
        for h in range(H):
            kept = torch.exp(-m.log_rate[h].exp() * dt[h])
            state[h] = kept * state[h] + dt[h] * torch.outer(b[t], heads[h])
        ys.append(torch.cat([state[h].T @ c[t] + m.skip[h] * heads[h] for h in range(H)]))
    return normed(m.norm, torch.stack(ys) * F.silu(z)) @ m.output.weight.T


def linear(m: LinearAttention, x: Tensor) -> Tensor:
    H, K = m.heads, m.size
    q, k, v = convolved(m.convolution, x @ m.qkv.weight.T).view(len(x), 3, H, K).unbind(1)
    state, ys = torch.zeros(H, K, K, dtype=torch.float64), []
    for t in range(len(x)):
        heads = []
        for h in range(H):
            qh, kh = unit(q[t, h]), unit(k[t, h])
            a = torch.ones(()) if m.decay is None else m.decay(x[None, t : t + 1])[0, h, 0].exp()
            if m.beta is None:
                state[h] = a * state[h] + torch.outer(kh, v[t, h])
            else:  # S (I - beta k k^T) a + beta v k^T, transposed
                beta = m.beta(x[t]).sigmoid()[h]
                state[h] = a * (torch.eye(K) - beta * torch.outer(kh, kh)) @ state[h] + beta * torch.outer(kh, v[t, h])
            heads.append(normed(m.norm, state[h].T @ qh))
        ys.append(torch.cat(heads))
    return (torch.stack(ys) * F.silu(x @ m.gate.weight.T)) @ m.output.weight.T


def minimal(m: MinGRU | MinLSTM, x: Tensor) -> Tensor:
    candidate, *gates = (x @ m.input.weight.T + m.input.bias).chunk(m.gates + 1, dim=-1)
    g = torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
    if isinstance(m, MinGRU):
        forget, admit = 1 - gates[0].sigmoid(), gates[0].sigmoid()
    else:
        forget, admit = (a.sigmoid() / (gates[0].sigmoid() + gates[1].sigmoid()) for a in gates)
    h, hs = torch.full((m.size,), 0.5, dtype=torch.float64), []
    for t in range(len(x)):
        h = forget[t] * h + admit[t] * g[t]
        hs.append(h)
    return torch.stack(hs) @ m.output.weight.T + m.output.bias


def mlstm(m: MatrixLSTM, x: Tensor) -> Tensor:
    H, K = m.heads, m.size
    smooth = convolved(m.convolution, x)
    q, k = (smooth @ m.qk.weight.T).view(len(x), 2, H, K).unbind(1)
    v = (x @ m.v.weight.T).view(len(x), H, K)
    gates = (smooth @ m.gates.weight.T + m.gates.bias).view(len(x), 2, H)
    f, i = gates[:, 0].sigmoid(), gates[:, 1].exp()  # not stabilised
    C, n, ys = torch.zeros(H, K, K, dtype=torch.float64), torch.zeros(H, K, dtype=torch.float64), []
    for t in range(len(x)):
        heads = []
        for h in range(H):
            key = k[t, h] / math.sqrt(K)
            C[h] = f[t, h] * C[h] + i[t, h] * torch.outer(v[t, h], key)
            n[h] = f[t, h] * n[h] + i[t, h] * key
            heads.append(normed(m.norm, C[h] @ q[t, h] / max(abs(n[h] @ q[t, h]), torch.ones(()))))
        ys.append(torch.cat(heads))
    opened = (x @ m.open.weight.T + m.open.bias).sigmoid()
    return (opened * torch.stack(ys)) @ m.output.weight.T


def slstm(m: ScalarLSTM, x: Tensor) -> Tensor:
    H, K = m.heads, m.size
    told = (x @ m.input.weight.T + m.input.bias).view(len(x), H, 4, K)
    h, c, n = (torch.zeros(H, K, dtype=torch.float64) for _ in range(3))
    ys = []
    for t in range(len(x)):
        mixed = torch.stack([h[j] @ m.recurrent[j] for j in range(H)]).view(H, 4, K)
        i, f, z, o = (told[t] + mixed).unbind(1)
        c, n = f.sigmoid() * c + i.exp() * z.tanh(), f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        ys.append(normed(m.norm, h).flatten())
    return torch.stack(ys) @ m.output.weight.T


PUBLISHED = {
    "s5": s5,
    "mamba2": mamba2,
    **dict.fromkeys(("gated-deltanet", "deltanet", "gated", "linear-attention"), linear),
    **dict.fromkeys(("mingru", "minlstm"), minimal),
    "mlstm": mlstm,
    "slstm": slstm,
}


@pytest.mark.parametrize("name", MEMORIES)
@torch.no_grad()
def test_it_is_the_published_recurrence(name):
    m, x = memory(name), sequence()
    y, _ = m(x, m.init_state(B))
    for b in range(B):
        torch.testing.assert_close(y[b], PUBLISHED[name](m, x[b]), atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("name", MEMORIES)
@torch.no_grad()
def test_it_goes_on_from_anywhere(name):
    """In pieces of any length, also within a chunk, and step by step."""
    m, x = memory(name), sequence()
    whole, last = m(x, m.init_state(B))
    state, found = m.init_state(B), []
    for piece in x.split([1, 1, 62, 70, 16], dim=1):
        y, state = m(piece, state)
        found.append(y)
    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-10, rtol=1e-9)
    torch.testing.assert_close(state, last, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("name", MEMORIES)
def test_gradients_are_those_of_differences(name, monkeypatch):
    """Across chunks: input, state and parameters."""
    for module in (linear_attention, min_recurrent, xlstm):
        monkeypatch.setattr(module, "CHUNK", 2)
    m, x = memory(name), sequence(5)
    names = [n for n, _ in m.named_parameters()]
    state = tuple(s + 0.1 for s in m.init_state(B))

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, rest[len(state) :], strict=True))
        y, after = torch.func.functional_call(m, parameters, (x, rest[: len(state)]))
        return y, *after

    given = [x, *state, *(p.detach() for p in m.parameters())]
    assert torch.autograd.gradcheck(run, [g.clone().requires_grad_() for g in given], fast_mode=True)


@pytest.mark.parametrize("name", MEMORIES)
@torch.no_grad()
def test_a_long_sequence_stays_finite_and_in_step(name):
    """In float32, with inputs that are large now and then."""
    m = memory(name, torch.float32)
    x = sequence(600).float()
    x[:, 100::97] *= 30
    y, _ = m(x, m.init_state(B))
    assert y.isfinite().all()
    state, found = m.init_state(B), []
    for x_t in x.split(1, dim=1):
        y_t, state = m(x_t, state)
        found.append(y_t)
    torch.testing.assert_close(torch.cat(found, dim=1), y, atol=2e-3 * float(y.abs().max()), rtol=0)


@pytest.mark.parametrize("name", MEMORIES)
@torch.no_grad()
def test_what_is_kept_has_one_size(name):
    """However long the past was: not a view of all of it."""
    m, sizes = memory(name), set()
    for steps in (5, 200):
        _, state = m(sequence(steps), m.init_state(B))
        sizes.add(sum(s.untyped_storage().nbytes() for s in state))
    assert len(sizes) == 1


@pytest.mark.parametrize("name", MEMORIES)
@torch.no_grad()
def test_half_precision_is_near(name):
    torch.manual_seed(0)
    model = Residual(5, 3, W, [MEMORIES[name]])
    x = torch.randn(2, 70, 5)
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, cache = model.prefill(x)
        assert all(s.dtype == torch.float32 for s in cache[0][1:])  # what is accumulated
        z, _ = model.step(x[:, 0], cache)
    assert z.isfinite().all() and (y - exact).abs().max() < 0.1 * exact.abs().max()


def test_scans_are_loops():
    g = torch.Generator().manual_seed(0)
    a = torch.rand(3, generator=g, dtype=torch.float64)
    x = torch.randn(2, 37, 3, generator=g, dtype=torch.float64)
    h, found = torch.zeros(2, 3, dtype=torch.float64), []
    for x_t in x.unbind(1):
        h = a * h + x_t
        found.append(h)
    torch.testing.assert_close(scan(a, x), torch.stack(found, 1))
    f, i = torch.rand(2, 2, 100, 3, generator=g, dtype=torch.float64)
    h, found = torch.ones(2, 3, dtype=torch.float64), []
    for f_t, i_t in zip(f.unbind(1), i.unbind(1), strict=True):
        h = f_t * h + i_t
        found.append(h)
    torch.testing.assert_close(log_scan(f.log(), i.log(), torch.zeros(2, 3)).exp(), torch.stack(found, 1))


def test_a_delta_rule_stores_what_it_is_told():
    """With beta 1 and no decay a value is read back by its key, whatever was there before."""
    torch.manual_seed(0)
    k = unit(torch.randn(1, 1, 100, 4, dtype=torch.float64)) * (1 + 1e-5)
    v = torch.randn(1, 1, 100, 3, dtype=torch.float64)
    o, _ = read_and_write(k, k, v, torch.zeros(1, 1, 100), torch.randn(1, 1, 4, 3).double(), torch.ones(1, 1, 100))
    torch.testing.assert_close(o, v, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["linear-attention", "gated-deltanet", "mamba2"])
@torch.no_grad()
def test_what_chooses_kernels_is_in_half_precision_under_autocast(name, monkeypatch):
    """On a processor they are never chosen; so far the same must hold there."""
    seen = []
    for module in (linear_attention, mamba):
        monkeypatch.setattr(module, "fastest", lambda plain, inputs: seen.append(inputs) or plain)
    torch.manual_seed(0)
    model, x = Residual(5, 3, W, [MEMORIES[name]]), torch.randn(2, 7, 5)
    model(x)
    with torch.autocast("cpu", torch.bfloat16):
        model(x)
    assert [(x.dtype, *x.shape[:2]) for x in seen] == [(torch.float32, 2, 7), (torch.bfloat16, 2, 7)]


@pytest.mark.parametrize("delta", [True, False])
def test_a_replaced_rule_keeps_all_derivatives(delta):
    """By a stand-in for the kernels, whose derivatives are not differentiable either: the loop, step by step."""
    calls = []

    def loop(q, k, v, log_decay, memory, beta=None):
        calls.append("loop")
        found = []
        for t in range(q.shape[2]):
            decay = log_decay[:, :, t, None, None].exp()
            written = v[:, :, t]
            if beta is not None:
                stored = ((decay * memory).mT @ k[:, :, t, :, None])[..., 0]
                written = beta[:, :, t, None] * (written - stored)
            memory = decay * memory + k[:, :, t, :, None] * written[:, :, None]
            found.append((memory.mT @ q[:, :, t, :, None])[..., 0])
        return torch.stack(found, 2), memory

    def plain(*args):
        calls.append("plain")
        return read_and_write(*args)

    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 5, 3, dtype=torch.float64)
    inputs = [q, unit(k), v, -torch.rand(1, 2, 5).double(), torch.randn(1, 2, 3, 3).double()]
    inputs += [torch.rand(1, 2, 5).double()] if delta else []
    for x in inputs:
        x.requires_grad_()
    rule = partial(Replaced.apply, loop, plain)
    for ours, expected in zip(rule(*inputs), read_and_write(*inputs), strict=True):
        torch.testing.assert_close(ours, expected)
    assert torch.autograd.gradcheck(rule, inputs, fast_mode=True)
    first = torch.autograd.grad(sum(y.square().sum() for y in rule(*inputs)), inputs)
    for ours, expected in zip(
        first, torch.autograd.grad(sum(y.square().sum() for y in loop(*inputs)), inputs), strict=True
    ):
        torch.testing.assert_close(ours, expected)
    assert "plain" not in calls
    assert torch.autograd.gradgradcheck(rule, inputs, fast_mode=True)
    with torch.no_grad():
        assert not rule(*inputs)[0].requires_grad


def test_rotated_products_depend_on_distances():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64)

    def product(at_q: int, at_k: int) -> Tensor:
        return (rotate(q, torch.tensor([at_q])) * rotate(k, torch.tensor([at_k]))).sum()

    torch.testing.assert_close(product(9, 4), product(105, 100))
    assert not torch.isclose(product(9, 4), product(9, 5))
    pairs = torch.view_as_complex(torch.stack(q.chunk(2, dim=-1), dim=-1))  # channel i with channel i + K / 2
    turned = pairs * torch.exp(1j * 7 * 10_000.0 ** (-torch.arange(3) / 3))
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    torch.testing.assert_close(rotate(q, torch.tensor([7])), expected)
