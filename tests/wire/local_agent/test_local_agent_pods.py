"""Life of pods on real nodes of processes, against both API servers: what a kubelet would do, seen through the API."""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.wire.local_agent.cluster import Namespace

Object = dict[str, Any]


def shell(name: str, script: str, **fields: Any) -> Object:
    return {"name": name, "image": "python", "command": ["/bin/sh", "-c", script], **fields}


def python(name: str, script: str, **fields: Any) -> Object:
    return {"name": name, "image": "registry.example/any/python:3", "command": ["python", "-c", script], **fields}


def state(pod: Object, name: str) -> Object:
    return entry(pod, name)["state"]


def entry(pod: Object, name: str) -> Object:
    status = pod["status"]
    every = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    return next((found for found in every if found["name"] == name), {"state": {}, "lastState": {}, "restartCount": 0})


def condition(pod: Object, kind: str) -> str:
    return next((c["status"] for c in pod["status"].get("conditions") or [] if c["type"] == kind), "")


def alive(pid: int) -> bool:
    """Whether a process still does anything; one that its new parent has not asked after yet (Z) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_exit_codes_reasons_and_termination_messages(namespace: Namespace) -> None:
    await namespace.run(
        "p",
        shell("good", "printf bye > /dev/termination-log"),
        shell("bad", "echo last words; exit 3", terminationMessagePolicy="FallbackToLogsOnError"),
        shell("killed", "kill -9 $$$$"),
        {"name": "none", "image": "python", "command": ["/no/such/program"]},
        restartPolicy="Never",
    )
    pod = await namespace.until_phase("p", "Failed")
    ends = {name: state(pod, name)["terminated"] for name in ("good", "bad", "killed", "none")}
    assert {name: end["exitCode"] for name, end in ends.items()} == {"good": 0, "bad": 3, "killed": 137, "none": 128}
    assert [ends[name]["reason"] for name in ("good", "bad", "none")] == ["Completed", "Error", "StartError"]
    assert ends["good"]["message"] == "bye"
    assert ends["bad"]["message"] == "last words\n"
    assert "not found" in ends["none"]["message"]
    assert pod["status"]["podIP"].startswith("127.")


async def test_init_containers_sidecars_and_containers_come_and_go_in_order(namespace: Namespace) -> None:
    def write(word: str) -> str:
        return f"echo {word} >> /shared/order"

    mount = {"volumeMounts": [{"name": "s", "mountPath": "/shared"}]}
    always = {"restartPolicy": "Always", **mount}
    wait = "while :; do sleep 0.05; done"
    ready = {
        "exec": {"command": ["/bin/sh", "-c", "test -f /shared/ready"]},
        "periodSeconds": 1,
        "failureThreshold": 60,
    }
    first_side = f"trap '{write('-side1')}; exit 0' TERM; sleep 1; {write('+side1')}; touch /shared/ready; {wait}"
    second_side = f"trap '{write('-side2')}; exit 0' TERM; {write('+side2')}; {wait}"
    await namespace.run(
        "p",
        # Long enough for the teller to tell it, also on a busy machine: sidecars end as soon as this does.
        shell("main", f"sleep 0.3; {write('main')}; sleep 3", **mount),
        initContainers=[
            shell("one", write("one"), **mount),
            shell("side1", first_side, startupProbe=ready, **always),
            shell("two", write("two"), **mount),
            shell("side2", second_side, **always),
            # The volume is gone with the pod's end, so somebody must show what is in it.
            shell("teller", "exec tail -f -n +1 /shared/order", **always),
        ],
        volumes=[{"name": "s", "emptyDir": {"medium": "Memory"}}],
        restartPolicy="Never",
    )
    running = await namespace.until("p", lambda pod: condition(pod, "Initialized") == "True")
    assert "terminated" in state(running, "two")
    pod = await namespace.until_phase("p", "Succeeded")
    assert (await namespace.log("p", "teller")).split() == ["one", "+side1", "two", "+side2", "main"]
    ends = [state(pod, name)["terminated"] for name in ("side2", "side1")]
    assert [end["exitCode"] for end in ends] == [0, 0]
    assert pod["status"]["phase"] == "Succeeded"


async def test_sidecars_end_in_reverse_order(namespace: Namespace) -> None:
    script = "trap 'date +%s%N; sleep 0.2; exit 0' TERM; while :; do sleep 0.05; done"
    sides = [shell(name, script, restartPolicy="Always") for name in ("a", "b", "c")]
    await namespace.run("p", shell("main", "sleep 0.3"), initContainers=sides, restartPolicy="Never")
    await namespace.until_phase("p", "Succeeded")
    times = [int((await namespace.log("p", name)).split()[-1]) for name in ("c", "b", "a")]
    assert times == sorted(times)


async def test_a_failing_init_container_stops_the_pod(namespace: Namespace) -> None:
    await namespace.run("p", shell("m", "true"), initContainers=[shell("i", "exit 4")], restartPolicy="Never")
    pod = await namespace.until_phase("p", "Failed")
    assert state(pod, "i")["terminated"]["exitCode"] == 4
    assert "waiting" in state(pod, "m")


async def test_restarts_back_off_and_the_previous_log_is_kept(namespace: Namespace) -> None:
    await namespace.run("p", shell("c", "echo run; exit 5"), shell("d", "exit 0"), restartPolicy="OnFailure")
    pod = await namespace.until("p", lambda pod: state(pod, "c").get("waiting", {}).get("reason") == "CrashLoopBackOff")
    assert entry(pod, "c")["lastState"]["terminated"]["exitCode"] == 5
    pod = await namespace.until("p", lambda pod: entry(pod, "c")["restartCount"] >= 2)
    assert entry(pod, "d")["restartCount"] == 0
    assert pod["status"]["phase"] == "Running"
    assert await namespace.log("p", "c", previous="true") == "run\n"
    assert "BackOff" in await namespace.events("p")


async def test_a_sidecar_that_dies_is_started_again(namespace: Namespace) -> None:
    side = shell("s", "sleep 0.2; exit 1", restartPolicy="Always")
    await namespace.run("p", shell("m", "sleep 60"), initContainers=[side], restartPolicy="Never")
    pod = await namespace.until("p", lambda pod: entry(pod, "s")["restartCount"] >= 1)
    assert "running" in state(pod, "m")


async def test_environment_and_volumes(namespace: Namespace) -> None:
    await namespace.create("configmaps", {"metadata": {"name": "cm"}, "data": {"hosts": "w-1.job.x.svc", "K": "v"}})
    secret = {"metadata": {"name": "s"}, "data": {"pw": base64.b64encode(b"hush").decode()}}
    await namespace.create("secrets", secret)
    script = """
