"""One container: its process from start to end, again and again as the restart policy says.

In: the container's spec and its pod's sandbox. Out: its state as a kubelet words it (`state`, `last_state`, `ready`,
`started`, `restarts`), told to the pod through `on_change`. Not here: the order of containers, the pod's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from supernode.local.agent.execute import execute
from supernode.local.agent.logs import LogWriter, open_pipe
from supernode.local.agent.probes import Prober, run_probe
from supernode.local.agent.sandbox import (
    Launch,
    Sandbox,
    Services,
    StartError,
    find_program,
    prepare,
    termination_file,
)
from supernode.local.agent.supervise import signal_group

Object = dict[str, Any]

# Seconds between tries to start a container that lacks an image or a config map; doubles up to the limit.
_RETRY_FIRST: Final = 1.0
_RETRY_LIMIT: Final = 30.0
_MESSAGE_LIMIT: Final = 4096
_LOG_TAIL_LIMIT: Final = 2048
# After a container has ended nothing of it is left that could write; this bounds the wait for the pipe's end.
_DRAIN_SECONDS: Final = 5.0


def timestamp() -> str:
    """Now, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """A container of a pod.

    Args:
        spec: its spec.
        role: ``init``, ``sidecar`` or ``main``.
        sandbox: its pod's.
        services: the agent's.
        on_change: called after each change of what a status shows.
    """

    def __init__(
        self, spec: Object, role: str, sandbox: Sandbox, services: Services, on_change: Callable[[], None]
    ) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.role = role
        self.state: Object = {"waiting": {"reason": "PodInitializing" if role == "main" else "ContainerCreating"}}
        self.last_state: Object = {}
        self.ready = False
        self.started = False
        self.restarts = 0
        self.log: LogWriter | None = None
        # Set once the startup probe (or the start itself, without one) has succeeded; the next in order may start.
        self.has_started = asyncio.Event()
        self.finished = asyncio.Event()
        self._sandbox = sandbox
        self._services = services
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._launch: Launch | None = None
        self._exited = asyncio.Event()
        self._stopping = asyncio.Event()
        self._terminating = False
        self._delay = 0.0
        self._begun = False

    @property
    def exit_code(self) -> int | None:
        """Exit code of the last run if the container has ended, else None."""
        code = self.state.get("terminated", {}).get("exitCode")
        return None if code is None else int(code)

    @property
    def log_path(self) -> Path:
        """Log of the current (or last) run."""
        return self.path_of_run(self.restarts)

    def path_of_run(self, run: int) -> Path:
        """Log of one run, counted from 0."""
        return self._sandbox.log_directory / self.name / f"{run}.log"

    async def supervise(self, policy: str) -> None:
        """Run until the policy (Always, OnFailure, Never) asks for no other run, or `stop` is called."""
        self._begun = True
        try:
            while not self._stopping.is_set():
                launch = await self._until_prepared()
                if launch is None:
                    return
                began = time.monotonic()
                code = await self._run(launch)
                wanted = policy == "Always" or (policy == "OnFailure" and code != 0)
                if not wanted or self._stopping.is_set():
                    return
                if time.monotonic() - began >= self._services.back_off.reset:
                    self._delay = 0.0
                await self._wait_before_restart()
                if not self._stopping.is_set():
                    self.restarts += 1
                    self.path_of_run(self.restarts - 2).unlink(missing_ok=True)
        finally:
            if "waiting" in self.state and self._stopping.is_set():
                self._never_ran()
            self.finished.set()
            self._on_change()

    async def stop(self, grace: float) -> None:
        """End the container for good: preStop hook, SIGTERM, and SIGKILL after `grace` seconds."""
        self._stopping.set()
        deadline = time.monotonic() + grace
        process = self._process
        if process is not None and not self._exited.is_set():
            await self._terminate(process, deadline)
        if not self._begun:
            self._never_ran()
            self.finished.set()
        await self.finished.wait()

    async def kill(self, grace: float) -> None:
        """End the current run only (a probe asks for it); the restart policy decides what follows."""
        process = self._process
        if process is not None and not self._exited.is_set():
            await self._terminate(process, time.monotonic() + grace)

    async def execute(self, command: list[str], seconds: float) -> tuple[int | None, str]:
        """Run a command in the container: (exit code or None when it took longer, output)."""
        launch = self._launch
        if launch is None or self._process is None:
            return 1, "the container is not running"
        label = f"{self._sandbox.uid}/{self.name}"
        return await execute(command, launch, self._services.warden, label=label, seconds=seconds)

    # --- one run ---------------------------------------------------------------------------------------------------

    async def _until_prepared(self) -> Launch | None:
        delay = _RETRY_FIRST
        while not self._stopping.is_set():
            try:
                launch = await prepare(self.spec, self._sandbox, self._services)
            except StartError as exc:
                self._event("Warning", "Failed", f"Error: {exc.reason}: {exc}")
                self._wait_state(exc.reason, str(exc))
                if exc.reason == "ErrImagePull":
                    await self._pause(delay)
                    self._event("Normal", "BackOff", f'Back-off pulling image "{self.spec["image"]}"')
                    self._wait_state("ImagePullBackOff", f"Back-off pulling image: {exc}")
                await self._pause(delay)
                delay = min(delay * 2, _RETRY_LIMIT)
            else:
                text = f'Container image "{self.spec["image"]}" stands for a command of this machine'
                self._event("Normal", "Pulled", text)
                return launch
        return None

    async def _run(self, launch: Launch) -> int:
        """One run of the process; returns its exit code (128 + number for a signal)."""
        home = self._sandbox.directory / "c" / self.name
        termination_file(home).write_bytes(b"")
        writer = LogWriter(self.log_path)
        self.log, self._launch = writer, launch
        self._exited.clear()
        self._terminating = False
        began = timestamp()
        output, transport, pump = await open_pipe(writer)
        try:
            program = find_program(launch.argv, launch.environment, launch.directory)
            if program is None:
                raise FileNotFoundError(f'exec: "{launch.argv[0]}": executable file not found in PATH')
            process = self._process = await self._services.warden.spawn(
                [program, *launch.argv[1:]],
                environment=launch.environment,
                directory=launch.directory,
                output=output,
                label=f"{self._sandbox.uid}/{self.name}",
            )
        except OSError as exc:
            self._event("Warning", "Failed", f"Error: failed to start container: {exc}")
            self._ended(began, 128, "StartError", str(exc))
            transport.close()
            return 128
        finally:
            os.close(output)
        self._event("Normal", "Created", f"Created container: {self.name}")
        self._event("Normal", "Started", f"Started container {self.name}")
        self.state = {"running": {"startedAt": began}}
        self._on_change()
        if self._stopping.is_set():
            # `stop` came while the process was being started and did not see it.
            _ask_to_end(process)
        companions = asyncio.create_task(self._companions())
        try:
            code = await process.wait()
        finally:
            companions.cancel()
            self._exited.set()
            await self._services.warden.finish(process.pid, label=f"{self._sandbox.uid}/{self.name}")
        with contextlib.suppress(asyncio.CancelledError):
            await companions
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await asyncio.shield(pump.finished)
        except TimeoutError:
            transport.close()
        code = 128 - code if code < 0 else code
        self._ended(began, code, "Completed" if code == 0 else "Error", self._termination_message(home, code))
        return code

    async def _companions(self) -> None:
        """What goes on beside a running process: the postStart hook, then the probes."""
        if hook := (self.spec.get("lifecycle") or {}).get("postStart"):
            ran = await self._hook(hook, 60.0)
            if not ran:
                self._event("Warning", "FailedPostStartHook", "PostStartHook failed")
                await self._terminate_current()
                return
        ports = {port["name"]: int(port["containerPort"]) for port in self.spec.get("ports") or [] if "name" in port}
        prober = Prober(self._services.http, self._sandbox.address, ports, self.execute)
        startup = self.spec.get("startupProbe")
        async with asyncio.TaskGroup() as group:
            if startup:
                passed = asyncio.Event()
                task = group.create_task(self._probe(prober, "Startup", startup, passed))
                await passed.wait()
                task.cancel()
            self.started = True
            self.has_started.set()
            readiness = self.spec.get("readinessProbe")
            self.ready = not readiness
            self._on_change()
            if readiness:
                group.create_task(self._probe(prober, "Readiness", readiness, None))
            if liveness := self.spec.get("livenessProbe"):
                group.create_task(self._probe(prober, "Liveness", liveness, None))

    async def _probe(self, prober: Prober, kind: str, probe: Object, passed: asyncio.Event | None) -> None:
        async def changed(success: bool) -> None:
            if kind == "Readiness":
                if self.ready is not success:
                    self.ready = success
                    self._on_change()
            elif success:
                if passed is not None:
                    passed.set()
            else:
                message = f"Container {self.name} failed {kind.lower()} probe, will be restarted"
                self._event("Normal", "Killing", message)
                await self._terminate_current(probe.get("terminationGracePeriodSeconds"))

        def failed(message: str) -> None:
            self._event("Warning", "Unhealthy", f"{kind} probe failed: {message}")

        await run_probe(prober, probe, on_change=changed, on_failure=failed)

    async def _terminate_current(self, grace: float | None = None) -> None:
        seconds = self._sandbox.pod["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
        # Not awaited here: the caller runs beside the process and is cancelled as it ends.
        self._killer = asyncio.create_task(self.kill(float(seconds)))
        await self._exited.wait()

    async def _terminate(self, process: asyncio.subprocess.Process, deadline: float) -> None:
        if not self._terminating:
            self._terminating = True
            if hook := (self.spec.get("lifecycle") or {}).get("preStop"):
                await self._hook(hook, max(deadline - time.monotonic(), 0.1))
            _ask_to_end(process)
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.0)):
                await self._exited.wait()
        except TimeoutError:
            signal_group(process.pid, signal.SIGKILL)
            await self._exited.wait()

    async def _hook(self, hook: Object, seconds: float) -> bool:
        """Run a lifecycle hook; whether it succeeded."""
        if "sleep" in hook:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(float(hook["sleep"].get("seconds") or 0), seconds)):
                    await self._exited.wait()
            return True
        ports = {port["name"]: int(port["containerPort"]) for port in self.spec.get("ports") or [] if "name" in port}
        prober = Prober(self._services.http, self._sandbox.address, ports, self.execute)
        success, _ = await prober.once({**hook, "timeoutSeconds": seconds})
        return success

    # --- states ----------------------------------------------------------------------------------------------------

    async def _wait_before_restart(self) -> None:
        if self._delay > 0:
            pod = self._sandbox.pod["metadata"]
            where = f"{pod['name']}_{pod['namespace']}({pod['uid']})"
            self._event("Warning", "BackOff", f"Back-off restarting failed container {self.name} in pod {where}")
            message = f"back-off {self._delay:g}s restarting failed container={self.name} pod={where}"
            self.last_state = self.state
            self._wait_state("CrashLoopBackOff", message)
            await self._pause(self._delay)
        else:
            self.last_state = self.state
        back_off = self._services.back_off
        self._delay = min(max(self._delay * 2, back_off.base), back_off.limit)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _wait_state(self, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}
        self._on_change()

    def _ended(self, began: str, code: int, reason: str, message: str) -> None:
        self.state = {
            "terminated": {
                "exitCode": code,
                "reason": reason,
                "startedAt": began,
                "finishedAt": timestamp(),
                "containerID": f"process://{self._sandbox.uid}/{self.name}/{self.restarts}",
            }
        }
        if message:
            self.state["terminated"]["message"] = message
        self.ready = self.started = False
        self._process = None
        self._exited.set()
        self._on_change()

    def _never_ran(self) -> None:
        """Stopped while it waited: the last run's end stands, or the kubelet's word for a container that never ran."""
        if "terminated" in self.last_state:
            self.state, self.last_state = self.last_state, {}
        elif self.role == "main" or self.role == "sidecar":
            message = "The container could not be located when the pod was terminated"
            self.state = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": message}}

    def _termination_message(self, home: Path, code: int) -> str:
        text = termination_file(home).read_bytes()[:_MESSAGE_LIMIT].decode(errors="replace")
        fall_back = self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        if not text and fall_back and code != 0 and self.log is not None:
            return self.log.tail(_LOG_TAIL_LIMIT)
        return text

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._sandbox.event(kind, reason, message, self.name)


def _ask_to_end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM to the first process alone, as a container gets it; its end takes the others with it."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
