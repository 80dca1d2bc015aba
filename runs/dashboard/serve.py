"""Serves the page to this machine alone, made anew from the runs' folders whenever they have changed."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from runs.dashboard.collect import Found
from runs.dashboard.page import Report, page, to_json
from runs.system.errors import RunError

LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost")
"""What the server may be called: a page of another name that resolves to this machine gets nothing."""


class Live:
    """The page and its data as they are now; asked by many threads."""

    def __init__(self, report: Report, beside: Path):
        self._report, self._beside = report, beside
        self._lock = threading.Lock()
        self._found: Found | None = None
        self._data: dict[str, Any] = {}
        self._json = b""

    def data(self) -> tuple[bytes, str]:
        """The JSON, and a tag that is another when it is."""
        with self._lock:
            self._refresh()
            return self._json, f'"{self._data["made"]}"'

    def page(self) -> bytes:
        """The whole page."""
        with self._lock:
            self._refresh()
            return page(self._data).encode()

    def _refresh(self) -> None:
        found = self._report.find()
        if found is not self._found:
            self._data = self._report.data(found, self._beside, live=True)
            self._json = to_json(self._data).encode()
            self._found = found


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 30
    server_version, sys_version = "snail", ""

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] not in NAMES:
            return self._answer(403, b"this server answers to 127.0.0.1 and localhost only", "text/plain")
        path = self.path.partition("?")[0]
        if path == "/":
            return self._answer(200, self.server.live.page(), "text/html")
        if path == "/data.json":
            data, tag = self.server.live.data()
            if self.headers.get("If-None-Match") == tag:
                return self._answer(304, b"", "application/json", tag)
            return self._answer(200, data, "application/json", tag)
        self._answer(404, b"there is nothing here but / and /data.json", "text/plain")

    def _answer(self, status: int, body: bytes, kind: str, tag: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("X-Frame-Options", "DENY")
        if tag is not None:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


class Server(ThreadingHTTPServer):
    """Answers GET of the page and of its data, on the loopback address."""

    daemon_threads = True

    def __init__(self, live: Live, port: int):
        """Take the port; 0 takes any that is free.

        Raises:
            RunError: if it is taken.
        """
        self.live = live
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as e:
            reason = e.strerror if isinstance(e, OSError) else str(e)
            raise RunError(f"cannot serve on port {port} ({reason}); choose another --port, or 0 for any") from e

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that has gone away is not an error."""