import json, os
keys = ["PEER", "SELF", "IP", "PW", "K", "LABEL", "CPU", "PATH_IN", "NODE"]
print(json.dumps({**{k: os.environ.get(k) for k in keys}, "hosts": open("/cfg/hosts").read(),
    "labels": open("/down/labels").read(), "cwd": os.getcwd(), "arg": "/data/x", "pw": open("/proj/a/pw").read()}))
"""
    await namespace.run(
        "w-0",
        python(
            "c",
            script,
            workingDir="/data",
            envFrom=[{"configMapRef": {"name": "cm"}}],
            env=[
                {"name": "PEER", "value": "w-1.job.x.svc.cluster.local:29400"},
                {"name": "SELF", "value": f"w-0.job.{namespace.name}.svc"},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pw"}}},
                {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['a']"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}},
                {"name": "PATH_IN", "value": "--dir=/data/$(K)"},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ],
            resources={"requests": {"cpu": "2"}},
            volumeMounts=[
                {"name": "e", "mountPath": "/data"},
                {"name": "c", "mountPath": "/cfg"},
                {"name": "d", "mountPath": "/down"},
                {"name": "p", "mountPath": "/proj"},
            ],
        ),
        hostname="w-0",
        subdomain="job",
        metadata={"labels": {"a": "b"}},
        restartPolicy="Never",
        volumes=[
            {"name": "e", "emptyDir": {}},
            {"name": "c", "configMap": {"name": "cm"}},
            {"name": "d", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            {
                "name": "p",
                "projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "pw", "path": "a/pw"}]}}]},
            },
        ],
    )
    pod = await namespace.until_phase("w-0", "Succeeded", "Failed")
    text = await namespace.log("w-0", "c")
    found = json.loads(text)
    address = pod["status"]["podIP"]
    assert found["SELF"] == found["IP"] == address
    assert found["PEER"].startswith("127.")
    assert found["PEER"] == f"{found['hosts']}:29400"
    assert (found["PW"], found["pw"], found["K"], found["LABEL"]) == ("hush", "hush", "v", "b")
    assert (found["CPU"], found["NODE"], found["labels"]) == ("2", "node-0", 'a="b"')
    assert found["PATH_IN"] == f"--dir={found['cwd']}/v"
    assert found["arg"] == f"{found['cwd']}/x"


async def test_a_file_about_the_pod_follows_its_annotations(namespace: Namespace) -> None:
    item = {"path": "asked", "fieldRef": {"fieldPath": "metadata.annotations['asked']"}}
    command = "test ! -s /etc/pod/asked && while [ ! -s /etc/pod/asked ]; do sleep 0.05; done; cat /etc/pod/asked"
    mount = {"name": "d", "mountPath": "/etc/pod"}
    volume = {"name": "d", "downwardAPI": {"items": [item]}}
    await namespace.run("p", shell("c", command, volumeMounts=[mount]), restartPolicy="Never", volumes=[volume])
    await namespace.until_phase("p", "Running")
    await namespace.client.patch(f"{namespace.path}/pods/p", {"metadata": {"annotations": {"asked": "now"}}})
    await namespace.until_phase("p", "Succeeded")
    assert await namespace.log("p", "c") == "now"


async def test_a_missing_secret_holds_the_container_back_until_it_is_there(namespace: Namespace) -> None:
    reference = {"name": "A", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}
    await namespace.run("p", shell("c", 'test "$A" = x', env=[reference]), restartPolicy="Never")
    pod = await namespace.until("p", lambda pod: state(pod, "c").get("waiting", {}).get("message"))
    assert state(pod, "c")["waiting"]["reason"] == "CreateContainerConfigError"
    assert '"late" not found' in state(pod, "c")["waiting"]["message"]
    await namespace.create("secrets", {"metadata": {"name": "late"}, "stringData": {"k": "x"}})
    await namespace.until_phase("p", "Succeeded")


async def test_an_unknown_image_says_how_to_add_it_and_the_pod_can_be_deleted(namespace: Namespace) -> None:
    await namespace.run("p", {"name": "c", "image": "quay.io/team/thing:1"})
    pod = await namespace.until("p", lambda pod: "ImagePull" in state(pod, "c").get("waiting", {}).get("reason", ""))
    assert "--image quay.io/team/thing=COMMAND" in state(pod, "c")["waiting"]["message"]
    await namespace.delete("p")
    await namespace.until_gone("p")


async def test_probes_make_ready_and_restart(namespace: Namespace) -> None:
    server = """
