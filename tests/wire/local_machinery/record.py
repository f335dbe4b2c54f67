"""Sends scenarios to a real API server; run as a program, it writes the recorded answers anew.

KUBEBUILDER_ASSETS=... python -m tests.wire.local_machinery.record
"""

from __future__ import annotations

import json
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.builders.machinery import KINDS, RECORDED, Json, Scenario, Step, normal, path_of, widget_crd
from tests.builders.machinery_crds import CRD_ANSWERS, WRONG, a_wrong_crd
from tests.builders.machinery_scenarios import SCENARIOS
from tests.wire.controlplane import control_plane


class RealServer:
    """A client of a real API server, by its administrator's kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        config = json.loads(kubeconfig.read_text())
        self.url: str = config["clusters"][0]["cluster"]["server"]
        self.kubeconfig = kubeconfig
        self._token = config["users"][0]["user"]["token"]
        self._context = ssl.create_default_context()
        self._last = ""
        self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content: str = "application/json",
        accept: str = "application/json",
    ) -> tuple[int, Any]:
        data = None if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content, "Accept": accept}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, context=self._context, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                text = exc.read()
            # A path that is not served (yet) is answered in plain text.
            return exc.code, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}

    def prepare(self) -> None:
        """The CRD, and wait until it is served."""
        code, answer = self.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", widget_crd())
        if code not in (201, 409):
            raise RuntimeError(answer)
        path = KINDS["Widget"].path("default")
        deadline = time.monotonic() + 60
        while self.call("GET", path)[0] != 200:
            if time.monotonic() > deadline:
                raise RuntimeError("the CRD is not served")
            time.sleep(0.1)
        time.sleep(1)

    def play(self, scenario: Scenario, namespace: str) -> list[Json]:
        """The answers to a scenario in a fresh namespace."""
        self.call(
            "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        )
        return [self.put(step, scenario.kind, namespace) for step in scenario.steps]

    def refusals(self, name: str) -> list[list[str]]:
        """Field and reason of each cause for which a wrong CRD is refused."""
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All&fieldValidation=Strict"
        crd = a_wrong_crd(name)
        crd["metadata"]["name"] = crd["metadata"]["name"].replace("widgets", "gadgets")
        crd["spec"]["names"].update(plural="gadgets", singular="gadget", shortNames=["gd"], listKind="GadgetList")
        _, answer = self.call("POST", path, crd)
        causes = (answer.get("details") or {}).get("causes") or ()
        return sorted([cause["field"], cause["reason"]] for cause in causes)

    def put(self, step: Step, kind: str, namespace: str) -> Json:
        """The answer to one step."""
        body = step.body
        if step.method == "PUT":
            body = {**body, "metadata": {**body["metadata"], "resourceVersion": self._last}}
        code, answer = self.call(step.method, path_of(step, KINDS[kind], namespace, "it"), body, step.content)
        if code < 400:
            self._last = answer["metadata"]["resourceVersion"]
            answer["metadata"]["namespace"] = "default"
        return normal(code, answer)


def main() -> None:
    """Record every scenario."""
    with tempfile.TemporaryDirectory() as directory, control_plane(Path(directory)) as plane:
        server = RealServer(plane.admin)
        server.prepare()
        rows = {}
        for number, scenario in enumerate(SCENARIOS):
            rows[scenario.name] = server.play(scenario, f"machinery-{number}")
        refusals = {name: server.refusals(name) for name in WRONG}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row, sort_keys=True)}" for name, row in rows.items())
    RECORDED.write_text("{\n" + lines + "\n}\n")
    CRD_ANSWERS.write_text(json.dumps(refusals, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
