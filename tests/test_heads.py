"""The image embedding and the two heads that a sequence model is used through."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from baselines.recurrent import LSTM
from baselines.transformer import Transformer
from envs.fewshot.episodes import Episodes
from snail import (
    SNAIL,
    TC,
    ActorCritic,
    Attention,
    ConvolutionalEmbedding,
    OmniglotEmbedding,
    ResidualEmbedding,
    SequenceClassifier,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# ----- image embedding


def shaken_embedding(pool_first: bool = False, positive: bool = True) -> OmniglotEmbedding:
    """Weights and batch statistics that are no special case. The same for both orders of the layers."""
    torch.manual_seed(1)
    embedding = OmniglotEmbedding(output_size=7, filters=5, pool_first=pool_first)
    convs, norms = layers(embedding, nn.Conv2d), layers(embedding, nn.BatchNorm2d)
    torch.manual_seed(2)
    with torch.no_grad():
        for conv, norm in zip(convs, norms, strict=True):
            conv.weight.normal_(std=0.3)
            norm.weight.uniform_(0.5, 2)
            if not positive:
                norm.weight.neg_()
            norm.bias.normal_()
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        embedding.project.weight.normal_()
        embedding.project.bias.normal_()
    return embedding.eval()


def layers(module, kind):
    return [m for m in module.modules() if isinstance(m, kind)]


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)


def test_embedding_is_four_blocks_and_a_linear_layer():
    embedding, x = shaken_embedding().double(), images(3)
    h = x.double() / 255
    for conv, norm, side in zip(
        layers(embedding, nn.Conv2d), layers(embedding, nn.BatchNorm2d), (14, 7, 3, 1), strict=True
    ):
        h = F.conv2d(h, conv.weight, padding=1)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        h = (h - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
        h = F.max_pool2d(h.clamp(min=0), 2)
        assert h.shape == (3, 5, side, side)
    expected = h[:, :, 0, 0] @ embedding.project.weight.T + embedding.project.bias
    torch.testing.assert_close(embedding(x), expected)


def test_paper_sizes_of_the_embedding():
    embedding = OmniglotEmbedding()
    assert [(c.in_channels, c.out_channels, c.kernel_size) for c in layers(embedding, nn.Conv2d)] == [
        (1, 64, (3, 3)),
        (64, 64, (3, 3)),
        (64, 64, (3, 3)),
        (64, 64, (3, 3)),
    ]
    assert embedding(images(2)).shape == (2, 64) and embedding.output_size == 64


@pytest.mark.parametrize("positive", [True, False])
def test_pooling_first_commutes_with_an_increasing_normalisation(positive):
    x = images(20)
    after, before = (shaken_embedding(pool_first, positive)(x) for pool_first in (False, True))
    assert torch.allclose(after, before, rtol=1e-4, atol=1e-4) == positive


def test_pixels_are_scaled_to_the_unit_interval():
    """The same picture as integers and as numbers, and not the same picture at another contrast."""
    embedding, x = shaken_embedding(), images(2)
    torch.testing.assert_close(embedding(x), embedding(x.float()))
    assert not torch.allclose(embedding(x), embedding(x // 2))


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 3, 28, 28), (2, 1, 32, 32), (2, 1, 28, 27), (2, 28, 28, 1)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(M, 1, 28, 28\), got \(" + ", ".join(map(str, shape)) + r"\)"):
        OmniglotEmbedding(filters=2)(torch.zeros(shape, dtype=torch.uint8))


def with_random_norms(embedding: nn.Module) -> list:
    """Its batch normalisations, now all different from the identity."""
    norms = layers(embedding, nn.BatchNorm2d)
    for norm in norms:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    return norms


def test_the_convolutional_embedding_by_hand():
    embedding = ConvolutionalEmbedding(5, filters=(2, 3, 4)).double().eval()
    convs, norms = layers(embedding, nn.Conv2d), with_random_norms(embedding)
    x = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    h = (x.double() / 127.5 - 1).unflatten(3, (42, 2)).unflatten(2, (42, 2)).mean((3, 5))
    for conv, norm, side in zip(convs, norms, (21, 10, 5, 2), strict=True):
        y = F.unfold(h, 3, padding=1).transpose(1, 2) @ conv.weight.flatten(1).T  # (2, positions, channels)
        y = y.transpose(1, 2).unflatten(2, h.shape[2:])[..., : 2 * side, : 2 * side]
        y = y.unflatten(3, (side, 2)).unflatten(2, (side, 2)).amax((3, 5))
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        h = ((y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]).clamp(min=0)
    torch.testing.assert_close(embedding(x), h.mean((2, 3)))
    with pytest.raises(ValueError, match=r"of 32 pixels or more, got \(2, 3, 28, 28\)"):
        embedding(x[..., :28, :28])


def test_the_residual_embedding_is_the_papers():
    """Four blocks of three convolutions with a shortcut around them; the wide convolution before the mean."""
    embedding = ResidualEmbedding(7, filters=(3, 4, 5, 6), wide=9)
    embedding = embedding.double().eval()
    x = torch.randint(0, 256, (2, 3, 84, 84), dtype=torch.uint8)
    convs, norms = layers(embedding, nn.Conv2d), with_random_norms(embedding)
    h = x.double() / 127.5 - 1
    for block, (width, side) in enumerate(zip((3, 4, 5, 6), (42, 21, 11, 6), strict=True)):
        *main, shortcut = convs[4 * block : 4 * block + 4]
        y = h
        for conv, norm in zip(main, norms[3 * block : 3 * block + 3], strict=True):
            y = F.conv2d(y, conv.weight, padding=1)
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            y = (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
            y = torch.where(y > 0, y, 0.1 * y)
        y = y + torch.einsum("mchw,dc->mdhw", h, shortcut.weight[:, :, 0, 0]) + shortcut.bias[:, None, None]
        h = F.max_pool2d(y, 2, ceil_mode=True)
        assert h.shape == (2, width, side, side)
    h = torch.einsum("mchw,dc->mdhw", h, embedding.wide.weight) + embedding.wide.bias[:, None, None]
    h = h.mean((2, 3)).clamp(min=0)
    expected = h @ embedding.project.weight.T + embedding.project.bias
    torch.testing.assert_close(embedding(x), expected)


def test_paper_sizes_of_the_residual_embedding():
    embedding = ResidualEmbedding()
    assert [c.out_channels for c in layers(embedding, nn.Conv2d)] == [64] * 4 + [96] * 4 + [128] * 4 + [256] * 4
    assert (embedding.wide.out_features, embedding.project.out_features) == (2048, 384)
    dropped = [d.p for d in layers(embedding, nn.Dropout)]
    assert dropped == [0.1] * 5  # keep 0.9, after each block and before the last layer
    x = torch.randint(0, 256, (1, 3, 84, 84), dtype=torch.uint8)
    assert embedding.eval()(x).shape == (1, 384)
    with pytest.raises(ValueError, match=r"must be \(M, 3, 84, 84\), got \(1, 3, 28, 28\)"):
        embedding(x[..., :28, :28])


# ----- few-shot classification

WAYS, SHOTS, QUERIES, SIDE = 3, 2, 4, 6
STEPS = WAYS * SHOTS + 1


class Embedding(nn.Module):
    """Any map from images to vectors."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(SIDE, 5)

    def forward(self, x):
        return self.project(x).tanh()


