"""All runs on one self-contained page, with style, script, data and pictures inside."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import math
import os
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special

from runs.config.serialization import flat
from runs.dashboard.collect import Collector, Curves, Found, Run, thinned
from runs.results.plots import COLOURS
from runs.results.records import read_results, task_optimum
from runs.results.tables import render, tables
from runs.system.progress import progress_bar

POINTS = 2000
"""Points per curve; metrics that were logged more often are averaged."""
CURVE_BYTES = 6_500_000
"""Bytes of all curves; with very many runs, fewer points are drawn."""
PICTURE_BYTES = 2_000_000
"""Bytes of all pictures; those beyond are linked instead."""
PICTURE_WIDTH = 900
"""Maximum width of pictures in pixels; wider ones are scaled down."""


@dataclass
class Report:
    """The data of the page, read again as far as something has changed.

    folders: where to look; a number that is in several of them is taken from the first.
    published: the folder of the published runs.
    """

    folders: Sequence[Path]
    published: Path | None = None
    _collector: Collector = field(init=False)
    _tables: tuple[object, list[dict[str, str]]] | None = None
    _pictures: dict[tuple[Path, int], str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._collector = Collector(self.folders, self.published)

    def find(self) -> Found:
        """The current runs; the same object as long as nothing has changed."""
        return self._collector.collect()

    def data(self, found: Found, beside: Path, live: bool = False) -> dict[str, Any]:
        """The data of the page, ready for JSON.

        beside: the folder to which links are relative.
        live: whether the page polls for changes.
        """
        return {
            "made": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "live": live,
            "warnings": list(found.warnings),
            "runs": self._runs(found, beside),
            "tables": self._rendered(found),
            "optima": _optima(found),
            "colours": COLOURS,
            "t": [float(q) for q in special.stdtrit(np.arange(1, max(2, len(found.runs))), 0.975)],
        }

    def _runs(self, found: Found, beside: Path) -> list[dict[str, Any]]:
        columns = sum(3 + len(c.metrics) for run in found.runs for c in run.curves)
        points = max(50, min(POINTS, CURVE_BYTES * 3 // (4 * 4 * max(1, columns))))  # float32 in base64
        room = PICTURE_BYTES
        plain = []
        with progress_bar(len(found.runs), "report", unit="run", delay=2.0, leave=False) as bar:
            for run in found.runs:
                pictures = []
                for path in run.pictures:
                    encoded = self._picture(path) if room > 0 else None
                    room -= len(encoded or "")
                    pictures.append({"name": path.stem, "source": encoded, "link": _link(path, beside)})
                plain.append(_plain(run, points, beside) | {"pictures": pictures})
                bar.update()
        return plain

    def _picture(self, path: Path) -> str | None:
        key = (path, path.stat().st_mtime_ns if path.exists() else 0)
        if key not in self._pictures:
            self._pictures[key] = encode_picture(path)
        return self._pictures[key]

    def _rendered(self, found: Found) -> list[dict[str, str]]:
        """The tables, made again only when there are new numbers."""
        stamp = [(run.folder, run.record.get("finished")) for run in found.runs if run.finished]
        if self._tables is None or self._tables[0] != stamp:
            with contextlib.redirect_stderr(io.StringIO()):  # the page lists what is damaged
                results = read_results(self.folders)
                known = tables().values()
                rendered = [{"name": t.name, "title": t.title, "html": render(t, results, "html")} for t in known]
            self._tables = (stamp, rendered)
        return self._tables[1]


def page(data: Mapping[str, Any]) -> str:
    """The whole page. Contents of records are embedded as data, never as markup."""
    script = "\n".join(_asset(name) for name in ("vendor/uPlot.iife.min.js", "curves.js", "panels.js", "page.js"))
    # only the page's own script may run, and only its own server may be contacted
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'"
    )
    return string.Template(_asset("page.html")).substitute(
        policy=policy,
        style=_asset("vendor/uPlot.min.css") + _asset("page.css"),
        script=script,
        data=to_json(data),
    )


def to_json(data: Any) -> str:
    """JSON that is safe inside a page: nothing in it can end its element."""
    return json.dumps(_finite(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """The value with strings for numbers that JSON cannot represent."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _asset(name: str) -> str:
    return files("runs.dashboard").joinpath(name).read_text(encoding="utf-8")


def _link(path: Path, beside: Path) -> str:
    return Path(os.path.relpath(path.resolve(), beside.resolve())).as_posix()


def _plain(run: Run, points: int, beside: Path) -> dict[str, Any]:
    logged = {  # up to the last line of any metric
        "steps": max((float(c.steps[-1]) for c in run.curves), default=0.0),
        "seconds": max((float(c.seconds[-1]) for c in run.curves), default=None),
        "units": max((float(c.units[-1]) for c in run.curves if c.units is not None), default=None),
    }
    return {
        "name": run.name,
        "published": run.published,
        "experiment": run.experiment,
        "agent": run.agent,
        "budget": run.budget,
        "seed": run.seed,
        "settings": hashlib.sha256(run.settings.encode()).hexdigest()[:16],
        "config": _shown(run.config),
        "record": _shown({k: v for k, v in run.record.items() if k != "tried"}),
        "results": list(run.results),
        "finished": run.finished,
        "learns": run.learns,
        "steps": run.record.get("steps", logged["steps"]),
        "of": flat(run.config).get("training.steps"),
        "seconds": run.record.get("train_seconds", logged["seconds"]),
        "units": run.record.get(run.unit or "", logged["units"]),
        "unit": None if run.unit is None else run.unit.replace("_", " "),
        "logged": run.logged.isoformat(timespec="seconds"),
        "link": _link(run.folder, beside),
        "curves": [_encoded(thinned(c, points)) for c in run.curves] if run.learns else [],
    }


def _encoded(curves: Curves) -> dict[str, Any]:
    x = {"steps": curves.steps, "seconds": curves.seconds, "units": curves.units}
    return {
        "x": {name: _base64(values) for name, values in x.items() if values is not None},
        "metrics": {name: _base64(values) for name, values in curves.metrics.items()},
    }


def _base64(values: np.ndarray) -> str:
    """Base64 of little-endian float32, as the page reads it."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode()


def _shown(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flat settings, lists as text."""
    return {name: json.dumps(x) if isinstance(x, (list, tuple)) else x for name, x in flat(settings).items()}


def encode_picture(path: Path) -> str | None:
    """A PNG as a data URL, scaled down if it is wide; None if it is too big or damaged."""
    try:
        from PIL import Image
    except ImportError:
        data = path.read_bytes()
        return _data_address(data) if len(data) < PICTURE_BYTES // 10 else None
    try:
        with Image.open(path, formats=["PNG"]) as image:
            small = image.convert("RGB")
            small.thumbnail((PICTURE_WIDTH, 4 * PICTURE_WIDTH))
            buffer = io.BytesIO()
            small.quantize(256).save(buffer, format="PNG")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # errors of Pillow for damaged files
        return None
    return _data_address(buffer.getvalue())


def _data_address(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _optima(found: Found) -> dict[str, float]:
    """The optimum, if it is known and the same for all runs of an experiment."""
    tasks: dict[str, dict[str, Any]] = {}
    for run in found.runs:
        task = run.config.get("task")
        tasks.setdefault(run.experiment, {})[json.dumps(task, sort_keys=True)] = task
    optima = {name: {task_optimum(task) for task in different.values()} for name, different in tasks.items()}
    return {name: optimum for name, (optimum, *others) in optima.items() if optimum is not None and not others}
