"""`supernode demo`: from manifests to a trained model and a verdict, on a local cluster made for it.

Flows in: the manifests of kind/examples, applied in order exactly as kubectl would apply them to kind. Flows out:
progress while it runs, a table, `report.json`, and exit status 0 only if every promise held (`demo.verdict`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from supernode.cluster.client import Client
from supernode.cluster.kinds import EVENTS, JOBS, PODS, Json, Kind
from supernode.commands.demo_cluster import DemoCluster
from supernode.demo import verdict
from supernode.errors import BadRequestError, ClusterError, InputError, NotFoundError
from supernode.names import LABEL_JOB

NAMESPACE = "default"
FIRST, WIDE = "gpt", "wide"
# broken job -> the field that its refusal must name
BROKEN = {"broken-pool": "spec.pools", "broken-parallelism": "spec.parallelism"}
CLUSTER_SCOPED = ("AcceleratorPool", "SuperNodeGroup", "Namespace")
FINAL_STATES = ("Succeeded", "Failed")
# A gang's pods are created together: longer than this with only some of them there is a half gang.
PARTIAL_SECONDS = 5.0
POLL_SECONDS = 0.25


def configure(parser: argparse.ArgumentParser) -> None:
    """Options of `supernode demo`."""
    parser.add_argument("--manifests", type=Path, default=Path("kind/examples"), help="folder of manifests to apply")
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder for report.json and logs")
    parser.add_argument("--engine", choices=("embedded", "envtest"), default="embedded", help="API server to use")
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds after which the demo gives up")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 if every promise held."""
    manifests = load_manifests(args.manifests)
    args.output.mkdir(parents=True, exist_ok=True)
    return asyncio.run(_guarded(args, manifests))


def load_manifests(folder: Path) -> list[Json]:
    """Every object of every YAML file in `folder`, in order of file name.

    Raises:
        InputError: the folder holds no manifests.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise InputError(f"no *.yaml in {folder}; run it in the repository, or give --manifests")
    return [obj for path in files for obj in yaml.safe_load_all(path.read_text(encoding="utf-8")) if obj]


async def _guarded(args: argparse.Namespace, manifests: list[Json]) -> int:
    """Cancel the demo on SIGTERM as on Ctrl-C, so that the cluster is always torn down."""
    task = asyncio.current_task()
    if task is None:  # pragma: no cover - asyncio.run always makes one
        raise RuntimeError("no running task")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    started = time.monotonic()
    progress = Progress(started)
    async with DemoCluster(args.output, args.engine, progress.say) as kubeconfig:
        client = await Client.connect(str(kubeconfig))
        try:
            demo = Demo(client, progress)
            try:
                async with asyncio.timeout(args.timeout):
                    await demo.play(manifests)
            except TimeoutError:
                progress.say(f"gave up after {args.timeout:.0f} s")
            report = await demo.report()
        finally:
            await client.close()
        report["seconds"] = round(time.monotonic() - started, 1)
    return _conclude(report, args.output / "report.json")


def _conclude(report: dict[str, Any], path: Path) -> int:
    """Print table and verdict, write the report; 0 if every check held."""
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"\n{verdict.table(report['jobs'])}\n")
    for check in report["checks"]:
        print(f"{'ok  ' if check['held'] else 'FAIL'}  {check['name']}\n      {check['detail']}")
    failed = sum(not check["held"] for check in report["checks"])
    outcome = "every promise held" if not failed else f"{failed} of {len(report['checks'])} promises broken"
    print(f"\n{outcome}, in {report['seconds']} s; figures in {path}")
    return 1 if failed else 0


class Progress:
    """Progress on the terminal: one line that changes where there is a terminal, else a line per change or 5 s."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._live = sys.stdout.isatty()
        self._last = ""
        self._said = started

    def say(self, text: str) -> None:
        """A line that stays."""
        self._said = time.monotonic()
        start, end = ("\r", "\x1b[K\n") if self._live else ("", "\n")
        print(f"{start}[{time.monotonic() - self._started:5.1f} s] {text}", end=end, flush=True)

    def show(self, text: str, *, key: str) -> None:
        """A line that the next one may replace; without a terminal it is printed when `key` changes, or after 5 s."""
        if self._live:
            # One column stays free: a line that reaches the edge would wrap, and could not be replaced.
            line = f"[{time.monotonic() - self._started:5.1f} s] {text}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r{line}\x1b[K", end="", flush=True)
        elif key != self._last or time.monotonic() - self._said > 5:
            self.say(text)
        self._last = key


