"""For all tests of ONNX models: devices of this process, and no home directory to write into."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supernode import names


@pytest.fixture(scope="session", autouse=True)
def quiet_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The standard's tests keep files of models in $ONNX_HOME; a sidecar of the surroundings is not meant."""
    home = tmp_path_factory.mktemp("onnx")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ONNX_HOME", str(home))
        for name in (names.ENV_SOCKET, names.ENV_CHIP):
            patch.delenv(name, raising=False)
        yield home
