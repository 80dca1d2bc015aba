"""Supervised few-shot learning: cross-entropy of the queries of episodes (Mishra et al. 2018, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from envs.fewshot.augmentation import UNCHANGED, Augmentation
from envs.fewshot.datasets.base import ImageClasses
from envs.fewshot.episodes import Episodes, EpisodeSampler, recombined, task_set_hash
from envs.trials import require_positive
from runs.agents import FewShotAgent
from runs.algorithms.attention_maps import EpisodeAttention
from runs.algorithms.episode_loss import EpisodeBatch, EpisodeLoss
from runs.algorithms.finite import NotFinite, not_finite
from runs.algorithms.learner import Measurement, RunConfig, Test, Training
from runs.algorithms.schedules import warmup_cosine
from runs.config.serialization import renamed
from runs.system.distributed.layers import use_distributed_layers
from runs.system.machine import Machine, use_bfloat16
from runs.tasks import FewShotTask, Task
from snail.attention.selection import recording
from snail.classifier import EmbeddingClassifier, EpisodeModel, PretrainedClassifier

Selection = Literal["best", "final"]
Pool = Literal["episode", "batch"]


@dataclass(frozen=True)
class SupervisedTraining(Training):
    """AdamW with a warmup-cosine learning rate on episodes of the training classes."""

    steps: int
    """Number of updates."""
    batch_size: int = 16
    """Episodes per update."""
    queries: int = 15
    """Queries per training episode, which share its support. The paper has 1."""
    learning_rate: float = 2e-3
    """Peak of the warmup-cosine schedule."""
    warmup: float = 0.1
    """Fraction of training over which the learning rate rises."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    max_grad_norm: float = renamed("gradient_clip", 1.0)
    """Maximum gradient norm."""
    bfloat16: bool = True
    """Train and test with bfloat16 autocast, on devices with instructions for it; parameters stay in float32."""
    class_loss: float = 0.0
    """Weight of an auxiliary classification of embeddings into all training classes. 0: none.
    Agents that do not embed images, such as maml, ignore it."""
    prototype_loss: float = 0.0
    """Weight of an auxiliary prototypical loss: a query's class by the nearest mean embedding. 0: none."""
    prototype_pool: Pool = "episode"
    """Candidate classes of prototype_loss: the query's own episode, or all episodes of the batch."""
    recombined: int = 0
    """Further episodes per update, drawn from the images that are embedded for its batch anyway: more for the sequence
    model to learn from. Agents that do not embed images, such as maml, ignore it."""
    augmentation: Augmentation = UNCHANGED
    """Random augmentation of the training images."""
    embedding_from: str | None = None
    """EXPERIMENT/AGENT or folder of a finished run, whose embedding is used and not trained any further: the features
    of all images are computed once, and the agent reads a trained linear map of them."""
    feature_size: int = 64
    """Channels of that linear map."""
    feature_dropout: float = 0.5
    """Dropout of the features in training: they separate the classes that the embedding was trained on much better
    than others, so that without it an agent learns to trust them too much."""
    validation_episodes: int = 400
    """Episodes per validation pass."""
    validations: int = 20
    """Number of validation passes."""
    selection: Selection = "best"
    """Which weights are tested: best on the validation classes, or final."""

    def learner(self, run: RunConfig, machine: Machine) -> FewShotLearner:
        """The learner that trains and tests the run's agent."""
        return FewShotLearner(self, run, machine)


@dataclass(frozen=True)
class FewShotTest(Test):
    """The frozen test episodes."""

    episodes: int = 10_000
    """Test episodes for each number of shots."""
    queries: int = 15
    """Queries per episode."""
    seed: int = 2018
    """Seed of the frozen test episodes, the same for all agents."""


@dataclass(frozen=True)
class Selected:
    """The weights with the best validation accuracy so far."""

    step: int
    """The update after which they were saved."""
    accuracy: float
    """Mean accuracy over the numbers of shots, on episodes of the validation classes."""
    weights: dict[str, Tensor]
    """Copies of the weights: training continues with the originals."""