MODELS = {
    "snail": lambda: SNAIL(5 + WAYS, WAYS, STEPS, (Attention(6, 4), TC(5), Attention(6, 4))),
    "lstm": lambda: LSTM(5 + WAYS, WAYS, 9),
    "transformer": lambda: Transformer(5 + WAYS, WAYS, STEPS, width=16),
    "transformer-learned": lambda: Transformer(5 + WAYS, WAYS, STEPS, width=16, positions="learned"),
}


def episodes(batch: int = 2, queries: int = QUERIES) -> Episodes:
    labels = torch.arange(WAYS).repeat(SHOTS)
    return Episodes(
        torch.randn(batch, WAYS * SHOTS, SIDE),
        torch.stack([labels[torch.randperm(len(labels))] for _ in range(batch)]),
        torch.randn(batch, queries, SIDE),
        torch.randint(WAYS, (batch, queries)),
    )


@pytest.fixture(params=MODELS)
def classifier(request) -> SequenceClassifier:
    return SequenceClassifier(Embedding(), MODELS[request.param](), WAYS).eval()


def test_each_query_ends_a_sequence_of_its_own(classifier):
    """The paper's form: N K labelled images, then one image with zeros for a label; its step's output counts."""
    task = episodes()
    logits = classifier(*task.inputs)
    assert logits.shape == (2, QUERIES, WAYS)
    for b in range(2):
        for q in range(QUERIES):
            steps = []
            for image, label in zip(task.support_x[b], task.support_y[b], strict=True):
                one_hot = [float(label == n) for n in range(WAYS)]
                steps.append(torch.cat([classifier.embedding(image), torch.tensor(one_hot)]))
            steps.append(torch.cat([classifier.embedding(task.query_x[b, q]), torch.zeros(WAYS)]))
            sequence = torch.stack(steps)[None]
            assert sequence.shape == (1, STEPS, 5 + WAYS)
            torch.testing.assert_close(logits[b, q], classifier.model(sequence)[0, -1], rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_separate_sequences(classifier):
    task = episodes()
    pasts = torch.cat([classifier.embedding(task.support_x), F.one_hot(task.support_y, WAYS).float()], dim=-1)
    lasts = torch.cat([classifier.embedding(task.query_x), torch.zeros(2, QUERIES, WAYS)], dim=-1)
    separate = torch.cat([pasts.repeat_interleave(QUERIES, 0), lasts.flatten(0, 1)[:, None]], dim=1)
    found = []
    for logits in (classifier(*task.inputs).flatten(0, 1), classifier.model(separate)[:, -1]):
        loss = F.cross_entropy(logits, task.query_y.flatten())
        found.append(
            torch.autograd.grad(loss, list(classifier.parameters()), allow_unused=True, materialize_grads=True)
        )
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-5)


