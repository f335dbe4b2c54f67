"""Both engines, each started once per session and only when a test asks for it."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conformance.engines import ASSETS, STARTERS, Engine
from tests.conformance.wire import Wire

Kubectl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(
    scope="session",
    params=[
        "embedded",
        pytest.param(
            "real",
            marks=[
                pytest.mark.envtest,
                pytest.mark.skipif(not ASSETS, reason="needs a real API server: KUBEBUILDER_ASSETS is not set"),
            ],
        ),
    ],
)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with STARTERS[request.param](tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture
def wire(engine: Engine) -> Wire:
    return Wire(engine.url, engine.token)


@pytest.fixture
def namespace(wire: Wire) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"t-{secrets.token_hex(4)}"
    assert wire.post("/api/v1/namespaces", {"metadata": {"name": name}}).status == 201
    yield name
    wire.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubectl(engine: Engine, namespace: str, tmp_path: Path) -> Kubectl:
    """The real kubectl in the test's namespace; raises with its output when it fails, unless `check=False`."""
    if not ASSETS:
        pytest.skip("needs kubectl: KUBEBUILDER_ASSETS is not set")

    def run(*arguments: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [f"{ASSETS}/kubectl", f"--kubeconfig={engine.kubeconfig}", f"--namespace={namespace}", *arguments]
        environment = {**os.environ, "HOME": str(tmp_path), "KUBECACHEDIR": str(tmp_path / "cache")}
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, env=environment)
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    return run
