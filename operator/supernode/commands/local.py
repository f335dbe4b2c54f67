"""`supernode local up|down|status`: a Kubernetes cluster of ordinary processes on this machine.

In: flags. Out: a running cluster in the foreground (Ctrl-C takes it down) or detached, and one line that says how to
use it. The work is done in `supernode.local`; this module picks the CRDs and the image table, and talks to the person.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from supernode.commands.documents import FORMATS, document
from supernode.errors import ClusterError, LocalError
from supernode.local.agent.images import parse_entry
from supernode.local.agent.sandbox import BackOff
from supernode.local.client import Connection, KubeClient
from supernode.local.cluster_file import parse_cluster_file
from supernode.local.engines import ENGINES
from supernode.local.run_cluster import LocalCluster, Plan, is_ours, node_ready
from supernode.local.state_directory import Record, StateDirectory, default_root
from supernode.names import LEASE_NAME, LEASE_NAMESPACE

Object = dict[str, Any]

_DEFAULT_NAME: Final = "local"
_DOWN_SECONDS: Final = 30.0
_READY: Final = "ready"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the three actions."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    up = actions.add_parser("up", help="start a cluster", description="Start a cluster; Ctrl-C takes it down.")
    _add_name(up)
    up.add_argument("--engine", choices=ENGINES, default="embedded", help="API server (default: %(default)s)")
    up.add_argument("--cluster", type=Path, metavar="FILE", help="cluster file (default: the demo's five nodes)")
    up.add_argument("--kubeconfig", type=Path, metavar="PATH", help="also write the kubeconfig to PATH")
    up.add_argument("--detach", action="store_true", help="return when the cluster is ready, and leave it running")
    up.add_argument("--no-operator", action="store_true", help="a bare cluster: no CRDs, no operator")
    up.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="let the image NAME mean COMMAND on this machine (may be repeated)",
    )
    up.add_argument(
        "--restart-delay",
        type=float,
        default=BackOff.base,
        metavar="SECONDS",
        help="wait before a failing container's second restart, doubled for each further one (default: %(default)g)",
    )
    up.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    down = actions.add_parser("down", help="end a cluster", description="End a cluster and remove all its files.")
    _add_name(down)
    status = actions.add_parser("status", help="show clusters", description="Show the clusters of this machine.")
    _add_name(status, default=None)
    status.add_argument("-o", "--output", choices=FORMATS, default="table", help="default: %(default)s")


def _add_name(parser: argparse.ArgumentParser, default: str | None = _DEFAULT_NAME) -> None:
    text = "name of the cluster (default: %(default)s)" if default else "only the cluster of this name"
    parser.add_argument("--name", default=default, help=text)


def run(args: argparse.Namespace) -> int:
    """Do one action."""
    if args.action == "up":
        return _up(args)
    return _down(args.name) if args.action == "down" else _status(args.name, args.output)


# --- up ---------------------------------------------------------------------------------------------------------------


def _up(args: argparse.Namespace) -> int:
    plan = _plan(args)
    state = StateDirectory(args.name, default_root())
    if args.detach:
        return _detach(args, state)
    state.acquire()
    # Every node listens, and every container has a pipe: as many open files as this user may have.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return asyncio.run(_serve(plan, state, child=args.child))


def _plan(args: argparse.Namespace) -> Plan:
    file = args.cluster or Path(sys.modules[parse_cluster_file.__module__].__file__ or "").with_name(
        "demo-cluster.yaml"
    )
    try:
        text = file.read_text()
    except OSError as exc:
        raise LocalError(f"cannot read the cluster file {file}: {exc.strerror}") from exc
    return Plan(
        engine=args.engine,
        cluster=parse_cluster_file(text, str(file)),
        crds=() if args.no_operator else _crds(),
        operator=not args.no_operator,
        kubeconfig=args.kubeconfig.absolute() if args.kubeconfig else None,
        images=dict(parse_entry(text) for text in args.image),
        back_off=BackOff(base=args.restart_delay),
    )


def _crds() -> tuple[Object, ...]:
    # Imported here: a bare cluster, `down` and `status` do without pydantic.
    from supernode.api import KINDS
    from supernode.api.crd import crd

    return tuple(crd(kind) for kind in KINDS)


async def _serve(plan: Plan, state: StateDirectory, *, child: bool) -> int:
    """Run a cluster until a signal comes or it breaks."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, ended.set)
    cluster = LocalCluster(plan, state, _say)
    signalled = asyncio.create_task(ended.wait())
    starting = asyncio.create_task(cluster.start())
    broken: asyncio.Task[str] | None = None
    try:
        await asyncio.wait({signalled, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return 130
        record = await starting
        if child:
            _say(_READY)
            _continue_in_log(Path(record.log))
        else:
            _say(_how_to_use(record))
            _say("Ctrl-C takes the cluster down")
        broken = asyncio.create_task(cluster.wait())
        await asyncio.wait({signalled, broken}, return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            raise LocalError(broken.result())
        return 0
    finally:
        tasks = [task for task in (signalled, starting, broken) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not child:
            _say("taking the cluster down")
        await cluster.stop()


def _say(text: str) -> None:
    print(text, flush=True)


def _how_to_use(record: Record) -> str:
    return f"export KUBECONFIG={record.kubeconfig}"


def _continue_in_log(path: Path) -> None:
    """Send our output to a file from now on; the one who started us reads no more."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)


def _detach(args: argparse.Namespace, state: StateDirectory) -> int:
    """Start the cluster in a session of its own, and follow it until it is ready."""
    command = [sys.executable, "-m", "supernode", "local", "up", "--child", "--name", args.name]
    command += ["--engine", args.engine, "--restart-delay", str(args.restart_delay)]
    for flag, value in (("--cluster", args.cluster), ("--kubeconfig", args.kubeconfig)):
        command += [flag, str(value.absolute())] if value else []
    command += ["--no-operator"] if args.no_operator else []
    for image in args.image:
        command += ["--image", image]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    if child.stdout is None:
        raise LocalError("the cluster's output cannot be read")
    ready = False
    try:
        for line in child.stdout:
            if line.rstrip() == _READY:
                ready = True
                break
            # Progress is for the eye: standard output carries only the line that a shell can eval.
            print(line, end="", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        child.send_signal(signal.SIGTERM)
        child.wait()
        raise
    finally:
        child.stdout.close()
    if not ready:
        return child.wait() or 1
    # It is nobody's child from here on.
    child.returncode = 0
    record = state.read()
    if record is None:
        raise LocalError(f'cluster "{args.name}" ended as it became ready')
    if record.operator_log:
        print(f"operator log: {record.operator_log}", file=sys.stderr)
    print(_how_to_use(record))
    return 0


# --- down -------------------------------------------------------------------------------------------------------------


def _down(name: str) -> int:
    state = StateDirectory(name, default_root())
    record = state.read()
    if not state.running():
        left = state.path.exists()
        state.remove()
        _remove_kubeconfig(record, name)
        print(f'cluster "{name}" was not running{"; removed what it had left" if left else ""}')
        return 0
    if record is None:
        raise LocalError(f'cluster "{name}" is just being started; try again in a moment')
    _end(record.pid, state)
    state.remove()
    _remove_kubeconfig(record, name)
    print(f'cluster "{name}" is down')
    return 0


def _end(pid: int, state: StateDirectory) -> None:
    """SIGTERM to the cluster's process, SIGKILL if it takes too long. The lock says when it is gone, not the number."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _DOWN_SECONDS
        while time.monotonic() < deadline:
            if not state.running() and not _alive(pid):
                return
            time.sleep(0.05)
    raise LocalError(f"process {pid} of the cluster does not end")


def _alive(pid: int) -> bool:
    """Whether a process still does anything; one whose end nobody has asked for yet (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def _remove_kubeconfig(record: Record | None, name: str) -> None:
    if record is not None and is_ours(Path(record.kubeconfig), name):
        Path(record.kubeconfig).unlink(missing_ok=True)


# --- status -----------------------------------------------------------------------------------------------------------


def _status(name: str | None, output: str) -> int:
    root = default_root()
    names = [name] if name else sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    found = []
    for entry in names:
        state = StateDirectory(entry, root)
        record = state.read()
        if record is not None:
            found.append(asyncio.run(_describe(record, running=state.running())))
    if output != "table":
        print(document(found, output))
    elif found:
        _print_table(found)
    else:
        print(f'no cluster "{name}"' if name else "no clusters; `supernode local up` starts one")
    return 0 if found or not name else 1


async def _describe(record: Record, *, running: bool) -> Object:
    """What a cluster is and does, as plain data."""
    described: Object = {
        "name": record.name,
        "state": record.state if running else "dead",
        "engine": record.engine,
        "url": record.url,
        "pid": record.pid,
        "started": record.started,
        "kubeconfig": record.kubeconfig,
        "nodes": {"total": record.nodes, "ready": 0},
        "pods": {"total": 0, "running": 0},
        "operator": {"state": "absent", "log": record.operator_log},
        "log": record.log,
    }
    if not running or record.state != _READY:
        return described
    try:
        async with KubeClient(Connection.from_kubeconfig(Path(record.kubeconfig))) as client:
            nodes = (await client.get("/api/v1/nodes")).get("items") or []
            pods = (await client.get("/api/v1/pods")).get("items") or []
            described["nodes"] = {"total": len(nodes), "ready": sum(map(node_ready, nodes))}
            active = sum((pod.get("status") or {}).get("phase") == "Running" for pod in pods)
            described["pods"] = {"total": len(pods), "running": active}
            if record.operator:
                lease = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases/{LEASE_NAME}"
                holder = (await client.get(lease)).get("spec", {}).get("holderIdentity")
                described["operator"]["state"] = f"led by {holder}" if holder else "without leader"
    except (ClusterError, LocalError) as exc:
        described["state"] = "unreachable"
        described["problem"] = str(exc)
    return described


def _print_table(clusters: list[Object]) -> None:
    header = ("NAME", "STATE", "ENGINE", "URL", "NODES", "PODS", "OPERATOR", "KUBECONFIG", "OPERATOR LOG")
    rows = [header]
    for entry in clusters:
        nodes, pods = entry["nodes"], entry["pods"]
        rows.append(
            (
                entry["name"],
                entry["state"],
                entry["engine"],
                entry["url"] or "-",
                f"{nodes['ready']}/{nodes['total']}",
                f"{pods['running']}/{pods['total']}",
                entry["operator"]["state"],
                entry["kubeconfig"],
                entry["operator"]["log"] or "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
