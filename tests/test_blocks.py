"""Golden values of every building block, against plain references written out from the papers' formulas."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from baselines.recurrent import GRU, LSTM
from baselines.sizing import matching_size
from baselines.transformer import PositionEncoding, Transformer, TransformerLayer, sinusoidal_encoding
from runs.agents import AGENTS, GRUConfig, LSTMConfig, TransformerConfig
from snail import (
    FEWSHOT_BLOCKS,
    SNAIL,
    TC,
    Attention,
    AttentionBlock,
    CausalConv1d,
    DenseBlock,
    TCBlock,
    parameter_count,
)
from snail.ops.dense_stack import dense_stack, dense_stack_reference

# ----- the plain references: numpy, float64, one step of one row at a time


def array(x: torch.Tensor) -> np.ndarray:
    return x.detach().double().numpy()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolve(x, weight, bias, dilation):
    """x (T, C), weight (k, C, D): step t sees x_t, x_{t-d}, x_{t-2d}, ..., and zeros before the beginning."""
    taps = len(weight)
    y = np.tile(np.asarray(bias, float), (len(x), 1))
    for t in range(len(x)):
        for back in range(taps):
            source = t - back * dilation
            if source >= 0:
                y[t] += x[source] @ weight[taps - 1 - back]
    return y  # (T, D)


def dense(x, weight, bias, dilation):
    """[x, tanh(f * x) sigmoid(g * x)]; the first half of the filters are f, the second g."""
    half = weight.shape[2] // 2
    f = convolve(x, weight[:, :, :half], bias[:half], dilation)
    g = convolve(x, weight[:, :, half:], bias[half:], dilation)
    return np.concatenate([x, np.tanh(f) * sigmoid(g)], axis=1)


def attend(x, weight, bias, key_size):
    """[x, softmax(q k^T / sqrt(K)) v], a step seeing itself and those before it."""
    qkv = x @ weight.T + bias
    q, k, v = np.split(qkv, [key_size, 2 * key_size], axis=1)
    read = []
    for t in range(len(x)):
        score = np.array([q[t] @ k[s] for s in range(t + 1)]) / math.sqrt(key_size)
        share = np.exp(score - score.max())
        share /= share.sum()
        read.append(sum(share[s] * v[s] for s in range(t + 1)))
    return np.concatenate([x, np.array(read)], axis=1)


def run_block(block, x, first_dilation=1):
    """One row (T, C) through a TC or attention block with the module's weights."""
    if isinstance(block, AttentionBlock):
        return attend(x, array(block.qkv.weight), array(block.qkv.bias), block.key_size)
    for i, conv in enumerate(block.convs):
        x = dense(x, array(conv.weight), array(conv.bias), first_dilation * 2**i)
    return x


def assert_rows_equal(module, x, reference):
    """The module's outputs (B, T, D) are the reference's, row by row."""
    expected = np.stack([reference(row) for row in array(x)])
    np.testing.assert_allclose(array(module(x)), expected, rtol=1e-9, atol=1e-12)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def doubles(*shape):
    return torch.randn(*shape, dtype=torch.float64)


# ----- causal convolutions


def test_causal_convolution_by_hand():
    conv = CausalConv1d(1, 1, kernel_size=2, dilation=2)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([10.0, 1.0])[:, None, None])
        conv.bias.fill_(0.5)
    y = conv(torch.tensor([1.0, 2.0, 3.0, 4.0])[None, :, None])
    assert y.flatten().tolist() == [1.5, 2.5, 13.5, 24.5]


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_causal_convolution_sums_its_taps(kernel_size, dilation):
    conv = CausalConv1d(3, 4, kernel_size, dilation).double()
    x = doubles(2, 11, 3)
    assert_rows_equal(conv, x, lambda row: convolve(row, array(conv.weight), array(conv.bias), dilation))
    assert conv.left_context == (kernel_size - 1) * dilation


def test_dense_block_by_hand():
    block = DenseBlock(1, 1, dilation=1)
    with torch.no_grad():
        block.convs[0].weight.copy_(torch.tensor([[[0.0, 3.0]], [[2.0, 0.0]]]))  # f = 2 x_t, g = 3 x_{t-1}
        block.convs[0].bias.zero_()
    y = block(torch.tensor([0.5, -1.0])[None, :, None])[0]
    expected = [[0.5, math.tanh(1.0) * 0.5], [-1.0, math.tanh(-2.0) / (1 + math.exp(-1.5))]]
    torch.testing.assert_close(y, torch.tensor(expected))


