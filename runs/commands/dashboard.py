"""`snail dashboard`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from runs.dashboard.page import Report, page
from runs.dashboard.serve import LOOPBACK, Live, Server
from runs.results.folder import RESULTS, writing
from runs.results.records import PUBLISHED
from runs.system.errors import RunError
from runs.tracking.dashboards import keep_at_home, trackio_dir


@dataclass(frozen=True)
class Dashboard:
    """Write one self-contained page with all runs, and serve it on this machine with live updates."""

    results: Path = RESULTS
    """Folder of your own results."""
    published: bool = True
    """Include the published records."""
    output: Path | None = None
    """The page's file; None: report.html in the results folder."""
    serve: bool = True
    """Serve the page, and trackio's dashboard if runs were mirrored there, until Ctrl-C."""
    port: int = 8765
    """Port of the page; 0: any free port."""
    open: bool = False
    """Open the page in a browser."""

    def run(self) -> None:
        """Write, and serve."""
        if not self.results.is_dir() and (self.results != RESULTS or not self.published):
            raise RunError(f"there is no folder {self.results}; give the folder with your runs by --results")
        output = self.output or self.results / "report.html"
        if output.is_dir():
            raise RunError(f"{output} is a folder; give a file: --output {output / 'report.html'}")
        folders = [self.results, *([PUBLISHED] if self.published else [])]
        report = Report(folders, published=PUBLISHED)
        found = report.find()
        if not found.runs and not found.warnings:
            raise RunError(
                f"there are no runs below {self.results}; start one: snail train bandit/n10-k5 --budget demo"
            )
        with writing(output) as file:
            file.write(page(report.data(found, output.parent)).encode())
        print(f"report: {output} ({len(found.runs)} runs, {output.stat().st_size / 1e6:.1f} MB)")
        for line in found.warnings:
            print(f"warning: {line}")
        if self.serve:
            self._serve(Live(report, output.parent))
        elif self.open:
            webbrowser.open(output.resolve().as_uri())

    def _serve(self, live: Live) -> None:
        with Server(live, self.port) as server, _trackio(trackio_dir(self.results)) as mirror:
            print(f"live:   {server.address}")
            if mirror is not None:
                print(f"trackio: {mirror}")
            print("Ctrl-C ends", flush=True)
            if self.open:
                webbrowser.open(server.address)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()


@contextlib.contextmanager
def _trackio(folder: Path) -> Iterator[str | None]:
    """Serve trackio's dashboard for the mirror in the folder meanwhile; None if trackio or the mirror is missing."""
    if importlib.util.find_spec("trackio") is None or not any(folder.glob("*.db")):
        yield None
        return
    keep_at_home(folder)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints an address with a token for write access
        import trackio

        app, address, *_ = trackio.show(open_browser=False, block_thread=False, host=LOOPBACK, share=False)
    try:
        yield address
    finally:
        app.close()
