"""Serves the page to this machine only, updated whenever the runs' folders change."""

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
"""Accepted host names: requests under other names that resolve to this machine (DNS rebinding) are rejected."""


class Live:
    """The current page and its data, for several threads."""

    def __init__(self, report: Report, beside: Path):
        self._report, self._beside = report, beside
        self._lock = threading.Lock()
        self._found: Found | None = None
        self._data: dict[str, Any] = {}
        self._json = b""

    def data(self) -> tuple[bytes, str]:
        """The JSON, and a tag that changes with it."""
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
        self._answer(404, b"not found: only / and /data.json exist", "text/plain")

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
        """Do not log requests."""


class Server(ThreadingHTTPServer):
    """Serves the page and its data on the loopback address."""

    daemon_threads = True

    def __init__(self, live: Live, port: int):
        """Bind to the port; 0: any free port.

        Raises:
            RunError: if it is in use.
        """
        self.live = live
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as e:
            reason = e.strerror if isinstance(e, OSError) else str(e)
            raise RunError(f"cannot serve on port {port} ({reason}); choose another --port, or 0 for any") from e

    @property
    def address(self) -> str:
        """The URL of the page."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A closed connection is not an error."""
