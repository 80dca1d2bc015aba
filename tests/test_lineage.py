"""What SNAIL descends from: encoder-decoders, transfer learning and attention inside an image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import noise_classes
from torch import nn

import runs.tasks
from baselines.encoder_decoder import (
    AligningEncoderDecoder,
    EncoderDecoderClassifier,
    RecurrentEncoderDecoder,
    TransformerEncoderDecoder,
)
from baselines.set_attention import SetTransformer
from baselines.transfer import TransferClassifier, fit_linear_classifier
from envs.fewshot.episodes import Episodes
from runs.agents import FEWSHOT_AGENTS, FEWSHOT_VARIANTS, EmbeddingSNAILConfig, SNAILConfig
from runs.agents.embeddings import GlimpseEmbeddingConfig
from runs.catalogue import find
from runs.system.errors import RunError
from runs.system.machine import Machine
from runs.training import build_learner
from snail.attention.selection import recording, score_function_loss
from snail.embedding import OmniglotEmbedding
from snail.visual_attention import GlimpseEmbedding, SelfAttention2d

pytestmark = pytest.mark.slow

C, D = 6, 3
MODELS = {
    "seq2seq": lambda: RecurrentEncoderDecoder(C, D, 8),
    "aligned": lambda: AligningEncoderDecoder(C, D, 8),
    "transformer": lambda: TransformerEncoderDecoder(C, D, 8, heads=2),
    "set-transformer": lambda: SetTransformer(C, D, 8, heads=2),
    "transformer-set": lambda: TransformerEncoderDecoder(C, D, 8, heads=2, positions="none"),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]()


def test_targets_do_not_see_each_other(model):
    source, targets = torch.randn(2, 5, C), torch.randn(2, 4, C)
    together = model(source, targets)
    alone = torch.cat([model(source, targets[:, q : q + 1]) for q in range(4)], dim=1)
    assert together.shape == (2, 4, D)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)


def test_every_item_of_the_source_matters_and_other_rows_do_not(model):
    source, targets = torch.randn(2, 5, C, requires_grad=True), torch.randn(2, 4, C)
    (gradient,) = torch.autograd.grad(model(source, targets)[0].square().sum(), source)
    assert (gradient[0].abs().sum(-1) > 0).all()
    assert (gradient[1] == 0).all()


def test_the_squeezed_encoder_hands_over_one_vector():
    """Two sources that end in the same state cannot be told apart."""
    model = MODELS["seq2seq"]()
    source, targets = torch.randn(1, 5, C), torch.randn(1, 3, C)
    state = model.encoder(source)[1][0]  # (1, H)
    decoded = model.decoder(targets[0], state.expand(3, -1))
    torch.testing.assert_close(model(source, targets)[0], model.head(decoded))


def test_the_alignment_is_bahdanaus():
    """``softmax(v . tanh(W s + U h))`` over the states of both directions, number by number."""
    torch.manual_seed(0)
    model = MODELS["aligned"]().double()
    source, targets = torch.randn(1, 5, C).double(), torch.randn(1, 2, C).double()
    with recording(weights=True) as tape:
        y = model(source, targets)
    (weights,) = tape.weights
    assert weights.shape == (1, 1, 2, 5)
    states, last = model.encoder(source)
    for q in range(2):
        s = model.first(torch.cat([last[1, 0], targets[0, q]])).tanh()
        e = torch.stack([model.score.vector[0] @ (model.query(s) + model.key(h)).tanh() for h in states[0]])
        torch.testing.assert_close(weights[0, 0, q], e.softmax(0).detach())
        context = sum(w * h for w, h in zip(e.softmax(0), states[0], strict=True))
        torch.testing.assert_close(y[0, q], model.head(model.decoder(context[None], s[None]))[0])


def copy_attention(theirs: nn.MultiheadAttention, qkv, out):
    theirs.in_proj_weight.data = torch.cat([p.weight for p in qkv]).detach().clone()
    theirs.in_proj_bias.data = torch.cat([p.bias for p in qkv]).detach().clone()
    theirs.out_proj.load_state_dict(out.state_dict())


def torch_transformer(model: TransformerEncoderDecoder, width: int, heads: int, layers: int) -> nn.Transformer:
    theirs = nn.Transformer(
        width, heads, layers, layers, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    for mine, other in zip(model.encoder, theirs.encoder.layers, strict=True):
        copy_attention(other.self_attn, [mine.qkv], mine.out)
        for a, b in (
            (mine.norm1, other.norm1),
            (mine.norm2, other.norm2),
            (mine.mlp[0], other.linear1),
            (mine.mlp[2], other.linear2),
        ):
            b.load_state_dict(a.state_dict())
    for mine, other in zip(model.decoder, theirs.decoder.layers, strict=True):
        copy_attention(other.self_attn, [mine.qkv], mine.out)
        copy_attention(other.multihead_attn, [mine.query, mine.key_value], mine.cross_out)
        for a, b in (
            (mine.norm1, other.norm1),
            (mine.norm2, other.norm2),
            (mine.norm3, other.norm3),
            (mine.mlp[0], other.linear1),
            (mine.mlp[2], other.linear2),
        ):
            b.load_state_dict(a.state_dict())
    theirs.encoder.norm.load_state_dict(model.encoder_norm.state_dict())
    theirs.decoder.norm.load_state_dict(model.norm.state_dict())
    return theirs.eval()


@pytest.mark.parametrize(("heads", "layers"), [(1, 1), (2, 2), (4, 3)])
def test_the_transformer_is_pytorchs(heads, layers):
    """With the same weights, shaken away from their start, where norms and biases hide mistakes."""
    torch.manual_seed(0)
    width = 8
    model = TransformerEncoderDecoder(width, width, width, layers, heads, positions="none")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    theirs = torch_transformer(model, width, heads, layers)
    source, target = torch.randn(2, 5, width), torch.randn(2, 4, width)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    with torch.no_grad():
        expected = model.head(theirs(model.embed(source), model.embed(target), tgt_mask=mask))
        torch.testing.assert_close(model.translate(source, target), expected, atol=1e-5, rtol=1e-5)


def test_the_translation_is_causal_in_its_target():
    torch.manual_seed(0)
    model = MODELS["transformer"]()
    source, target = torch.randn(1, 5, C), torch.randn(1, 4, C)
    later = torch.cat([target[:, :2], torch.randn(1, 2, C)], dim=1)
    assert torch.equal(model.translate(source, target)[:, :2], model.translate(source, later)[:, :2])


def test_unmasked_self_attention_without_positions_is_permutation_equivariant():
    torch.manual_seed(0)
    source, order = torch.randn(2, 5, C), torch.tensor([3, 0, 4, 1, 2])
    blind, seeing = MODELS["transformer-set"](), MODELS["transformer"]()
    torch.testing.assert_close(blind.encode(source)[:, order], blind.encode(source[:, order]))
    assert not torch.allclose(seeing.encode(source)[:, order], seeing.encode(source[:, order]), atol=1e-3)
    targets = torch.randn(2, 3, C)  # so what is decoded does not depend on the order of a support set
    torch.testing.assert_close(blind(source, targets), blind(source[:, order], targets))


def test_a_set_transformer_is_pytorchs_encoder_with_the_target_masked_from_the_source():
    """PyTorch's own layers on the source and one target, which reads all and which nobody reads."""
    torch.manual_seed(0)
    model = MODELS["set-transformer"]()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    layer = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    for mine, other in zip(model.layers, theirs.layers, strict=True):
        copy_attention(other.self_attn, [mine.qkv], mine.out)
        pairs = ((mine.norm1, other.norm1), (mine.norm2, other.norm2))
        for a, b in (*pairs, (mine.mlp[0], other.linear1), (mine.mlp[2], other.linear2)):
            b.load_state_dict(a.state_dict())
    source, targets = torch.randn(2, 5, C), torch.randn(2, 4, C)
    hidden = torch.zeros(6, 6, dtype=torch.bool)
    hidden[:5, 5] = True
    with torch.no_grad():
        got = model(source, targets)
        for q in range(4):
            tokens = model.embed(torch.cat([source, targets[:, q : q + 1]], dim=1))
            expected = model.head(model.norm(theirs(tokens, mask=hidden)[:, -1]))
            torch.testing.assert_close(got[:, q], expected, atol=1e-5, rtol=1e-5)


