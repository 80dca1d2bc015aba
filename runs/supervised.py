"""Few-shot learning by supervision: episodes in, cross-entropy of the queries out (Mishra et al. 2018, section 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from envs.fewshot import EpisodeIndices, EpisodeSampler, ImageClasses, task_set_hash
from envs.trials import require_positive
from runs.agents import FewShotAgent
from runs.learner import Measurement
from runs.machine import Machine
from runs.schedules import one_cycle
from runs.tasks import FewShotTask


@dataclass(frozen=True)
class SupervisedTraining:
    """AdamW with a one-cycle learning rate on episodes of the training classes."""

    steps: int
    """Updates."""
    batch_size: int = 16
    """Episodes in an update."""
    queries: int = 15
    """Queries in a training episode; they share its support. The paper has 1."""
    learning_rate: float = 2e-3
    """Peak of the one-cycle schedule."""
    warmup: float = 0.1
    """Fraction of training over which the learning rate rises."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient."""
    bfloat16: bool = True
    """Matrix products and convolutions in bfloat16 (parameters stay in float32)."""
    validation_episodes: int = 400
    """Episodes of the validation classes in each look at them."""
    validations: int = 20
    """Looks at the validation classes in a training."""

    def learner(self, task: FewShotTask, agent: FewShotAgent, test: FewShotTest, seed: int, machine: Machine):
        """What trains ``agent`` on ``task``."""
        return FewShotLearner(self, task, agent, test, seed, machine)


@dataclass(frozen=True)
class FewShotTest:
    """The frozen episodes of the test classes that the reported accuracy is measured on."""

    episodes: int = 10_000
    """Episodes for each number of shots."""
    queries: int = 15
    """Queries in an episode."""
    seed: int = 2018
    """What freezes the episodes: the same for all agents."""