@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 3])
def test_dense_block_appends_gated_filters(kernel_size, dilation):
    block = DenseBlock(3, 4, dilation, kernel_size).double()
    (conv,) = block.convs
    x = doubles(2, 9, 3)
    assert_rows_equal(block, x, lambda row: dense(row, array(conv.weight), array(conv.bias), dilation))
    assert block.output_size == 3 + 4


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("first_dilation", [1, 2])
@pytest.mark.parametrize("length", [2, 9, 16])
def test_tc_block_doubles_its_dilations(length, first_dilation, kernel_size):
    block = TCBlock(3, length, 2, kernel_size, first_dilation).double()
    assert_rows_equal(block, doubles(2, length, 3), lambda row: run_block(block, row, first_dilation))


@pytest.mark.parametrize(
    "length, layers", [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (10, 4), (26, 5), (100, 7), (1024, 10)]
)
def test_tc_block_has_log2_of_the_length_layers(length, layers):
    block = TCBlock(3, length, 2)
    assert len(block.convs) == layers
    assert block.output_size == block(torch.zeros(1, 1, 3)).shape[-1] == 3 + layers * 2


def steps_that_matter(block, length, channels=3):
    """How far back from the last step the inputs are that its newest channel depends on."""
    x = doubles(1, length, channels).requires_grad_()
    block.double()(x)[0, -1, -1].backward()
    return [back for back in range(length) if x.grad[0, length - 1 - back].any()]


@pytest.mark.parametrize("length", [2, 4, 8, 16])
def test_tc_block_covers_exactly_a_power_of_two(length):
    block = TCBlock(3, length, 2)
    assert steps_that_matter(block, 2 * length) == list(range(length))
    assert block.receptive_field == length


@pytest.mark.parametrize("length", [3, 5, 7, 11, 13])
def test_tc_block_covers_other_lengths_and_up_to_the_next_power_of_two(length):
    block = TCBlock(3, length, 2)
    reached = 2 ** math.ceil(math.log2(length))
    assert steps_that_matter(block, 2 * length) == list(range(reached))
    assert length <= block.receptive_field == reached


def test_a_wider_kernel_covers_more():
    block = TCBlock(3, 8, 2, kernel_size=3)
    assert block.receptive_field == 1 + 2 * (1 + 2 + 4)
    assert steps_that_matter(block, 30) == list(range(15))


def test_starting_at_dilation_2_reads_even_offsets_only():
    block = TCBlock(3, 8, 2, first_dilation=2)
    assert steps_that_matter(block, 20) == [0, 2, 4, 6, 8, 10, 12, 14]


@pytest.mark.parametrize("kernel_size, dilation", [(0, 1), (2, 0), (-1, 1)])
def test_impossible_convolutions_are_refused(kernel_size, dilation):
    with pytest.raises(ValueError, match=f"at least 1, got {kernel_size} and {dilation}"):
        CausalConv1d(3, 4, kernel_size, dilation)


# ----- the fused stack and its plain twin


def stack(kernel_size, steps, batch, past_rows=None, layers=3, channels=3, filters=2):
    """Arguments of dense_stack, all differentiable."""
    weights = [doubles(kernel_size, channels + i * filters, 2 * filters) for i in range(layers)]
    biases = [doubles(2 * filters) for _ in range(layers)]
    x = doubles(steps, batch, channels)
    past = None
    if past_rows:  # the middle layer has no past
        past = [None if i == 1 else doubles(past_rows, 2 * filters) for i in range(layers)]
    leaves = [x, *weights, *biases, *(p for p in past or [] if p is not None)]
    for leaf in leaves:
        leaf.requires_grad_()
    return (x, weights, biases, [2**i for i in range(layers)], past), leaves


def values_and_gradients(function, arguments, leaves):
    y = function(*arguments)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return y, torch.autograd.grad((y * weights).sum(), leaves)


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4])
@pytest.mark.parametrize("steps, batch, past_rows", [(1, 3, None), (2, 3, None), (7, 2, None), (1, 6, 2), (1, 4, 4)])
def test_dense_stack_equals_its_reference(kernel_size, steps, batch, past_rows):
    arguments, leaves = stack(kernel_size, steps, batch, past_rows)
    y, gradients = values_and_gradients(dense_stack, arguments, leaves)
    expected, expected_gradients = values_and_gradients(dense_stack_reference, arguments, leaves)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("steps, batch, past_rows", [(4, 2, None), (1, 4, 2)])
