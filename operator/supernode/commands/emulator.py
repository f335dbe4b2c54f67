"""`supernode emulator`: the sidecar; `exec`: a command beside one; `kernels`: the kernel table.

Flows in: variables of `names` with flags that override them. Flows out: a running sidecar until SIGTERM, or the exit
status of the command. NumPy is imported only after the BLAS has been told to use one thread: results and speed do not
depend on how many cores the host has, and devices run side by side.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from supernode import names
from supernode.commands import device_trace, run_model
from supernode.errors import InputError

if TYPE_CHECKING:
    from supernode.chips import Chip
    from supernode.emulator.server import Server

_TERMINATION_LOG: Final = "/dev/termination-log"
_THREAD_VARIABLES: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Seconds that clients get to end by themselves after SIGTERM; a native sidecar is stopped after the worker anyway.
_GRACE: Final = 5.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Flags; each has a variable, so that a pod needs no arguments."""
    _add_settings(parser)
    commands = parser.add_subparsers(dest="emulator_command", metavar="[exec|kernels|run|trace]")
    beside = commands.add_parser("exec", help="run a command beside an emulator", description=_exec.__doc__)
    beside.add_argument("--chip", default=argparse.SUPPRESS, help="chip to emulate (default: $SUPERNODE_CHIP)")
    beside.add_argument("--devices", type=int, default=argparse.SUPPRESS, help="number of devices (default: 1)")
    beside.add_argument("--memory-gib", type=float, default=argparse.SUPPRESS, help="memory of a device")
    beside.add_argument("--trace", metavar="FILE", help="write what the devices did, for ui.perfetto.dev")
    beside.add_argument("program", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command and its arguments")
    commands.add_parser("kernels", help="print the kernel table", description="Print the kernel table.")
    model = commands.add_parser(
        "run", help="run an ONNX model and say how long it takes", description=run_model.run.__doc__
    )
    run_model.configure(model)
    traces = commands.add_parser(
        "trace", help="show what the devices of a job did when", description=device_trace.run.__doc__
    )
    device_trace.configure(traces)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    env = os.environ
    add = parser.add_argument
    add("--chip", default=env.get(names.ENV_CHIP, ""), help=f"catalogue name or chipSpec as JSON (${names.ENV_CHIP})")
    add("--devices", default=env.get(names.ENV_DEVICES, "1"), help=f"number of devices (${names.ENV_DEVICES})")
    add("--memory-gib", type=float, help="memory of a device (default: the chip's)")
    add(
        "--memory-mib",
        default=env.get(names.ENV_DEVICE_MEMORY, ""),
        help=f"the same in MiB, as device plugins count it (${names.ENV_DEVICE_MEMORY})",
    )
    add(
        "--cores",
        default=env.get(names.ENV_DEVICE_CORES) or "100",
        help=f"percent of the chip's compute units that a device has (${names.ENV_DEVICE_CORES})",
    )
    add(
        "--socket",
        default=env.get(names.ENV_SOCKET, names.EMULATOR_SOCKET),
        help=f"path of the Unix socket (${names.ENV_SOCKET})",
    )
    add("--socket-mode", default="600", help="permissions of the socket, octal (default: 600)")
    add("--rank", default=env.get(names.ENV_RANK, "0"), help=f"of this worker (${names.ENV_RANK})")
    add("--workers", default=env.get(names.ENV_WORKERS, "1"), help=f"of the job (${names.ENV_WORKERS})")
    add("--attempt", default=env.get(names.ENV_ATTEMPT, "0"), help=f"of the job (${names.ENV_ATTEMPT})")
    add(
        "--rendezvous",
        default=env.get(names.ENV_RENDEZVOUS, ""),
        help=f"host:port of rank 0's fabric (${names.ENV_RENDEZVOUS})",
    )
    add(
        "--host",
        default=env.get(names.ENV_POD_IP, "127.0.0.1"),
        help=f"address to listen on for the fabric and HTTP (${names.ENV_POD_IP})",
    )
    add("--fabric-port", default=str(names.PORT_FABRIC), help="TCP port of the fabric (0: any free one)")
    add("--http-port", default=str(names.PORT_EMULATOR_HTTP), help="port of /metrics and probes (0: any free one)")
    add(
        "--fabric-timeout",
        default=env.get(names.ENV_FABRIC_TIMEOUT, "60"),
        help=f"seconds that a collective waits for a rank (${names.ENV_FABRIC_TIMEOUT})",
    )
    add(
        "--termination-log",
        default=env.get("TERMINATION_LOG", _TERMINATION_LOG),
        help="file for the final progress ($TERMINATION_LOG); ignored where it cannot be written",
    )
    add(
        "--fabric-transport",
        default=env.get(names.ENV_FABRIC_TRANSPORT, "auto"),
        help=f"auto: memory between pods on one host, TCP to others; tcp: TCP only (${names.ENV_FABRIC_TRANSPORT})",
    )
    add(
        "--trace-events",
        default=env.get(names.ENV_TRACE_EVENTS, "16384"),
        help=f"pieces of work that each device keeps for /trace; 0: none (${names.ENV_TRACE_EVENTS})",
    )
    add("--threads", default="1", help="BLAS threads of one kernel (default: 1)")


def run(args: argparse.Namespace) -> int:
    """Dispatch to the sidecar, or to one of its subcommands."""
    ours = _limit_threads(getattr(args, "threads", "1"))
    if args.emulator_command == "kernels":
        return _kernels()
    if args.emulator_command == "run":
        return run_model.run(args)
    if args.emulator_command == "trace":
        return device_trace.run(args)
    if args.emulator_command == "exec":
        return _exec(args, ours)
    return _serve(args)


def _limit_threads(threads: str) -> list[str]:
    """Limit the BLAS of this process; gives the variables that were not set before."""
    unset = [variable for variable in _THREAD_VARIABLES if variable not in os.environ]
    os.environ.update(dict.fromkeys(unset, threads))
    return unset


def _number(args: argparse.Namespace, flag: str, low: int, high: int) -> int:
    text = str(getattr(args, flag.replace("-", "_")))
    if not text.isdecimal() or not low <= int(text) <= high:
        raise InputError(f"must be a whole number from {low} to {high}, not {text!r}", field=f"--{flag}")
    return int(text)


def read_chip(text: str) -> Chip:
    """A chip from a catalogue name, or from a JSON object with the fields of chipSpec.

    Raises:
        InputError: none is given, the JSON is broken, or the chip is unknown.
    """
    from supernode.chips import chip_from_mapping, find_chip

    if not text:
        raise InputError(f"which chip? give --chip or ${names.ENV_CHIP}; `supernode chips` lists them", field="--chip")
    if not text.lstrip().startswith("{"):
        return find_chip(text)
    try:
        fields: Mapping[str, Any] = json.loads(text)
    except ValueError as exc:
        raise InputError(f"not JSON: {exc}", field="--chip") from exc
    return chip_from_mapping(fields)


def _build(args: argparse.Namespace, *, socket: Path, fabric_port: int, http_port: int | None, alone: bool) -> Server:
    from supernode.emulator.fabric import FabricConfig
    from supernode.emulator.server import Server, ServerConfig

    chip = read_chip(args.chip)
    devices = _number(args, "devices", 1, 64)
    fabric = FabricConfig(rank=0, workers=1, devices_per_worker=devices, chip=chip)
    if not alone:
        workers = _number(args, "workers", 1, 4096)
        fabric = FabricConfig(
            rank=_number(args, "rank", 0, workers - 1),
            workers=workers,
            devices_per_worker=devices,
            listen_host=args.host,
            listen_port=fabric_port,
            rendezvous=args.rendezvous,
            secret=os.environ.get(names.ENV_FABRIC_SECRET, ""),
            topology=os.environ.get(names.ENV_TOPOLOGY),
            chip=chip,
            timeout=_seconds(args.fabric_timeout),
            transport=args.fabric_transport,
            attempt=_number(args, "attempt", 0, 1 << 31),
        )
    config = ServerConfig(
        chip=chip,
        devices=devices,
        socket=socket,
        fabric=fabric,
        http_host=args.host,
        http_port=http_port,
        memory_bytes=_memory(args, chip),
        cores=_number(args, "cores", 1, 100),
        socket_mode=_mode(args.socket_mode),
        trace_events=_number(args, "trace-events", 0, 1 << 22),
    )
    return Server(config)


def _memory(args: argparse.Namespace, chip: Chip) -> int | None:
    """Bytes of a device; None: the chip's. A share of a card cannot be larger than the card."""
    if args.memory_gib is not None:
        return int(args.memory_gib * (1 << 30))
    if not args.memory_mib:
        return None
    return _number(args, "memory-mib", 1, int(chip.figure("memory_bytes")) >> 20) << 20


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise InputError(f"must be a number of seconds above 0, not {text!r}", field="--fabric-timeout")
    return seconds


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = 0
    if mode not in (0o600, 0o660, 0o666):
        raise InputError(f"must be 600, 660 or 666, not {text!r}", field="--socket-mode")
    return mode


def _serve(args: argparse.Namespace) -> int:
    """Run the sidecar until SIGTERM or SIGINT."""
    from supernode.emulator.runtime.host import keep_freed

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    _on_signals(lambda number: stop.set())
    server = _build(
        args,
        socket=Path(args.socket),
        fabric_port=_number(args, "fabric-port", 0, 65535),
        http_port=_number(args, "http-port", 0, 65535),
        alone=False,
    )
    keep_freed()
    server.start()
    # What is loaded stays; commands make many short-lived objects without cycles, so look for cycles rarely.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    http = "" if server.http is None else f", HTTP on {server.http.host}:{server.http.port}"
    print(
        f"emulating {len(server.devices)} x {server.config.chip.name}, worker {server.config.fabric.rank} of "
        f"{server.config.fabric.workers}, on {server.config.socket}{http}",
        flush=True,
    )
    stop.wait()
    print("stopping: waiting for clients to end", flush=True)
    server.stop(grace=_GRACE)
    write_termination(Path(args.termination_log), server.progress.message())
    print(f"stopped: {server.progress.message()}", flush=True)
    return 0


def write_termination(path: Path, message: str) -> None:
    """Leave the final progress where the kubelet looks for it; without such a file there is nobody to tell."""
    try:
        # The usual place exists in a container; making it would litter a machine that is none.
        if path.exists() or str(path) != _TERMINATION_LOG:
            path.write_text(message)
    except OSError as exc:
        logging.getLogger("supernode.emulator").warning("cannot write %s: %s", path, exc)


def _on_signals(action: Callable[[int], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, frame: action(received))


def _exec(args: argparse.Namespace, ours: Sequence[str] = ()) -> int:
    """Start an emulator in a temporary directory, run a command beside it, give the command's exit status."""
    program = args.program[1:] if args.program[:1] == ["--"] else args.program
    if not program:
        raise InputError("no command; write: supernode emulator exec --chip C --devices N -- COMMAND ARGUMENTS")
    # Short: the path of a Unix socket has about 100 bytes.
    memory = Path("/dev/shm")  # noqa: S108 - mkdtemp makes a directory of its own there
    directory = Path(tempfile.mkdtemp(prefix="supernode-", dir=memory if memory.is_dir() else None))
    child: subprocess.Popen[bytes] | None = None

    def pass_on(number: int) -> None:
        # Ctrl-C reaches the command by itself: it is in the same group.
        if child is not None and number != signal.SIGINT:
            child.send_signal(number)

    try:
        server = _build(args, socket=directory / "emulator.sock", fabric_port=0, http_port=None, alone=True)
        server.start()
        try:
            _on_signals(pass_on)
            child = subprocess.Popen(program, env=_environment(args, server, ours))
            status = child.wait()
        except OSError as exc:
            print(f"supernode emulator exec: cannot run {program[0]}: {exc}", file=sys.stderr)
            return 127
        finally:
            server.stop()
        if args.trace:
            device_trace.write(server.trace(), args.trace)
        return status if status >= 0 else 128 - status
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _environment(args: argparse.Namespace, server: Server, ours: Sequence[str]) -> dict[str, str]:
    """Variables of the command: the caller's, without those that were set for the sidecar's own arithmetic (`ours`).

    Which devices the caller chose stays chosen, unless those are devices of another emulator that it runs beside.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ours}
    every = ",".join(str(number) for number in range(len(server.devices)))
    chosen = every if names.ENV_SOCKET in inherited else inherited.get(names.ENV_VISIBLE_DEVICES, every)
    return {
        **inherited,
        names.ENV_SOCKET: str(server.config.socket),
        names.ENV_DEVICES: str(len(server.devices)),
        names.ENV_CHIP: str(args.chip),
        names.ENV_RANK: "0",
        names.ENV_WORKERS: "1",
        names.ENV_VISIBLE_DEVICES: chosen,
    }


def _kernels() -> int:
    """Print the kernel table."""
    from supernode.emulator.kernels import TABLE
    from supernode.emulator.kernels.reference import table_lines

    for line in table_lines(TABLE):
        print(line)
    return 0
