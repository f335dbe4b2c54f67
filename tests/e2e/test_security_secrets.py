"""A whole job with real sidecars: the secret that they share is in nothing that anybody reads."""

from __future__ import annotations

import asyncio
import base64
import json
import tempfile
import urllib.request
from pathlib import Path

from tests.builders.trouble import CORE, OURS, SUMMING, trouble

from supernode.names import PORT_EMULATOR_HTTP

TALKING = SUMMING.replace("while True:", "for step in range(1, 10**6):") + (
    '    emulator.report(step=step, loss=1.0, tokens=step, checkpoint=step)\n    print("step", step, flush=True)\n'
)


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode(errors="replace")
        return text


def files_of(folder: Path) -> dict[str, str]:
    found = (file for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
    return {str(file): file.read_bytes().decode(errors="replace") for file in found}


async def test_the_secret_of_a_job_stands_nowhere() -> None:
    with tempfile.TemporaryDirectory(prefix="sn", dir="/tmp") as folder:
        async with trouble(Path(folder)) as lab:
            await lab.job("talks", TALKING, framework="MPI")

            async def reported() -> bool:
                return bool(((await lab.status("talks")).get("progress") or {}).get("step"))

            await lab.until("the job reports", reported)
            uid = (await lab.client.get(lab.path("talks")))["metadata"]["uid"]
            secret = await lab.client.get(f"{CORE}/secrets/talks-fabric-{uid[:8]}")
            value = base64.b64decode(secret["data"]["secret"])
            told: dict[str, str] = {}
            for path in (
                f"{CORE}/pods",
                f"{CORE}/events",
                f"{CORE}/configmaps",
                f"{CORE}/services",
                f"{OURS}/trainingjobs",
            ):
                told[path] = json.dumps(await lab.client.get(path))
            for pod in await lab.pods("talks"):
                address, name = pod["status"]["podIP"], pod["metadata"]["name"]
                for path in ("metrics", "progress", "trace"):
                    url = f"http://{address}:{PORT_EMULATOR_HTTP}/{path}"
                    told[f"{name}/{path}"] = await asyncio.to_thread(read, url)
            told |= await asyncio.to_thread(files_of, Path(folder))
            printed = [name for name, text in told.items() if "step 1\n" in text]
            assert printed, "the workers' own logs are among them"
            await lab.signal("talks-worker-1")
            await lab.until_state("talks", "Running", restarts=1)
            again = await lab.client.get(f"{CORE}/secrets/talks-fabric-{uid[:8]}")
            assert again["data"] != secret["data"], "every attempt has a secret of its own"
            # Once more all logs and other files of the cluster: of the operator, nodes, sidecars and workers.
            for name, text in (await asyncio.to_thread(files_of, Path(folder))).items():
                told[name] = told.get(name, "") + text
            assert [name for name in told if name.endswith("operator.log")]
            for each in (value, base64.b64decode(again["data"]["secret"])):
                forms = {each.decode(), base64.b64encode(each).decode(), each.hex()}
                forms.add(base64.b64encode(bytes.fromhex(each.decode())).decode())
                found = [name for name, text in told.items() if any(form in text for form in forms)]
                assert found == []
            await lab.settled("talks")