class FewShotLearner:
    """Trains an embedding and a sequence model end to end."""

    unit = "episode"

    def __init__(
        self,
        training: SupervisedTraining,
        task: FewShotTask,
        agent: FewShotAgent,
        test: FewShotTest,
        seed: int,
        machine: Machine,
    ):
        self.training, self.task, self.test, self.machine = training, task, test, machine
        self.steps = training.steps
        self.validations = training.validations
        require_positive(steps=training.steps)
        if min(test.episodes, training.validation_episodes) < 2:
            raise ValueError(
                f"an interval needs at least 2 episodes, got {test.episodes} for testing "
                f"and {training.validation_episodes} for validation"
            )
        self._splits: dict[str, ImageClasses] = {}
        for split, queries in (("train", training.queries), ("val", training.queries), ("test", test.queries)):
            self._check_sizes(split, queries)
        torch.manual_seed(seed)
        max_support = task.ways * max(task.shots + task.test_shots)
        model = agent.build_classifier(task.embedding.build(), task.embedding.size, task.ways, max_support)
        self.model = model.to(machine.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.sampler = EpisodeSampler(self._classes("train").images.to(machine.device), task.ways, training.queries)
        self.generator = machine.generator(seed)
        self.shots_generator = torch.Generator().manual_seed(seed)  # drawn on the host: it sets the shapes

    def _classes(self, split: str) -> ImageClasses:
        if split not in self._splits:
            self._splits[split] = self.task.load(split, self.machine.data_root)
        return self._splits[split]

    def _check_sizes(self, split: str, queries: int) -> None:
        """Raise ValueError before any training for what the data cannot give."""
        sampler = EpisodeSampler(self._classes(split).images, self.task.ways, queries)
        for shots in self.task.shots if split == "train" else self.task.test_shots:
            if not 1 <= shots <= sampler.max_shots:
                raise ValueError(f"shots must be between 1 and {sampler.max_shots}, got {shots}")

    def _autocast(self):
        return torch.autocast(self.machine.device.type, torch.bfloat16, enabled=self.training.bfloat16)

    def update(self, step: int) -> dict[str, Tensor]:
        """One step of AdamW on a batch of training episodes."""
        factor = one_cycle((step + 1) / (self.steps + 1), self.training.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * factor
        choice = torch.randint(len(self.task.shots), (), generator=self.shots_generator)
        episodes = self.sampler.sample(self.training.batch_size, self.task.shots[int(choice)], self.generator)
        self.model.train()
        with self._autocast():
            logits = self.model(episodes)  # (B, Q, N)
        loss = F.cross_entropy(logits.flatten(0, 1), episodes.query_y.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip)
        self.optimizer.step()
        accuracy = (logits.detach().argmax(-1) == episodes.query_y).float().mean()
        return {"loss": loss.detach(), "train_accuracy": accuracy, "gradient_norm": norm}

    def units(self, step: int) -> int:
        """Training episodes in an update."""
        return self.training.batch_size

    def validate(self) -> dict[str, float]:
        """Accuracy on episodes of the validation classes, the same at every look."""
        return {
            f"validation_accuracy_{shots}shot": self._accuracies(
                "val", shots, self.training.validation_episodes, self.training.queries
            )[0]
            .mean()
            .item()
            for shots in self.task.test_shots
        }

    def evaluate(self, progress: Any) -> list[Measurement]:
        """Accuracy on the test classes, a number for each number of shots; the mean is over episodes."""
        results = []
        for i, shots in enumerate(self.task.test_shots):

            def report(done: int, of: int, i: int = i) -> None:
                progress(i * of + done, len(self.task.test_shots) * of)

            accuracy, task_set = self._accuracies("test", shots, self.test.episodes, self.test.queries, report)
            results.append(Measurement.of("accuracy", accuracy, task_set, shots))
        return results

    @torch.no_grad()
    def _accuracies(
        self, split: str, shots: int, episodes: int, queries: int, progress: Any = lambda done, of: None
    ) -> tuple[Tensor, str]:
        """Accuracy (episodes,) on frozen episodes of a split, and their hash.

        The episodes are drawn on the host, so that they are the same whatever the device; then every image that
        occurs in them is encoded once.
        """
        images = self._classes(split).images  # (classes, per_class, 1, 28, 28)
        generator = torch.Generator().manual_seed(self.test.seed + shots)
        sampler = EpisodeSampler(images, self.task.ways, queries)
        sizes = [min(250, episodes - start) for start in range(0, episodes, 250)]
        batches = [sampler.sample_indices(size, shots, generator) for size in sizes]
        sampler = EpisodeSampler(self._encode(images, batches), self.task.ways, queries)
        found = []
        for i, indices in enumerate(batches):
            batch = sampler.gather(indices).to(self.machine.device)
            with self._autocast():
                logits = self.model.predict(batch)  # (B, Q, N)
            found.append((logits.argmax(-1) == batch.query_y).float().mean(1))
            progress(i + 1, len(batches))
        return torch.cat(found), task_set_hash(self._classes(split).fingerprint(), batches)

    def _encode(self, images: Tensor, batches: list[EpisodeIndices]) -> Tensor:
        """Encodings (classes, per_class, ...) of the images that occur in the episodes; zeros for the others."""
        self.model.eval()
        used = torch.cat([torch.cat([b.support.flatten(), b.query.flatten()]) for b in batches]).unique()
        flat = images.flatten(0, 1)  # (classes * per_class, 1, 28, 28)
        with self._autocast():
            parts = [self.model.encode(flat[i].to(self.machine.device)) for i in used.split(1000)]
        encoded = torch.cat(parts)
        scattered = encoded.new_zeros(len(flat), *encoded.shape[1:])
        scattered[used.to(self.machine.device)] = encoded
        return scattered.unflatten(0, images.shape[:2])

    def details(self) -> dict[str, Any]:
        """Nothing more to tell."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and the state of the randomness."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "shots_generator": self.shots_generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.shots_generator.set_state(state["shots_generator"])