def build_classifier(run: RunConfig) -> EpisodeModel:
    """The classifier of a run, untrained."""
    task, agent = cast(FewShotTask, run.task), cast(FewShotAgent, run.model)
    embedding, training = task.embedding, cast(SupervisedTraining, run.training)
    support = task.ways * max(task.shots + task.test_shots)
    if not training.embedding_from:
        return agent.build_classifier(embedding.build(), embedding.size, task.ways, support)
    size = training.feature_size
    require_positive(feature_size=size)
    read = nn.Sequential(
        nn.LayerNorm(embedding.size), nn.Dropout(training.feature_dropout), nn.Linear(embedding.size, size)
    )
    return PretrainedClassifier(embedding.build(), agent.build_classifier(read, size, task.ways, support))


class FewShotLearner:
    """Trains a few-shot classifier end to end."""

    unit = "episode"

    def __init__(self, training: SupervisedTraining, run: RunConfig, machine: Machine):
        task, test, seed = cast(FewShotTask, run.task), cast(FewShotTest, run.test), run.seed
        self.training, self.task, self.test, self.machine, self.group = training, task, test, machine, machine.group
        self.steps = training.steps
        self.validations = training.validations
        self._half = use_bfloat16(training.bfloat16, machine.device)
        require_positive(steps=training.steps, batch_size=training.batch_size)
        self.group.require_divisible("batch_size", training.batch_size)
        if min(test.episodes, training.validation_episodes) < 2:
            raise ValueError(
                f"an interval needs at least 2 episodes, got {test.episodes} for testing "
                f"and {training.validation_episodes} for validation"
            )
        if training.embedding_from and training.augmentation != UNCHANGED:
            raise ValueError("augmentation changes images, but with embedding_from the features are computed once")
        if training.recombined < 0:
            raise ValueError(f"recombined must be at least 0, got {training.recombined}")
        if training.recombined and training.queries % task.ways:
            raise ValueError(
                "episodes are recombined from classes of equal size, for which queries must be a multiple of "
                f"{task.ways}, the ways, got {training.queries}"
            )
        self.group.require_divisible("recombined", training.recombined)
        self._splits: dict[str, ImageClasses] = {}
        for split, queries in (("train", training.queries), ("val", training.queries), ("test", test.queries)):
            self._check_sizes(split, queries)
        torch.manual_seed(seed)
        model = build_classifier(run)
        for queries in (training.queries, test.queries):
            model.check_queries(queries)
        self.pretrained: dict[str, Any] | None = None
        self._features: dict[str, Tensor] = {}  # of a pre-trained embedding, by split: (classes, per_class, F)
        self.trainee = model.head if isinstance(model, PretrainedClassifier) else model
        embeds = isinstance(self.trainee, EmbeddingClassifier)
        self.recombined = training.recombined * embeds
        if not embeds and any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.trainee.modules()):
            self.group.require_single_process("this agent's dropout is drawn episode by episode")
        use_distributed_layers(model, self.group)
        self.model = model.to(machine.device)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        class_weight, prototype_weight = training.class_loss * embeds, training.prototype_loss * embeds
        self.class_head: nn.Module = nn.Identity()  # of the auxiliary task
        if class_weight:
            self.class_head = nn.Linear(task.embedding.size, len(self._classes("train").images)).to(machine.device)
        pooled = training.prototype_pool == "batch"
        self.loss = EpisodeLoss(
            self.trainee, task.ways, self.class_head, class_weight, prototype_weight, pooled, self.group
        )
        self.trained = nn.ModuleDict({"model": self.trainee, "class_head": self.class_head})
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(), training.learning_rate, weight_decay=training.weight_decay, fused=True
        )
        self.selected: Selected | None = None
        self.updates = 0
        self.generator = machine.generator(seed)
        self.shots_generator = torch.Generator().manual_seed(seed)  # drawn on the host: it sets the shapes

    @cached_property
    def sampler(self) -> EpisodeSampler:
        """Draws training episodes of images, or of features if the embedding is pre-trained."""
        images = self._classes("train").images
        items = self._pretrained_features("train") if self.training.embedding_from else images.to(self.machine.device)
        return EpisodeSampler(items, self.task.ways, self.training.queries)

    def take_embedding(self, weights: dict[str, Tensor], source: dict[str, Any]) -> None:
        """Start from the embedding among the weights of another run; the record will have ``source``.

        Raises:
            ValueError: if they have no embedding of this kind.
        """
        prefix = "embedding."
        found = {name.removeprefix(prefix): x.float() for name, x in weights.items() if name.startswith(prefix)}
        try:
            cast(PretrainedClassifier, self.model).features.load_state_dict(found)
        except RuntimeError as e:
            raise ValueError("its agent has no embedding of this task's kind") from e
        self.pretrained = source

    def _classes(self, split: str) -> ImageClasses:
        if split not in self._splits:
            self._splits[split] = self.task.load(split, self.machine.data_root)
        return self._splits[split]

    def _check_sizes(self, split: str, queries: int) -> None:
        """Raise ValueError before training for settings that the data cannot satisfy."""
        sampler = EpisodeSampler(self._classes(split).images, self.task.ways, queries)
        for shots in self.task.shots if split == "train" else self.task.test_shots:
            if not 1 <= shots <= sampler.max_shots:
                raise ValueError(f"shots must be between 1 and {sampler.max_shots}, got {shots}")

    def _autocast(self):
        return torch.autocast(self.machine.device.type, torch.bfloat16, enabled=self._half)

    def update(self, step: int) -> dict[str, Tensor]:
        """One step of AdamW on a batch of training episodes.

        Raises:
            NotFinite: before the step, if a loss or a gradient is not finite; not checked on a GPU, where it would
                require a synchronisation.
        """
        factor = warmup_cosine((step + 1) / (self.steps + 1), self.training.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * factor
        choice = torch.randint(len(self.task.shots), (), generator=self.shots_generator)
        shots = self.task.shots[int(choice)]
        indices = self.sampler.sample_indices(self.training.batch_size, shots, self.generator)
        episodes = self.sampler.gather(indices).to(self.machine.device)
        episodes = self._part(self._augmented(episodes))
        images = self.group.shard(torch.cat([indices.support_x, indices.query_x], dim=1))  # (B, S + Q)
        again = None
        if self.recombined:
            labels = torch.cat([episodes.support_y, episodes.query_y], dim=1)  # (B, S + Q)
            count = self.recombined // self.group.size
            again = recombined(labels, self.task.ways, self.training.queries, shots, count, self.generator)
        batch = EpisodeBatch(episodes, images // self.sampler.per_class, again)
        self.trained.train()
        total, logs = self.loss(batch, self._half)
        self.optimizer.zero_grad()
        total.backward()
        self.group.average_gradients(self.trained.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.training.max_grad_norm)
        if norm.device.type == "cpu" and not norm.isfinite():
            raise self._not_finite(lambda: self.loss(batch, self._half)[0])
        self.optimizer.step()
        self.updates = step + 1
        return logs | {"gradient_norm": norm, "learning_rate": torch.tensor(self.training.learning_rate * factor)}

    def _not_finite(self, compute: Callable[[], Any]) -> NotFinite:
        """The error that names the first tensor that is not finite when ``compute`` is repeated."""

        def in_float32() -> Any:
            self._half = False
            try:
                return compute()
            finally:
                self._half = True

        return not_finite(self.trained, compute, in_float32 if self._half else None)

    def _augmented(self, episodes: Episodes) -> Episodes:
        def change(x: Tensor) -> Tensor:
            return self.training.augmentation(x.flatten(0, 1), self.generator).unflatten(0, x.shape[:2])

        return replace(episodes, support_x=change(episodes.support_x), query_x=change(episodes.query_x))

    def _part(self, episodes: Episodes) -> Episodes:
        """The shard of this process."""
        parts = episodes.support_x, episodes.support_y, episodes.query_x, episodes.query_y
        return Episodes(*map(self.group.shard, parts))

    def units(self, step: int) -> int:
        """Training episodes per update."""
        return self.training.batch_size

    def validate(self) -> dict[str, float]:
        """Accuracy on episodes of the validation classes, the same in every pass."""
        training = self.training
        found = {}
        for shots in self.task.test_shots:
            accuracy, _ = self._accuracies("val", shots, training.validation_episodes, training.queries)
            found[f"validation_accuracy_{shots}shot"] = accuracy.mean().item()
        mean = sum(found.values()) / len(found)
        if training.selection == "best" and (self.selected is None or mean > self.selected.accuracy):
            weights = {name: x.clone() for name, x in self.model.state_dict().items()}
            self.selected = Selected(self.updates, mean, weights)
        return found

    def _take_selected(self) -> None:
        """Load the weights that are tested into the model."""
        if self.selected is not None:
            self.model.load_state_dict(self.selected.weights)

    def evaluate(self, progress: Any) -> list[Measurement]:
        """Mean accuracy over test episodes, for each number of shots."""
        self._take_selected()
        results = []
        for i, shots in enumerate(self.task.test_shots):

            def report(done: int, of: int, i: int = i) -> None:
                progress(i * of + done, len(self.task.test_shots) * of)

            accuracy, batches = self._accuracies("test", shots, self.test.episodes, self.test.queries, report)
            task_set = task_set_hash(self._classes("test").fingerprint(), batches)
            results.append(Measurement.of("accuracy", accuracy, task_set, shots))
        return results

    @torch.no_grad()
    def _accuracies(
        self, split: str, shots: int, episodes: int, queries: int, progress: Any = lambda done, of: None
    ) -> tuple[Tensor, list[Episodes]]:
        """Accuracy (episodes,) on frozen episodes of a split, and the episodes.

        The episodes are drawn on the host, so that they do not depend on the device; then every image that
        occurs in them is encoded once. Features of a pre-trained embedding are kept for the next time.
        """
        images = self._classes(split).images  # (classes, per_class, C, H, W)
        generator = torch.Generator().manual_seed(self.test.seed + shots)
        sampler = EpisodeSampler(images, self.task.ways, queries)
        sizes = [min(250, episodes - start) for start in range(0, episodes, 250)]
        batches = [sampler.sample_indices(size, shots, generator) for size in sizes]
        if self.training.embedding_from:
            encoded = self._pretrained_features(split)
        else:
            used = torch.cat([torch.cat([b.support_x.flatten(), b.query_x.flatten()]) for b in batches]).unique()
            encoded = self._encode(images, used)
        self.model.eval()
        sampler = EpisodeSampler(encoded, self.task.ways, queries)
        found = []
        for i, indices in enumerate(batches):
            batch = sampler.gather(indices).to(self.machine.device)
            logits = self._finite(self.model.predict, *batch.inputs)  # (B, Q, N)
            found.append((logits.argmax(-1) == batch.query_y).float().mean(1))
            progress(i + 1, len(batches))
        return torch.cat(found), batches

    def _finite(self, method: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Call a method of the model; raise NotFinite, since the argmax of a NaN would pass for a class."""

        def result() -> Tensor:
            shown = inputs if self._half else [x.float() if x.is_floating_point() else x for x in inputs]
            with self._autocast():
                return method(*shown)

        found = result()
        if not found.isfinite().all():
            raise self._not_finite(result)
        return found

    def _pretrained_features(self, split: str) -> Tensor:
        """Features (classes, per_class, F) of all images of a split, computed once."""
        if split not in self._features:
            images = self._classes(split).images
            self._features[split] = self._encode(images, torch.arange(images.shape[:2].numel()))
        return self._features[split]

    @torch.no_grad()
    def _encode(self, images: Tensor, used: Tensor) -> Tensor:
        """Encodings (classes, per_class, ...) of the images at these positions; zeros for the others."""
        self.model.eval()
        flat = images.flatten(0, 1)  # (classes * per_class, C, H, W)
        at_once = max(1, 1000 * 28 * 28 // images[0, 0].numel())  # some memory for the activations
        parts = []
        for i in used.split(at_once):
            parts.append(self._finite(self.model.encode, flat[i].to(self.machine.device)))
        encoded = torch.cat(parts)
        scattered = encoded.new_zeros(len(flat), *encoded.shape[1:])
        scattered[used.to(self.machine.device)] = encoded
        return scattered.unflatten(0, images.shape[:2])

    def test_on(self, task: Task) -> None:
        """Test on another data set or other numbers of shots.

        Raises:
            ValueError: if the ways or the images differ.
        """
        if not isinstance(task, FewShotTask) or task.ways != self.task.ways:
            raise ValueError(f"the agent was trained on {self.task.ways}-way episodes")
        if type(task.embedding) is not type(self.task.embedding):
            raise ValueError("the agent was trained on images of another shape")
        self._splits.clear()
        self._features.clear()
        self.task = replace(task, embedding=self.task.embedding)

    @torch.no_grad()
    def attention_maps(self, seed: int, queries: int = 8) -> EpisodeAttention:
        """Attention maps on an episode of validation classes, with the largest number of test shots."""
        self._take_selected()
        self.model.eval()
        shots = max(self.task.test_shots)
        support = self.task.ways * shots
        queries -= queries == support  # so that the two can be told apart in what attention leaves on the tape
        sampler = EpisodeSampler(self._classes("val").images, self.task.ways, queries)
        episodes = sampler.sample(1, shots, torch.Generator().manual_seed(seed))
        order = episodes.support_y[0].argsort(stable=True)
        episodes = replace(episodes, support_x=episodes.support_x[:, order], support_y=episodes.support_y[:, order])
        shown = episodes.to(self.machine.device)
        with self._autocast():
            with recording(weights=True) as of_images:
                support_x, query_x = self.model.encode_episodes(shown.support_x, shown.query_x)
            with recording(weights=True) as of_episode:
                predicted = self.model.predict(support_x, shown.support_y, query_x)[0].argmax(-1).cpu()
        layers = (w[0, :, :, :support] for w in of_episode.weights if w.shape[2] == queries)
        side = [round(w.shape[-1] ** 0.5) for w in of_images.weights]
        glimpses = (w[:, 0, 0].unflatten(-1, (n, n)) for w, n in zip(of_images.weights, side, strict=True))
        return EpisodeAttention(
            episodes.support_x[0],
            episodes.support_y[0],
            episodes.query_x[0],
            episodes.query_y[0],
            predicted,
            tuple(w.float().cpu() for w in layers),
            tuple(w.float().cpu() for w in glimpses),
        )

    def details(self) -> dict[str, Any]:
        """Which weights were tested, if they were selected, and where the embedding is from, if it is pre-trained."""
        found: dict[str, Any] = {} if self.pretrained is None else {"pretrained": self.pretrained}
        if self.selected is not None:
            found["selected"] = {"step": self.selected.step, "validation_accuracy": self.selected.accuracy}
        return found

    def state_dict(self) -> dict[str, Any]:
        """Weights, the best weights so far, optimiser and random states."""
        return {
            "model": self.model.state_dict(),
            "class_head": self.class_head.state_dict(),
            "selected": None if self.selected is None else vars(self.selected),
            "pretrained": self.pretrained,
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "shots_generator": self.shots_generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state."""
        self.load_weights(state)
        self.class_head.load_state_dict(state["class_head"])
        self.pretrained = state.get("pretrained")
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.shots_generator.set_state(state["shots_generator"])

    def load_weights(self, state: dict[str, Any]) -> None:
        """Restore the weights that testing needs, from any device."""
        self.model.load_state_dict(state["model"])
        self.selected = None if state["selected"] is None else Selected(**state["selected"])