def test_queries_in_another_order_give_logits_in_that_order(classifier):
    task, order = episodes(), torch.tensor([2, 0, 3, 1])
    shuffled = replace(task, query_x=task.query_x[:, order])
    torch.testing.assert_close(classifier(*shuffled.inputs), classifier(*task.inputs)[:, order])


def test_a_query_changes_its_own_logits_only(classifier):
    task = episodes()
    changed = task.query_x.clone()
    changed[:, 1] += 1
    before, after = classifier(*task.inputs), classifier(*replace(task, query_x=changed).inputs)
    others = [0, 2, 3]
    torch.testing.assert_close(after[:, others], before[:, others])
    assert not torch.allclose(after[:, 1], before[:, 1], atol=1e-3)


def test_labels_are_seen_of_the_support_and_never_of_the_queries(classifier):
    task = episodes()
    logits = classifier(*task.inputs)
    assert torch.equal(classifier(*replace(task, query_y=(task.query_y + 1) % WAYS).inputs), logits)
    relabelled = replace(task, support_y=(task.support_y + 1) % WAYS)
    assert not torch.allclose(classifier(*relabelled.inputs), logits, atol=1e-3)


def test_fewer_shots_than_the_model_was_made_for(classifier):
    task = episodes()
    one_shot = replace(task, support_x=task.support_x[:, :WAYS], support_y=task.support_y[:, :WAYS])
    assert classifier(*one_shot.inputs).shape == (2, QUERIES, WAYS)


def test_an_episode_does_not_depend_on_the_rest_of_the_batch():
    """In evaluation, that is; in training the batch is what the embedding normalises by."""
    classifier = SequenceClassifier(OmniglotEmbedding(5, 4), MODELS["snail"](), WAYS)
    support, query = images(3 * WAYS * SHOTS).unflatten(0, (3, -1)), images(3 * QUERIES).unflatten(0, (3, -1))
    task = Episodes(support, episodes(3).support_y, query, episodes(3).query_y)
    first = Episodes(*(getattr(task, name)[:1] for name in ("support_x", "support_y", "query_x", "query_y")))
    for training in (False, True):
        classifier.train(training)
        with torch.no_grad():
            same = torch.allclose(classifier(*first.inputs), classifier(*task.inputs)[:1], atol=1e-5)
        assert same != training


def test_logits_are_single_precision_under_autocast(classifier):
    task = episodes()
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(*task.inputs)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, classifier(*task.inputs), rtol=0.1, atol=0.05)


# ----- acting

STATES, ACTIONS, HORIZON = 4, 3, 8


def actor(states: int = STATES, shared: bool = False) -> ActorCritic:
    channels = ActorCritic.input_size(states, ACTIONS)
    policy = SNAIL.policy(channels, ACTIONS + shared, HORIZON)
    return ActorCritic(policy, None if shared else SNAIL.value(channels, HORIZON), states, ACTIONS)


