"""`supernode operator`: the operator, inside a cluster or outside it."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import secrets
import signal
import socket

from prometheus_client import CollectorRegistry

from supernode import __version__
from supernode.handlers.runtime import Operator, Settings
from supernode.names import PORT_OPERATOR_HEALTH, PORT_OPERATOR_METRICS
from supernode.telemetry import logs


def configure(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    parser.add_argument(
        "--kubeconfig", metavar="PATH", help="how to reach the API server (default: in a pod its service account)"
    )
    parser.add_argument(
        "--emulator-image",
        default=f"supernode:{__version__}",
        metavar="IMAGE",
        help="image of the emulator sidecar (default: %(default)s)",
    )
    parser.add_argument("--namespace", metavar="NAME", help="only jobs of this namespace (default: all)")
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=PORT_OPERATOR_METRICS,
        metavar="N",
        help="port of /metrics, 0 for any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--health-port",
        type=int,
        default=PORT_OPERATOR_HEALTH,
        metavar="N",
        help="port of /healthz and /readyz, 0 for any free one (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default="0.0.0.0",  # noqa: S104 - probes and Prometheus come from outside the pod
        metavar="ADDRESS",
        help="address that both ports listen on (default: %(default)s)",
    )
    parser.add_argument(
        "--lease-seconds",
        type=int,
        default=15,
        metavar="N",
        help="seconds after which a standby takes over from an operator that is gone (default: %(default)s)",
    )
    parser.add_argument(
        "--log-format", choices=("json", "text"), default="json", help="form of the log (default: %(default)s)"
    )
    parser.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="lowest level that is logged (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    logs.configure(args.log_format, getattr(logging, args.log_level.upper()))
    settings = Settings(
        identity=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
        image=args.emulator_image,
        kubeconfig=args.kubeconfig,
        namespace=args.namespace,
        host=args.host,
        metrics_port=args.metrics_port,
        health_port=args.health_port,
        lease_seconds=max(2, args.lease_seconds),
        signals=(signal.SIGTERM, signal.SIGINT),
    )
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    # Lists of thousands of objects are made and dropped; the collector would walk over everything at every 700th part
    # of them, and take longer than reading does. Modules and classes stay for good: it need not look at them at all.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    return await Operator(settings, CollectorRegistry()).run()