def test_a_set_has_no_order():
    torch.manual_seed(0)
    model, order = MODELS["set-transformer"](), torch.tensor([3, 0, 4, 1, 2])
    source, targets = torch.randn(2, 5, C), torch.randn(2, 3, C)
    torch.testing.assert_close(model(source, targets), model(source[:, order], targets))


def test_a_tape_gets_the_attention_over_the_source():
    torch.manual_seed(0)
    model, source, targets = MODELS["transformer"](), torch.randn(2, 5, C), torch.randn(2, 3, C)
    with recording(weights=True) as tape:
        y = model(source, targets)
    assert [tuple(w.shape) for w in tape.weights] == [(2, 2, 3, 5)] * 2  # a decoder layer each
    torch.testing.assert_close(y, model(source, targets))


def test_errors_quote_both_values():
    with pytest.raises(ValueError, match="width must be a multiple of heads, got 6 and 4"):
        TransformerEncoderDecoder(C, D, 6, heads=4)
    with pytest.raises(ValueError, match="glimpses must be at least 1, got 0"):
        GlimpseEmbedding(glimpses=0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        TransferClassifier(nn.Identity(), 5, steps=0)


# ----- transfer learning


def test_the_linear_classifier_is_that_of_gradient_descent():
    """Against automatic differentiation of the cross-entropy, episode by episode."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 6, 4, dtype=torch.float64), torch.tensor([[0, 1, 2, 0, 1, 2], [2, 2, 1, 1, 0, 0]])
    weight, bias = fit_linear_classifier(x, y, 3, steps=7, learning_rate=0.5)
    for b in range(2):
        w = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
        c = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([w, c], 0.5)
        for _ in range(7):
            optimizer.zero_grad()
            F.cross_entropy(x[b] @ w.T + c, y[b]).backward()
            optimizer.step()
        torch.testing.assert_close(weight[b], w.detach())
        torch.testing.assert_close(bias[b], c.detach())


def test_transfer_learns_an_episode_and_nothing_of_its_queries():
    torch.manual_seed(0)
    means = 3 * torch.randn(2, 5, 8)
    support = (means[:, :, None] + 0.3 * torch.randn(2, 5, 2, 8)).flatten(1, 2)
    labels = torch.arange(5).repeat_interleave(2).expand(2, -1)
    episodes = Episodes(support, labels, means + 0.3 * torch.randn(2, 5, 8), torch.arange(5).expand(2, -1))
    model = TransferClassifier(nn.Identity(), 5)
    assert (model(*episodes.inputs).argmax(-1) == episodes.query_y).all()
    one = replace(episodes, query_x=episodes.query_x[:, :1], query_y=episodes.query_y[:, :1])
    torch.testing.assert_close(model(*one.inputs), model(*episodes.inputs)[:, :1])


def test_transfer_is_trained_on_classes_alone(monkeypatch):
    monkeypatch.setattr(runs.tasks, "load_classes", noise_classes)
    config = find("glyphs/5way-1shot").config("snail", budget="smoke")
    catalogued = find("omniglot/5way-1shot").config("transfer", budget="smoke")
    assert catalogued.training.class_loss > 0 == catalogued.training.prototype_loss
    assert find("omniglot/5way-1shot").algorithms("transfer") == ("pretraining",)
    assert find("omniglot/5way-1shot").algorithms("snail") == ("supervised", "paper")
    assert find("omniglot/5way-1shot").algorithms("maml") == ("supervised",)
    learner = build_learner(replace(config, model=catalogued.model, training=catalogued.training), Machine.named("cpu"))
    before = [p.clone() for p in learner.model.parameters()]
    learner.update(0)
    assert any(not torch.equal(p, b) for p, b in zip(learner.model.parameters(), before, strict=True))


# ----- attention inside an image


def test_self_attention_starts_as_the_identity_and_reads_everywhere():
    torch.manual_seed(0)
    block, x = SelfAttention2d(8), torch.randn(2, 8, 3, 4)
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.gate.fill_(0.7)
    q, k, v = F.conv2d(x, block.qkv.weight, block.qkv.bias).split([1, 1, 8], dim=1)
    expected = x.clone()
    for m in range(2):
        for i in range(12):
            scores = torch.stack([(q[m, :, i // 4, i % 4] * k[m, :, j // 4, j % 4]).sum() for j in range(12)])
            read = sum(a * v[m, :, j // 4, j % 4] for j, a in enumerate(scores.softmax(0)))
            expected[m, :, i // 4, i % 4] += 0.7 * read
    torch.testing.assert_close(block(x), expected)


def test_an_embedding_with_self_attention_is_at_first_as_without():
    torch.manual_seed(0)
    images = torch.randint(256, (3, 1, 28, 28), dtype=torch.uint8)
    plain, attentive = OmniglotEmbedding().eval(), OmniglotEmbedding(self_attention=True).eval()
    named = dict(attentive.named_parameters())
    kept = [p for name, p in named.items() if not any(part in name for part in ("qkv", "gate"))]
    for p, mine in zip(plain.parameters(), kept, strict=True):
        mine.data = p.data
    torch.testing.assert_close(attentive(images), plain(images))
    attentive(images).sum().backward()
    (gate,) = (p for name, p in named.items() if "gate" in name)
    assert gate.grad is not None and gate.grad != 0


@pytest.mark.parametrize("selection", ["soft", "hard", "gumbel"])
def test_glimpses_look_at_the_grid_one_after_another(selection):
    torch.manual_seed(0)
    images = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8)
    model = GlimpseEmbedding(5, 8, glimpses=3, selection=selection)
    model(images)  # statistics of the batch norms
    model.eval()
    with recording(weights=True) as tape:
        y = model(images)
    assert y.shape == (4, 5)
    assert [tuple(w.shape) for w in tape.weights] == [(4, 1, 1, 49)] * 3
    for w in tape.weights:
        torch.testing.assert_close(w.sum(-1), torch.ones(4, 1, 1))
        assert selection == "soft" or set(w.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(model(images), y)  # deterministic when it counts
    with pytest.raises(ValueError, match=r"\(M, 1, 28, 28\), got \(4, 1, 14, 14\)"):
        model(images[:, :, ::2, ::2])


def test_each_glimpse_depends_on_the_last():
    torch.manual_seed(0)
    model = GlimpseEmbedding(5, 8, glimpses=2).eval()
    images = torch.randint(256, (1, 1, 28, 28), dtype=torch.uint8)
    weights = []
    for shift in (0.0, 1.0):
        with torch.no_grad():
            model.state.bias_hh.add_(shift)  # what the state makes of the first glimpse
        with recording(weights=True) as tape:
            model(images)
        weights.append(tape.weights)
    torch.testing.assert_close(weights[0][0], weights[1][0])
    assert not torch.allclose(weights[0][1], weights[1][1])


def test_hard_glimpses_learn_where_to_look():
    """A bright patch tells the class, somewhere in an image of noise: REINFORCE finds it through the tape."""
    torch.manual_seed(0)
    model = GlimpseEmbedding(2, 8, glimpses=1, selection="hard")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def batch(n):
        y = torch.randint(2, (n,))
        images = torch.zeros(n, 1, 28, 28, dtype=torch.uint8)
        rows, columns = torch.randint(24, (2, n))
        for i in range(n):
            images[i, 0, rows[i] : rows[i] + 4, columns[i] : columns[i] + 4] = 255 if y[i] else 90
        return images, y

    for _ in range(120):
        images, y = batch(32)
        optimizer.zero_grad()
        with recording() as tape:
            cost = F.cross_entropy(model(images), y, reduction="none")
        (cost.mean() + score_function_loss(tape, cost[:, None])).backward()
        optimizer.step()
    model.eval()
    images, y = batch(200)
    assert (model(images).argmax(-1) == y).float().mean() > 0.9


# ----- as agents


def test_hard_attention_has_no_place_in_trials():
    config = replace(find("bandit/n10-k5").config("snail", budget="smoke"), model=SNAILConfig(selection="hard"))
    with pytest.raises(RunError, match="hard attention is for few-shot classification"):
        build_learner(config, Machine.named("cpu"))


def test_an_embedding_of_its_own_must_be_as_wide_as_the_tasks():
    model = EmbeddingSNAILConfig(embedding=GlimpseEmbeddingConfig(size=32))
    config = replace(find("glyphs/5way-1shot").config("snail", budget="smoke"), model=model)
    with pytest.raises(RunError, match="embeddings have 64 channels, this one 32"):
        build_learner(config, Machine.named("cpu"))


@pytest.mark.parametrize("blocks", ["convolutions", "attention"])
def test_a_choice_of_blocks(blocks):
    model = SNAILConfig(blocks=blocks).build("classifier", 10, 5, 6)
    kinds = [type(block).__name__ for block in model.blocks]
    assert kinds == (["TCBlock"] * 2 if blocks == "convolutions" else ["AttentionBlock"] * 3)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        SNAILConfig(width=0).build("policy", 10, 5, 6)


def labelled_episodes(B: int, generator: torch.Generator) -> Episodes:
    """Two ways, told apart by the sign of one number that means one class here and the other there."""
    sign = torch.randint(2, (B, 1), generator=generator) * 2 - 1
    support_y = torch.tensor([0, 1, 0, 1]).expand(B, -1)
    query_y = torch.randint(2, (B, 6), generator=generator)

    def items(y):
        noise = torch.randn(*y.shape, 3, generator=generator)
        return torch.cat([(sign * (2 * y - 1))[..., None] + 0.2 * noise[..., :1], noise[..., 1:]], dim=-1)

    return Episodes(items(support_y), support_y, items(query_y), query_y)


LEARNERS = ["set-attention"] + [
    name for name in FEWSHOT_VARIANTS if name != "transfer" and not name.endswith(("glimpses", "self-attention"))
]


@pytest.mark.parametrize("agent", LEARNERS)
def test_every_variant_learns_what_only_the_support_tells(agent):
    """Without reading the support nobody is right more than half of the time."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    config = {**FEWSHOT_AGENTS, **FEWSHOT_VARIANTS}[agent]
    embedding = nn.Identity()
    if isinstance(config, SNAILConfig):
        config = replace(config, width=config.width / 8)  # for speed
    if agent in ("set-attention", "seq2seq", "seq2seq-aligned", "encoder-decoder"):
        model = EncoderDecoderClassifier(embedding, config.build(32, 5, 2, 4), 2)
    else:
        model = config.build_classifier(embedding, 3, 2, 4)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(250):
        episodes = labelled_episodes(32, generator)
        optimizer.zero_grad()
        with recording() as tape:
            cost = F.cross_entropy(model(*episodes.inputs).transpose(1, 2), episodes.query_y, reduction="none")
        (cost.mean() + score_function_loss(tape, cost)).backward()
        optimizer.step()
    model.eval()
    test = labelled_episodes(500, generator)
    assert (model(*test.inputs).argmax(-1) == test.query_y).float().mean() > 0.9