def test_input_is_observation_action_reward_and_flag():
    x = actor().encode(
        torch.tensor([2, 0]), torch.tensor([1, 2]), torch.tensor([-0.5, 3.0]), torch.tensor([False, True])
    )
    assert x.tolist() == [[0, 0, 1, 0, 0, 1, 0, -0.5, 0], [1, 0, 0, 0, 0, 0, 1, 3.0, 1]]
    assert x.shape[-1] == ActorCritic.input_size(STATES, ACTIONS) == STATES + ACTIONS + 2


def test_a_single_observation_has_no_channel():
    nothing = torch.zeros(2, dtype=torch.long)
    x = actor(states=1).encode(nothing, torch.tensor([1, 2]), torch.tensor([1.0, 0.0]), torch.tensor([True, True]))
    assert x.tolist() == [[0, 1, 0, 1, 1], [0, 0, 1, 0, 1]]
    assert x.shape[-1] == ActorCritic.input_size(1, ACTIONS) == ACTIONS + 2


def test_whole_trials_are_encoded_at_once():
    agent, shape = actor(), (2, HORIZON)
    steps = torch.randint(STATES, shape), torch.randint(ACTIONS, shape), torch.randn(shape), torch.rand(shape) < 0.5
    one_by_one = torch.stack([agent.encode(*(s[:, t] for s in steps)) for t in range(HORIZON)], dim=1)
    assert torch.equal(agent.encode(*steps), one_by_one)


def test_first_input_is_action_0_reward_0_and_flag_1():
    assert actor().first_input(torch.tensor([1, 3])).tolist() == [
        [0, 1, 0, 0, 1, 0, 0, 0, 1],
        [0, 0, 0, 1, 1, 0, 0, 0, 1],
    ]
    assert actor(states=1).first_input(torch.tensor([0])).tolist() == [[1, 0, 0, 0, 1]]


@pytest.mark.parametrize("shared", [False, True])
def test_acting_agrees_with_the_parallel_form(shared):
    agent = actor(shared=shared)
    x = torch.randn(5, HORIZON, agent.policy.input_size)
    cache, steps = agent.init_cache(5, HORIZON), []
    with torch.no_grad():
        for t in range(HORIZON):
            logits, cache = agent.act(x[:, t], cache)
            steps.append(logits.clone())
        logits, values = agent(x)
    assert logits.shape == (5, HORIZON, ACTIONS) and values.shape == (5, HORIZON)
    torch.testing.assert_close(torch.stack(steps, dim=1), logits, rtol=1e-4, atol=1e-5)


def test_two_networks_share_nothing():
    agent = actor()
    x = torch.randn(2, HORIZON, agent.policy.input_size)
    logits, values = agent(x)
    torch.testing.assert_close(logits, agent.policy(x))
    torch.testing.assert_close(values, agent.value(x)[..., 0])
    values.sum().backward()
    assert all(p.grad is None for p in agent.policy.parameters())


def test_a_shared_trunk_writes_the_value_last():
    agent = actor(shared=True)
    x = torch.randn(2, HORIZON, agent.policy.input_size)
    logits, values = agent(x)
    y = agent.policy(x)
    assert y.shape[-1] == ACTIONS + 1
    torch.testing.assert_close(logits, y[..., :ACTIONS])
    torch.testing.assert_close(values, y[..., ACTIONS])


@pytest.mark.parametrize("shared", [False, True])
def test_foreseen_rewards_leave_logits_and_values_their_places(shared):
    """The outputs of the policy network are the logits, a reward for each action, and the value if it is shared."""
    torch.manual_seed(0)
    channels = ActorCritic.input_size(STATES, ACTIONS)
    policy = SNAIL.policy(channels, 2 * ACTIONS + shared, HORIZON)
    agent = ActorCritic(policy, None if shared else SNAIL.value(channels, HORIZON), STATES, ACTIONS)
    x = torch.randn(2, HORIZON, channels)
    with torch.no_grad():
        y = policy(x)
        logits, values, rewards = agent.with_predicted_rewards(x)
        assert torch.equal(logits, y[..., :ACTIONS]) and torch.equal(rewards, y[..., ACTIONS : 2 * ACTIONS])
        assert torch.equal(values, y[..., -1] if shared else agent.value(x)[..., 0])
        first, second = agent(x)
        assert torch.equal(first, logits) and torch.equal(second, values)
        assert agent.act(x[:, 0], agent.init_cache(2, HORIZON))[0].shape == (2, ACTIONS)
        assert actor(shared=shared).with_predicted_rewards(x)[2].shape == (2, HORIZON, 0)