def test_dense_stack_has_the_gradient_of_finite_differences(steps, batch, past_rows):
    (x, weights, biases, dilations, past), leaves = stack(2, steps, batch, past_rows, layers=2)

    def function(*_):
        return dense_stack(x, weights, biases, dilations, past)

    assert torch.autograd.gradcheck(function, leaves)


def test_each_row_of_the_past_serves_its_own_queries():
    (x, weights, biases, dilations, past), _ = stack(2, 1, 6, past_rows=2)
    for owner in range(2):
        rows = slice(3 * owner, 3 * owner + 3)
        mine = [None if p is None else p[owner : owner + 1] for p in past]
        alone = dense_stack(x[:, rows], weights, biases, dilations, mine)
        torch.testing.assert_close(dense_stack(x, weights, biases, dilations, past)[:, rows], alone)


@pytest.mark.parametrize("function", [dense_stack, dense_stack_reference])
def test_a_past_is_for_a_single_step(function):
    """What earlier steps add differs from step to step, so one term cannot serve several."""
    arguments, _ = stack(2, steps=3, batch=4, past_rows=2)
    with pytest.raises(ValueError, match="past"):
        function(*arguments)


def test_dense_stack_leaves_its_arguments_alone():
    arguments, leaves = stack(3, 1, 4, past_rows=2)
    before = [leaf.detach().clone() for leaf in leaves]
    values_and_gradients(dense_stack, arguments, leaves)
    assert all(torch.equal(a, b) for a, b in zip(before, leaves, strict=True))


def test_dense_stack_differentiates_what_asks_for_it():
    (x, weights, biases, dilations, _), _ = stack(2, 5, 2)
    frozen = [w.detach() for w in weights]
    (gradient,) = torch.autograd.grad(dense_stack(x, frozen, biases, dilations).sum(), x)
    (expected,) = torch.autograd.grad(dense_stack_reference(x, frozen, biases, dilations).sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("steps, batch, past_rows", [(7, 4, None), (1, 6, 2)])
def test_dense_stack_in_bfloat16_is_near(steps, batch, past_rows):
    arguments, leaves = stack(2, steps, batch, past_rows)
    expected, expected_gradients = values_and_gradients(dense_stack_reference, arguments, leaves)
    *_, dilations, past = arguments
    single = [leaf.detach().float().requires_grad_() for leaf in leaves]
    x, weights, biases, rest = single[0], single[1:4], single[4:7], iter(single[7:])
    past = past and [None if p is None else next(rest) for p in past]
    with torch.autocast("cpu", torch.bfloat16):
        y = dense_stack(x, weights, biases, dilations, past)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.double(), expected, rtol=0.05, atol=0.05)
    weighting = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad((y.double() * weighting).sum(), single)
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.05 * want.norm()


# ----- attention


def test_attention_by_hand():
    """Scores 0 and 2 ln 3 over keys of size 4 make shares of 1/4 and 3/4."""
    block = AttentionBlock(1, 4, 1)
    with torch.no_grad():
        block.qkv.weight.zero_()
        block.qkv.bias.zero_()
        block.qkv.bias[0] = 2 * math.log(3)  # every query is (2 ln 3, 0, 0, 0)
        block.qkv.weight[4, 0] = 1  # the key of input x is (x, 0, 0, 0)
        block.qkv.weight[8, 0], block.qkv.bias[8] = 8, 4  # its value is 8 x + 4
    y = block(torch.tensor([0.0, 1.0])[None, :, None])[0]
    torch.testing.assert_close(y, torch.tensor([[0.0, 4.0], [1.0, 0.25 * 4 + 0.75 * 12]]))


def test_attention_is_a_causal_softmax():
    block = AttentionBlock(5, 6, 4).double()
    x = 3 * doubles(2, 9, 5)
    assert_rows_equal(block, x, lambda row: run_block(block, row))
    assert block.output_size == 5 + 4


