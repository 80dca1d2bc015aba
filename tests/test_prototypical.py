"""Prototypical networks against distances computed one by one."""

from __future__ import annotations

import torch
from torch import nn

from baselines.prototypical import PrototypicalNetwork, pooled_prototypical_logits, prototypes
from envs.fewshot.episodes import Episodes


def test_prototypes_are_the_means_of_the_classes():
    support = torch.tensor([[[1.0, 0.0], [0.0, 4.0], [3.0, 2.0], [0.0, 0.0]]])
    labels = torch.tensor([[1, 0, 1, 0]])
    assert torch.equal(prototypes(support, labels, 2), torch.tensor([[[0.0, 2.0], [2.0, 1.0]]]))


def test_logits_are_minus_the_squared_distances():
    torch.manual_seed(0)
    B, N, K, Q = 3, 4, 2, 5
    labels = torch.stack([torch.randperm(N * K) % N for _ in range(B)])
    episodes = Episodes(torch.randn(B, N * K, 6), labels, torch.randn(B, Q, 6), torch.zeros(B, Q, dtype=torch.long))
    embedding = nn.Linear(6, 7)
    logits = PrototypicalNetwork(embedding, N)(*episodes.inputs)
    for b in range(B):
        for q in range(Q):
            for n in range(N):
                centre = embedding(episodes.support_x[b][labels[b] == n]).mean(0)
                expected = -((embedding(episodes.query_x[b, q]) - centre) ** 2).sum()
                torch.testing.assert_close(logits[b, q, n], expected)


def test_pooled_logits_are_those_of_one_episode_with_all_prototypes_but_the_same_class_elsewhere():
    torch.manual_seed(0)
    B, N, Q = 3, 2, 4
    support_y, query_y = torch.tensor([[0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 1, 1]]), torch.randint(N, (B, Q))
    of_way = torch.tensor([[7, 8], [5, 7], [1, 2]])  # class 7 is in two episodes
    classes = torch.cat([of_way.gather(1, support_y), of_way.gather(1, query_y)], dim=1)
    episodes = Episodes(torch.randn(B, 4, 6), support_y, torch.randn(B, Q, 6), query_y)
    logits = pooled_prototypical_logits(*episodes.inputs, classes, N).view(B, Q, B, N)
    for b in range(B):
        for q in range(Q):
            for other in range(B):
                for n in range(N):
                    centre = episodes.support_x[other][support_y[other] == n].mean(0)
                    expected = -((episodes.query_x[b, q] - centre) ** 2).sum()
                    if other != b and of_way[other, n] == of_way[b, query_y[b, q]]:
                        expected = torch.tensor(float("-inf"))
                    torch.testing.assert_close(logits[b, q, other, n], expected)
    assert logits.isinf().sum() == (query_y[0] == 0).sum() + (query_y[1] == 1).sum()


def test_the_order_of_the_support_does_not_matter():
    torch.manual_seed(0)
    model = PrototypicalNetwork(nn.Identity(), 3)
    x, y, query = torch.randn(1, 6, 4), torch.tensor([[0, 1, 2, 0, 1, 2]]), torch.randn(1, 2, 4)
    order = torch.randperm(6)
    again = Episodes(x[:, order], y[:, order], query, y[:, :2])
    torch.testing.assert_close(model(*again.inputs), model(x, y, query))


def test_the_embedding_learns_what_matters():
    """Items are a class mean in two directions and larger noise in twenty others, which distances show at first."""
    generator = torch.Generator().manual_seed(0)

    def episodes(B: int) -> Episodes:
        N, K = 3, 2
        means = torch.randn(B, N, 2, generator=generator)

        def items(labels):
            noise = 3 * torch.randn(*labels.shape, 20, generator=generator)
            return torch.cat([means.gather(1, labels[..., None].expand(-1, -1, 2)), noise], dim=-1)

        support_y, query_y = torch.arange(N * K).expand(B, -1) % N, torch.arange(N).expand(B, -1)
        return Episodes(items(support_y), support_y, items(query_y), query_y)

    torch.manual_seed(0)
    model = PrototypicalNetwork(nn.Linear(22, 2), 3)

    def accuracy() -> float:
        test = episodes(2000)
        return (model(*test.inputs).argmax(-1) == test.query_y).float().mean().item()

    assert accuracy() < 0.45
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        batch = episodes(32)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*batch.inputs).flatten(0, 1), batch.query_y.flatten()).backward()
        optimizer.step()
    assert accuracy() > 0.95
