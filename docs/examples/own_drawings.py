"""Few-shot classification of your own images, with its own table."""

import os
from pathlib import Path

from envs.fewshot.datasets.image_folder import ImageFolder
from envs.fewshot.datasets.registry import register_dataset
from runs.agents import GRUConfig, PrototypicalConfig, SNAILConfig
from runs.algorithms.fewshot import FewShotTest
from runs.catalogue import Budget, Experiment, register, supervised
from runs.results.tables import register_row
from runs.tasks import FewShotTask

# drawings/train/cat/1.png, drawings/train/cat/2.png, ..., drawings/val/..., drawings/test/...
root = Path(os.environ.get("DRAWINGS", "drawings"))
register_dataset("drawings", ImageFolder("drawings", root, size=28, channels=1, invert=True))

task = FewShotTask("drawings", ways=5, shots=(1,), test_shots=(1,))
register(
    Experiment(
        id="drawings/5way",
        about="5-way classification of my drawings",
        agents={"snail": SNAILConfig(), "gru": GRUConfig(), "protonet": PrototypicalConfig()},
        budgets={
            "full": Budget(task, supervised(steps=2000), FewShotTest()),
            "smoke": Budget(
                task, supervised(steps=4, queries=5, batch_size=2, validation_episodes=10), FewShotTest(20, queries=5)
            ),
        },
    )
)
register_row("mine", "drawings, 5-way 1-shot", "drawings/5way", shots=1, paper={"protonet": (97.4, 0.3)})