import http.server, os, pathlib
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if pathlib.Path("/data" + self.path).exists() else 503); self.end_headers()
    def log_message(self, *a): pass
http.server.HTTPServer((os.environ["IP"], 8080), H).serve_forever()
"""
    quick = {"periodSeconds": 1, "failureThreshold": 1}
    await namespace.run(
        "p",
        python(
            "c",
            server,
            env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
            ports=[{"name": "web", "containerPort": 8080}],
            startupProbe={"tcpSocket": {"port": "web"}, "periodSeconds": 1, "failureThreshold": 30},
            readinessProbe={"httpGet": {"path": "/ready", "port": "web"}, **quick},
            livenessProbe={"exec": {"command": ["sh", "-c", "! test -f /data/dead"]}, **quick},
            volumeMounts=[{"name": "d", "mountPath": "/data"}],
        ),
        shell("writer", "sleep 2; touch /data/ready; sleep 2.5; touch /data/dead; sleep 2; rm /data/dead; sleep 99")
        | {"volumeMounts": [{"name": "d", "mountPath": "/data"}]},
        volumes=[{"name": "d", "emptyDir": {}}],
    )
    pod = await namespace.until("p", lambda pod: entry(pod, "c").get("started"))
    assert condition(pod, "Ready") == "False"
    assert entry(pod, "c")["restartCount"] == 0
    await namespace.until("p", lambda pod: condition(pod, "Ready") == "True")
    pod = await namespace.until("p", lambda pod: entry(pod, "c")["restartCount"] == 1)
    assert entry(pod, "c")["lastState"]["terminated"]["exitCode"] == 143
    assert {"Unhealthy", "Killing"} <= set(await namespace.events("p"))
    await namespace.delete("p", gracePeriodSeconds=0)


async def test_deletion_gives_grace_then_kills_the_whole_group(namespace: Namespace) -> None:
    child = "trap '' TERM; echo child $(exec sh -c 'echo $PPID'); sleep 99"
    stubborn = f"trap 'echo asked' TERM; ({child}) & while :; do sleep 0.1; done"
    await namespace.run("p", shell("c", stubborn), terminationGracePeriodSeconds=1)
    await namespace.until("p", lambda pod: condition(pod, "Ready") == "True")
    child = int((await namespace.until_log("p", "c", "child")).split()[1])
    assert alive(child)
    await namespace.delete("p")
    assert (await namespace.pod("p"))["metadata"]["deletionTimestamp"]
    await namespace.until_gone("p")
    assert not alive(child)


async def test_a_pod_that_handles_sigterm_ends_with_its_own_code(namespace: Namespace) -> None:
    await namespace.run("p", shell("c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"), restartPolicy="Never")
    await namespace.until("p", lambda pod: condition(pod, "Ready") == "True")
    meta = {"metadata": {"finalizers": ["example.org/hold"]}}
    await namespace.client.patch(f"{namespace.path}/pods/p", meta)
    await namespace.delete("p")
    pod = await namespace.until("p", lambda pod: "terminated" in state(pod, "c"))
    assert state(pod, "c")["terminated"]["exitCode"] == 7
    await namespace.client.patch(f"{namespace.path}/pods/p", {"metadata": {"finalizers": None}})
    await namespace.until_gone("p")


async def test_active_deadline(namespace: Namespace) -> None:
    await namespace.run("p", shell("c", "sleep 99"), restartPolicy="Never", activeDeadlineSeconds=1)
    pod = await namespace.until_phase("p", "Failed")
    assert pod["status"]["reason"] == "DeadlineExceeded"
    assert state(pod, "c")["terminated"]["exitCode"] == 143


async def test_pre_stop_runs_before_sigterm(namespace: Namespace) -> None:
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo hook > /d/f"]}}}
    script = "trap 'cat /d/f; exit 0' TERM; while :; do sleep 0.05; done"
    mount = {"volumeMounts": [{"name": "d", "mountPath": "/d"}]}
    await namespace.run(
        "p",
        shell("c", script, lifecycle=hook, **mount),
        volumes=[{"name": "d", "emptyDir": {}}],
        metadata={"finalizers": ["example.org/hold"]},
    )
    await namespace.until("p", lambda pod: condition(pod, "Ready") == "True")
    await namespace.delete("p")
    await namespace.until("p", lambda pod: "terminated" in state(pod, "c"))
    assert await namespace.log("p", "c") == "hook\n"
    await namespace.client.patch(f"{namespace.path}/pods/p", {"metadata": {"finalizers": None}})


async def test_a_killed_process_is_reported(namespace: Namespace) -> None:
    await namespace.run("p", shell("c", "echo $$$$; exec sleep 99"), restartPolicy="Never")
    os.kill(int(await namespace.until_log("p", "c", "\n")), signal.SIGKILL)
    pod = await namespace.until_phase("p", "Failed")
    assert state(pod, "c")["terminated"]["exitCode"] == 137