class Demo:
    """Applies the manifests, follows the jobs and gathers what the verdict needs."""

    def __init__(self, client: Client, progress: Progress) -> None:
        self._client = client
        self._progress = progress
        self._seen = verdict.Observation()
        self._partial_since: dict[str, float] = {}

    async def play(self, manifests: list[Json]) -> None:
        """Apply everything in order, and follow the two good jobs to their end."""
        jobs = [obj for obj in manifests if obj["kind"] == "TrainingJob"]
        for obj in manifests:
            if obj not in jobs:
                await self._apply(obj)
        for obj in jobs:
            if obj["metadata"]["name"] in BROKEN:
                await self._apply_broken(obj)
                continue
            await self._apply(obj)
            await self._follow_until_placed_or_waiting(obj["metadata"]["name"])
        while True:
            states = await self._look()
            if all(states.get(name) in FINAL_STATES for name in (FIRST, WIDE)):
                break
            await asyncio.sleep(POLL_SECONDS)
        self._progress.say("both jobs have ended")

    async def _apply(self, obj: Json) -> None:
        namespace = obj["metadata"].get("namespace", NAMESPACE)
        kind = _kind_of(obj)
        await self._client.request(
            "PATCH",
            kind.path(namespace, obj["metadata"]["name"]),
            params={"fieldManager": "supernode-demo"},
            body=obj,
            content_type="application/apply-patch+yaml",
        )
        self._progress.say(f"applied {obj['kind']} {obj['metadata']['name']}")

    async def _apply_broken(self, obj: Json) -> None:
        name = obj["metadata"]["name"]
        try:
            await self._apply(obj)
        except BadRequestError as exc:
            self._seen.refusals[name] = str(exc)
            self._progress.say(f"{name} was refused: {exc}")

    async def _follow_until_placed_or_waiting(self, name: str) -> None:
        """So that the first job holds its devices before the second one asks for them."""
        while True:
            job = await self._job(name)
            if job and verdict.condition(job, "Scheduled"):
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _look(self) -> dict[str, str]:
        """One look at jobs and pods: notes what the verdict needs, shows a line; returns the state per job."""
        jobs = {job["metadata"]["name"]: job for job in (await self._client.list_page(JOBS, NAMESPACE))["items"]}
        pods = (await self._client.list_page(PODS, NAMESPACE, selector=LABEL_JOB))["items"]
        self._note_waiting(jobs)
        self._note_refusals(jobs)
        self._note_partial_gangs(jobs, pods)
        states = {name: str(job.get("status", {}).get("state", "Pending")) for name, job in jobs.items()}
        parts = []
        for name in (FIRST, WIDE):
            status = jobs.get(name, {}).get("status", {})
            step = status.get("progress") or {}
            text = f"{name} {states.get(name, '-')} {status.get('ready', '')}"
            if "loss" in step:
                text += f" step {step.get('step')} loss {step['loss']:.3f}"
            parts.append(text)
        self._progress.show(" | ".join(parts), key=str(sorted(states.items())))
        return states

    def _note_waiting(self, jobs: dict[str, Json]) -> None:
        first, wide = jobs.get(FIRST, {}), jobs.get(WIDE, {})
        scheduled = verdict.condition(wide, "Scheduled")
        if first.get("status", {}).get("state") in ("Starting", "Running") and scheduled.get("status") == "False":
            if not self._seen.waiting_message:
                self._progress.say(f"{WIDE} waits: {scheduled.get('message')}")
            self._seen.waiting_message = str(scheduled.get("message", ""))

    def _note_refusals(self, jobs: dict[str, Json]) -> None:
        for name in BROKEN.keys() & jobs.keys() - self._seen.refusals.keys():
            accepted = verdict.condition(jobs[name], "Accepted")
            if accepted.get("status") == "False":
                self._seen.refusals[name] = str(accepted.get("message", ""))
                self._progress.say(f"{name} is not accepted: {accepted.get('message')}")

    def _note_partial_gangs(self, jobs: dict[str, Json], pods: list[Json]) -> None:
        now = time.monotonic()
        for name in (FIRST, WIDE):
            job = jobs.get(name)
            if job is None:
                continue
            there = sum(pod["metadata"]["labels"].get(LABEL_JOB) == name for pod in pods)
            if 0 < there < job["spec"]["workers"]:
                since = self._partial_since.setdefault(name, now)
                if now - since > PARTIAL_SECONDS:
                    self._seen.partial_gangs.append(f"{there} of {job['spec']['workers']} pods for {now - since:.1f} s")
            else:
                self._partial_since.pop(name, None)

    async def _job(self, name: str) -> Json | None:
        try:
            return await self._client.get(JOBS, name, NAMESPACE)
        except NotFoundError:
            return None

    async def report(self) -> dict[str, Any]:
        """What happened, as plain JSON values: jobs, checks, and the figures behind them."""
        first, wide = await self._job(FIRST) or _absent(FIRST), await self._job(WIDE) or _absent(WIDE)
        finals = await self._final_lines(first)
        wide_pods = (await self._client.list_page(PODS, NAMESPACE, selector=f"{LABEL_JOB}={WIDE}"))["items"]
        self._seen.waiting_event = await self._waiting_event()
        checks = [
            *verdict.check_training(FIRST, first, finals),
            *verdict.check_waiting(first, wide, wide_pods, self._seen),
            *verdict.check_refusals(BROKEN, self._seen),
        ]
        broken = [await self._job(name) for name in BROKEN]
        return {
            "held": all(check.held for check in checks),
            "jobs": [verdict.job_row(job) for job in (first, wide, *broken) if job is not None],
            "unigramLoss": finals[0].get("unigramLoss") if finals else None,
            "digests": [digest for final in finals for digest in final.get("digests", [])],
            "checks": [{"name": check.name, "held": check.held, "detail": check.detail} for check in checks],
        }

    async def _final_lines(self, job: Json) -> list[Json]:
        finals = []
        for rank in range(int(job.get("spec", {}).get("workers", 0))):
            path = PODS.path(NAMESPACE, f"{job['metadata']['name']}-worker-{rank}", "log")
            try:
                finals.append(verdict.last_json_line(await self._client.text(path, {"container": "trainer"})))
            except ClusterError as exc:
                self._progress.say(f"no log of rank {rank}: {exc}")
        return finals

    async def _waiting_event(self) -> str:
        for event in (await self._client.list_page(EVENTS, NAMESPACE))["items"]:
            about = event.get("involvedObject", {})
            message = str(event.get("message", ""))
            if about.get("name") == WIDE and about.get("kind") == "TrainingJob" and FIRST in message:
                return f"{event.get('reason')}: {message}"
        return ""


def _absent(name: str) -> Json:
    return {"metadata": {"name": name}, "spec": {}, "status": {"state": None}}


def _kind_of(obj: Json) -> Kind:
    """The API path of an object in the examples: our kinds, and plain core objects."""
    group, _, version = obj["apiVersion"].rpartition("/")
    plural = obj["kind"].lower() + "s"
    return Kind(group, version, plural, obj["kind"], namespaced=obj["kind"] not in CLUSTER_SCOPED)
