"""The sidecar's HTTP port: /metrics, /healthz, /readyz, /progress, /trace.

Flows in: GET requests of the kubelet, Prometheus and the operator. Flows out: what the server's callables say.
Reading only; nothing that a request carries is used beyond its path. Not here: what the answers contain.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from supernode.errors import EmulatorError

_LOG: Final = logging.getLogger("supernode.emulator")
#: Seconds that a request may take to arrive.
_TIMEOUT: Final = 10.0


class Views(NamedTuple):
    """What the port shows.

    Attributes:
        registry: for /metrics.
        progress: JSON object for /progress.
        trace: JSON object for /trace.
        ready: why the sidecar is not ready, or an empty text, for /readyz.
    """

    registry: CollectorRegistry
    progress: Callable[[], dict[str, Any]]
    trace: Callable[[], dict[str, Any]]
    ready: Callable[[], str]


class ObserveServer:
    """The HTTP server on threads of its own.

    Args:
        host: address to bind to.
        port: 0 takes any free port; `port` tells which.
        views: what to show.

    Raises:
        EmulatorError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, views: Views) -> None:
        class Bound(_Handler):
            shown = views

        try:
            self._server = _Server((host, port), Bound)
        except OSError as exc:
            raise EmulatorError(f"cannot listen for HTTP on {host}:{port}: {exc}") from exc
        self.host = host
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.2}, name="http", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Stop answering, on connections that are kept open too."""
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection until it is closed."""
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A peer that went away is no news; a fault of ours is."""
        if isinstance(sys.exc_info()[1], OSError):
            _LOG.debug("%s went away", client_address)
        else:
            _LOG.exception("an answer to %s failed", client_address)

    def hang_up(self) -> None:
        """Wake the threads of all connections that are open: each finds its own at an end, and closes it."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def server_bind(self) -> None:
        # The standard one asks the resolver for the host's name; a pod may have none.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    shown: Views
    protocol_version = "HTTP/1.1"
    timeout = _TIMEOUT

    def do_GET(self) -> None:
        """Answer by path."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, generate_latest(self.shown.registry))
        elif path == "/progress":
            self._send(200, "application/json", json.dumps(self.shown.progress()).encode())
        elif path == "/trace":
            self._send(200, "application/json", json.dumps(self.shown.trace()).encode())
        elif path == "/healthz":
            self._send(200, "text/plain", b"ok\n")
        elif path == "/readyz":
            reason = self.shown.ready()
            self._send(503 if reason else 200, "text/plain", f"{reason or 'ok'}\n".encode())
        else:
            self._send(404, "text/plain", b"there are /metrics, /progress, /trace, /healthz and /readyz\n")

    def do_HEAD(self) -> None:
        """Answer without a body."""
        self.do_GET()

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing: probes come every few seconds."""
