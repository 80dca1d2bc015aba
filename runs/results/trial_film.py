"""Animations of trials in Gymnasium environments, by replaying the actions."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runs.algorithms.attention_maps import PlayedTrial
from runs.results.folder import writing
from runs.tasks import GymnasiumTask
from snail.actions import ActionHead

FRAMES_A_SECOND, LARGEST = 10, 320
"""Frames per second of the environment's own time, and the longest side of a frame in pixels."""


def film(task: GymnasiumTask, trial: PlayedTrial, head: ActionHead, path: Path) -> str:
    """Write the trial as an animated GIF; returns the message to print: its path, or why there is none."""
    try:
        from PIL import Image
    except ImportError:
        return "no animation: Pillow is not installed; run: pip install 'snail-suite[plot]'"
    frames: list[Any] = []
    env = task.make()
    env.unwrapped.render_mode = "rgb_array"  # read when a frame is rendered
    fps = env.metadata.get("render_fps") or 30
    every = max(1, round(fps / FRAMES_A_SECOND))
    actions = head.to_environment(trial.actions).numpy()
    try:
        env.reset(seed=int(trial.task[0]), options={"new_task": True})
        for t, (action, ended) in enumerate(zip(actions, trial.ended.tolist(), strict=True)):
            if t % every == 0:
                frame = Image.fromarray(_frame(env))
                frame.thumbnail((LARGEST, LARGEST))
                frames.append(frame.quantize(64))
            env.step(action)
            if ended:
                env.reset()
    except Exception as e:  # any error of a graphics library; the figure exists already
        why = " ".join(f"{type(e).__name__}: {e}".split())[:100]
        return f"no animation: rendering failed ({why}); MuJoCo needs a renderer such as libosmesa6"
    finally:
        env.close()
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * every / fps), loop=0)
    with writing(path) as file:
        file.write(buffer.getvalue())
    return str(path)


def _frame(env: Any) -> npt.NDArray[np.uint8]:
    """A frame (height, width, 3). MuJoCo is rendered without a display, by the first of its backends that works."""
    given = os.environ.get("MUJOCO_GL")
    for backend in (given,) if given or os.environ.get("DISPLAY") else ("egl", "osmesa"):
        if backend:
            os.environ["MUJOCO_GL"] = backend
        try:
            return np.asarray(env.render(), dtype=np.uint8)
        except Exception as e:  # each has its own backend
            failed = e
    raise failed