def test_indifferent_attention_averages_the_past():
    block = AttentionBlock(3, 4, 3).double()
    with torch.no_grad():
        block.qkv.weight.zero_()
        block.qkv.bias.zero_()
        block.qkv.weight[8:] = torch.eye(3)  # the value is the input
    x = doubles(2, 7, 3)
    means = torch.stack([x[:, : t + 1].mean(1) for t in range(7)], dim=1)
    torch.testing.assert_close(block(x), torch.cat([x, means], dim=-1))


def test_memory_order_of_the_input_does_not_matter():
    block, x = AttentionBlock(3, 4, 5), torch.randn(2, 7, 3)
    time_major = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert not time_major.is_contiguous()
    torch.testing.assert_close(block(time_major), block(x))
    torch.testing.assert_close(block.prefill(time_major, 8)[0], block.prefill(x, 8)[0])


def test_a_sequence_longer_than_its_cache_is_refused():
    with pytest.raises(ValueError, match="max_len 4 has no room for a sequence of 5 steps"):
        AttentionBlock(3, 4, 5).prefill(torch.randn(2, 5, 3), max_len=4)


# ----- SNAIL


@pytest.mark.parametrize("first_dilation", [1, 2])
@pytest.mark.parametrize("stem", [None, 6])
@pytest.mark.parametrize("blocks", [(Attention(3, 2), TC(2), Attention(4, 3)), (TC(3), TC(2)), ()])
def test_snail_interleaves_its_blocks(blocks, stem, first_dilation):
    model = SNAIL(4, 3, 9, blocks, stem, first_dilation=first_dilation).double()

    def reference(x):
        if stem is not None:
            x = x @ array(model.stem.weight).T + array(model.stem.bias)
        for block in model.blocks:
            x = run_block(block, x, first_dilation)
        return x @ array(model.head.weight).T + array(model.head.bias)

    assert [type(b) for b in model.blocks] == [AttentionBlock if isinstance(b, Attention) else TCBlock for b in blocks]
    assert_rows_equal(model, doubles(2, 9, 4), reference)


def widths(model):
    """Channels before each block and before the read-out."""
    return [block.input_size for block in model.blocks] + [model.head.in_features]


def attention_weights(width, key_size, value_size):
    return (width + 1) * (2 * key_size + value_size)


def tc_weights(width, filters, layers):
    """Two convolutions a layer, two taps each, each layer as much wider as there are filters."""
    return sum(2 * (2 * (width + i * filters) * filters + filters) for i in range(layers))


def test_paper_network_for_few_shot_classification():
    """5 ways, up to 5 shots: 26 steps, 5 layers a TC block; 64 + 5 channels in."""
    model = SNAIL.fewshot(embedding_size=64, ways=5)
    assert (model.input_size, model.output_size, model.max_len) == (69, 5, 26)
    # + 32, + 5 * 128, + 128, + 5 * 128, + 256
    assert widths(model) == [69, 101, 741, 869, 1509, 1765]
    expected = (
        attention_weights(69, 64, 32)
        + tc_weights(101, 128, 5)
        + attention_weights(741, 256, 128)
        + tc_weights(869, 128, 5)
        + attention_weights(1509, 512, 256)
        + 1765 * 5
        + 5
    )
    assert parameter_count(model) == expected
    assert model(torch.randn(2, 26, 69)).shape == (2, 26, 5)


def test_few_shot_network_for_other_ways_and_shots():
    """20 ways, one shot: 21 steps, still 5 layers; 2 ways, one shot: 3 steps, 2 layers."""
    assert widths(SNAIL.fewshot(64, ways=20, max_shots=1)) == [84, 116, 756, 884, 1524, 1780]
    assert widths(SNAIL.fewshot(8, ways=2, max_shots=1)) == [10, 42, 298, 426, 682, 938]


@pytest.mark.parametrize("horizon, layers", [(10, 4), (100, 7), (1000, 10)])
def test_paper_networks_for_bandits_and_mdps(horizon, layers):
    policy, value = SNAIL.policy(7, 5, horizon), SNAIL.value(7, horizon)
    first, second = 32 + 32 * layers, 32 + 64 * layers
    assert widths(policy) == [32, first, second, second + 32]
    assert parameter_count(policy) == (
        (7 + 1) * 32
        + tc_weights(32, 32, layers)
        + tc_weights(first, 32, layers)
        + attention_weights(second, 32, 32)
        + (second + 32 + 1) * 5
    )
    first, second = 32 + 16 * layers, 32 + 32 * layers
    assert widths(value) == [32, first, second, second + 16]
    assert parameter_count(value) == (
        (7 + 1) * 32
        + tc_weights(32, 16, layers)
        + tc_weights(first, 16, layers)
        + attention_weights(second, 16, 16)
        + (second + 16 + 1)
    )
    x = torch.randn(2, 10, 7)
    assert policy(x).shape == (2, 10, 5) and value(x).shape == (2, 10, 1)


