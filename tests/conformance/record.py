"""Records what the real kube-apiserver answers to every scenario: `python -m tests.conformance.record [NAME...]`.

Needs `KUBEBUILDER_ASSETS` with kube-controller-manager. The recordings are checked in, so that the embedded server is
held to them on machines without a real one; the suite compares the real one with them too, where it is there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tests.conformance.all_scenarios import SCENARIOS
from tests.conformance.engines import real
from tests.conformance.scenario import play
from tests.conformance.wire import Wire

RECORDED = Path(__file__).parent / "recorded"


def main(wanted: list[str]) -> None:
    """Write one file per scenario."""
    RECORDED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, real(Path(folder)) as engine:
        wire = Wire(engine.url, engine.token)
        for scenario in SCENARIOS:
            if not wanted or scenario.name in wanted:
                answers = play(wire, scenario)
                lines = ",\n".join(json.dumps(each, sort_keys=True) for each in answers)
                (RECORDED / f"{scenario.name}.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
