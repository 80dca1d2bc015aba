"""`snail bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from runs.bench.report import TINY, Sizes, What, bench
from runs.bench.report import render as render_report
from runs.bench.scaling import draw_scaling
from runs.results.folder import write_json
from runs.system.errors import RunError
from runs.system.machine import Machine


@dataclass(frozen=True)
class Bench:
    """Benchmark acting, training and scaling on this machine, as ratios to plain PyTorch and RecurrentPPO."""

    what: Positional[What] = "all"
    """rollout: acting and learning on bandits; fewshot: one training update; dense-stack: the convolutions alone;
    control: collecting on MuJoCo's cheetah; scaling: time and memory against length; all."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int | None = None
    """CPU threads; None: all cores."""
    repetitions: int = 5
    """Repetitions of each measurement; reported are medians."""
    tiny: bool = False
    """Tiny sizes, to try the command in a second."""
    save: Path | None = None
    """Also write all measurements to this JSON file."""
    plot: Path | None = None
    """Also draw time and memory against length into this PNG."""

    def run(self) -> None:
        if self.plot is not None and self.what not in ("all", "scaling"):
            raise RunError("--plot draws what `snail bench scaling` measures")
        machine = Machine.named(self.device, threads=self.threads)
        report = bench(self.what, machine.device, self.repetitions, TINY if self.tiny else Sizes())
        text = render_report(report)
        if self.save is not None:
            write_json(self.save, {"text": text} | report.to_dict())
        if self.plot is not None and report.scaling is not None:
            draw_scaling(report.scaling, self.plot)
        print(text)