def test_the_default_blocks_are_those_of_few_shot_classification():
    assert widths(SNAIL(69, 5, 26)) == widths(SNAIL(69, 5, 26, FEWSHOT_BLOCKS)) == widths(SNAIL.fewshot(64, 5))


@pytest.mark.parametrize("agent", AGENTS)
def test_inputs_of_another_width_are_refused(agent):
    model = AGENTS[agent].build("policy", 7, 5, 10)
    with pytest.raises(RuntimeError):
        model(torch.randn(2, 10, 8))
    with pytest.raises(RuntimeError):
        model.step(torch.randn(2, 6), model.init_cache(2, 10))


# ----- Transformer


def torch_layer(layer: TransformerLayer, width: int) -> nn.TransformerEncoderLayer:
    """PyTorch's own pre-norm layer with the same weights."""
    twin = nn.TransformerEncoderLayer(
        width, layer.heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    pairs = [
        (twin.norm1, layer.norm1),
        (twin.norm2, layer.norm2),
        (twin.self_attn.out_proj, layer.out),
        (twin.linear1, layer.mlp[0]),
        (twin.linear2, layer.mlp[2]),
    ]
    for to, source in pairs:
        to.load_state_dict(source.state_dict())
    with torch.no_grad():
        twin.self_attn.in_proj_weight.copy_(layer.qkv.weight)
        twin.self_attn.in_proj_bias.copy_(layer.qkv.bias)
    return twin


def shake(module):
    """Layer norms and biases begin as ones and zeros, which hide mistakes."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))


@pytest.mark.parametrize("heads", [1, 4])
def test_transformer_equals_pytorchs_encoder_with_a_causal_mask(heads):
    width, T = 16, 9
    model = Transformer(5, 3, T, width, layers=2, heads=heads)
    shake(model)
    x = torch.randn(2, T, 5)
    h = model.embed(x) + encoding_by_definition(range(T), width).float()
    mask = nn.Transformer.generate_square_subsequent_mask(T)
    for layer in model.layers:
        h = torch_layer(layer, width)(h, src_mask=mask, is_causal=True)
    torch.testing.assert_close(model(x), model.head(model.norm(h)), rtol=1e-5, atol=1e-5)


def encoding_by_definition(positions, size):
    """PE(p, 2i) = sin(p / 10000^(2i / size)), PE(p, 2i + 1) = cos of the same."""
    rows = []
    for p in positions:
        angles = [p / 10_000 ** (2 * (c // 2) / size) for c in range(size)]
        rows.append([math.sin(a) if c % 2 == 0 else math.cos(a) for c, a in enumerate(angles)])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_sinusoidal_encoding_is_that_of_the_paper(size):
    positions = torch.tensor([0, 1, 2, 10, 99])
    expected = encoding_by_definition(positions.tolist(), size)
    torch.testing.assert_close(sinusoidal_encoding(positions, size).double(), expected, rtol=1e-4, atol=1e-5)
    exact = PositionEncoding(size, 100, "sinusoidal", "add")(torch.zeros(1, 5, size, dtype=torch.float64), positions)
    torch.testing.assert_close(exact[0], expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["sinusoidal", "learned"])
@pytest.mark.parametrize("combination", ["add", "concatenate"])
def test_positions_join_the_tokens(kind, combination):
    encoding = PositionEncoding(8, 10, kind, combination)
    x, positions = torch.randn(2, 5, encoding.token_width), torch.arange(3, 8)
    size = 8 if combination == "add" else 2
    where = encoding.table[3:8] if kind == "learned" else encoding_by_definition(range(3, 8), size).float()
    assert where.shape == (5, size)
    where = where.expand(2, -1, -1)
    expected = x + where if combination == "add" else torch.cat([x, where], dim=-1)
    torch.testing.assert_close(encoding(x, positions), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape[-1] == 8


def test_tokens_are_scaled_before_sinusoids_are_added():
    """By the square root of the width (Vaswani et al. 2017, section 3.4), here 3; learned encodings start small."""
    x, positions = torch.randn(2, 5, 9), torch.arange(5)
    sinusoids = encoding_by_definition(range(5), 9).float()
    scaled = PositionEncoding(9, 10, "sinusoidal", "add", scale_tokens=True)
    torch.testing.assert_close(scaled(x, positions), 3 * x + sinusoids, rtol=1e-5, atol=1e-5)
    learned = PositionEncoding(9, 10, "learned", "add", scale_tokens=True)
    torch.testing.assert_close(learned(x, positions), x + learned.table[:5])
    model = AGENTS["transformer"].build("policy", 7, 5, 10)
    width = model.norm.normalized_shape[0]
    assert isinstance(model, Transformer) and model.position.token_scale == math.sqrt(width)
    assert TransformerConfig().build("policy", 7, 5, 10).position.token_scale == 1  # as the records without the setting


@pytest.mark.parametrize("positions, blind", [("none", True), ("sinusoidal", False), ("learned", False)])
def test_without_positions_the_order_of_the_past_is_invisible(positions, blind):
    """To one layer, that is: with more, tokens can tell how much they have seen themselves."""
    model = Transformer(3, 2, 8, 16, layers=1, positions=positions)
    shake(model)
    x = torch.randn(2, 8, 3)
    shuffled = torch.cat([x[:, [3, 1, 6, 0, 2, 5, 4]], x[:, 7:]], dim=1)
    assert torch.allclose(model(shuffled)[:, -1], model(x)[:, -1], atol=1e-5) == blind


def test_transformer_errors_quote_both_values():
    with pytest.raises(ValueError, match="multiple of heads, got 10 and 4"):
        Transformer(3, 2, 8, width=10, heads=4)
    with pytest.raises(ValueError, match="'cosine', 'add'"):
        Transformer(3, 2, 8, width=8, positions="cosine")
    with pytest.raises(ValueError, match="'sinusoidal', 'multiply'"):
        Transformer(3, 2, 8, width=8, combination="multiply")
    model = Transformer(3, 2, 8, width=8, positions="learned")
    assert model(torch.randn(1, 8, 3)).shape == (1, 8, 2)
    with pytest.raises(ValueError, match="support at most max_len 8 steps, got 9"):
        model(torch.randn(1, 9, 3))


# ----- recurrent networks


def lstm_reference(rnn, x):
    """Hochreiter & Schmidhuber's cell with forget gates: one row (T, C) -> (T, H)."""
    w, u = array(rnn.weight_ih_l0), array(rnn.weight_hh_l0)
    bias = array(rnn.bias_ih_l0) + array(rnn.bias_hh_l0)
    h = c = np.zeros(rnn.hidden_size)
    outputs = []
    for x_t in x:
        i, f, g, o = np.split(w @ x_t + u @ h + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def gru_reference(rnn, x):
    """Cho et al.'s cell, the reset gate after the product as in PyTorch: one row (T, C) -> (T, H)."""
    h = np.zeros(rnn.hidden_size)
    outputs = []
    for x_t in x:
        r_x, z_x, n_x = np.split(array(rnn.weight_ih_l0) @ x_t + array(rnn.bias_ih_l0), 3)
        r_h, z_h, n_h = np.split(array(rnn.weight_hh_l0) @ h + array(rnn.bias_hh_l0), 3)
        z = sigmoid(z_x + z_h)
        h = (1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * h
        outputs.append(h)
    return np.array(outputs)


@pytest.mark.parametrize("kind, reference", [(LSTM, lstm_reference), (GRU, gru_reference)])
def test_recurrent_cells_by_definition(kind, reference):
    model = kind(5, 3, 7).double()
    x = doubles(2, 9, 5)

    def whole(row):
        return reference(model.rnn, row) @ array(model.head.weight).T + array(model.head.bias)

    assert_rows_equal(model, x, whole)
    cache, steps = model.init_cache(2), []
    for t in range(9):
        y, cache = model.step(x[:, t], cache)
        steps.append(y)
    np.testing.assert_allclose(array(torch.stack(steps, 1)), np.stack([whole(row) for row in array(x)]), atol=1e-12)


@pytest.mark.parametrize("kind, layer", [(LSTM, nn.LSTM), (GRU, nn.GRU)])
def test_recurrent_step_is_pytorchs_layer(kind, layer):
    model = kind(5, 3, 7)
    twin = layer(5, 7, batch_first=True)
    twin.load_state_dict(model.rnn.state_dict())
    x = torch.randn(2, 9, 5)
    _, cache = model.prefill(x[:, :8])
    y, cache = model.step(x[:, 8], cache)
    hidden, last = twin(x)
    torch.testing.assert_close(y, model.head(hidden[:, -1]))
    for mine, theirs in zip(cache, last if isinstance(last, tuple) else (last,), strict=True):
        torch.testing.assert_close(mine, theirs[0])


# ----- sizes


@pytest.mark.parametrize("target", [1, 5, 30, 31, 32, 33, 1000, 12345])
@pytest.mark.parametrize("multiple", [1, 4])
def test_matching_size_comes_closest(target, multiple):
    def build(n):
        return nn.Linear(n, n)

    size = matching_size(build, target, multiple)
    candidates = range(multiple, 200, multiple)
    assert size in candidates
    assert abs(size * (size + 1) - target) == min(abs(n * (n + 1) - target) for n in candidates)


ROLES = {  # role, input_size, output_size, max_len of the paper's experiments
    "omniglot-5way": ("classifier", 69, 5, 26),
    "omniglot-20way": ("classifier", 84, 20, 101),
    "bandit-policy": ("policy", 7, 5, 10),
    "bandit-value": ("value", 7, 1, 10),
    "long-bandit-policy": ("policy", 52, 50, 1000),
    "mdp-policy": ("policy", 17, 5, 100),
    "mdp-value": ("value", 17, 1, 100),
}


SIZES = {"lstm": ("hidden_size", 1), "gru": ("hidden_size", 1), "transformer": ("width", 4)}  # in steps of


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("agent", SIZES)
def test_baselines_are_as_large_as_snail(agent, role):
    size, unit = SIZES[agent]

    def count(config):
        with torch.device("meta"):
            return parameter_count(config.build(*ROLES[role]))

    target, found = count(AGENTS["snail"]), count(AGENTS[agent])
    # heads share a Transformer's width evenly, so its smallest networks come in coarse steps
    assert found == pytest.approx(target, rel=0.08 if agent == "transformer" and target < 250_000 else 0.02)
    with torch.device("meta"):
        chosen = AGENTS[agent].build(*ROLES[role]).head.in_features
    for other in (chosen - unit, chosen + unit):  # the count grows with the size
        assert abs(found - target) <= abs(count(replace(AGENTS[agent], **{size: other})) - target)


def test_a_given_size_is_kept():
    assert LSTMConfig(hidden_size=11).build("policy", 7, 5, 10).hidden_size == 11
    assert GRUConfig(hidden_size=12).build("policy", 7, 5, 10).hidden_size == 12
    model = TransformerConfig(width=24, layers=3, heads=2).build("policy", 7, 5, 10)
    assert (model.embed.out_features, len(model.layers), model.heads) == (24, 3, 2)


def test_a_forget_bias_keeps_gradients_alive():
    """The gradient of the last output by the first input of 30 steps, and the cell that a step without input keeps."""

    def reach(bias):
        torch.manual_seed(0)
        lstm, x = LSTM(3, 1, 16, bias), torch.zeros(4, 30, 3, requires_grad=True)
        (gradient,) = torch.autograd.grad(lstm(x)[:, -1].sum(), x)
        return gradient[:, 0].norm()

    assert reach(1.0) > 100 * reach(None)
    lstm = LSTM(3, 1, 16, 1.0)
    with torch.no_grad():
        lstm.rnn.weight_ih_l0.zero_(), lstm.rnn.weight_hh_l0.zero_()
        lstm.rnn.bias_ih_l0[:16] = -1e3  # closed input gate
        cell = lstm.step(torch.zeros(1, 3), (torch.zeros(1, 16), torch.ones(1, 16)))[1][1]
    torch.testing.assert_close(cell, torch.ones(1, 16).sigmoid())


def test_without_a_forget_bias_the_lstm_is_torchs():
    """So that records from before this setting are read as what they were."""
    torch.manual_seed(0)
    ours = LSTM(3, 2, 5)
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(3, 5, batch_first=True)
    assert all(map(torch.equal, ours.rnn.parameters(), theirs.parameters()))
    assert LSTMConfig().forget_bias is None and AGENTS["lstm"].forget_bias == 1.0
