"""`snail data`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envs.fewshot.datasets.base import SPLITS
from envs.fewshot.datasets.registry import DATASETS, dataset_status, load_classes
from envs.fewshot.datasets.storage import DataError
from runs.system.errors import RunError


@dataclass(frozen=True)
class Data:
    """Show where the data sets are, and prepare them."""

    build: bool = False
    """Download, decode and cache the data sets, as far as possible."""
    data_root: Path | None = None
    """Folder with the data sets; default: $SNAIL_DATA, then a cache."""

    def run(self) -> None:
        problems = []
        for name in DATASETS:
            status = dataset_status(name, self.data_root)
            if self.build and not status.cached and (status.sources or status.obtain is None):
                try:
                    for split in SPLITS:  # the splits may have separate files
                        load_classes(name, split, root=self.data_root, download=True)
                except DataError as e:
                    problems.append(str(e))
                status = dataset_status(name, self.data_root)
            sources = ", ".join(map(str, status.sources))
            splits = ", ".join(f"{split} {n}" for split, n in (status.classes or {}).items())
            print(name)
            print(f"  found in:  {sources or 'nowhere; ' + (status.obtain or 'snail data --build fetches it')}")
            print(f"  cache:     {status.cache} ({'ready' if status.cached else 'not built yet'})")
            print(f"  classes:   {splits or 'known once built'}, {status.per_class} images each")
            if status.fingerprint:
                print(f"  pixels:    {status.fingerprint}")
        if problems:
            raise RunError("; ".join(problems))
