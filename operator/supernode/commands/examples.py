"""Examples that `--help` ends with: command -> (arguments, what for). Tests run each through the parser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: Keys are subcommands, `NAME` or `NAME ACTION`; the program's name is put in front when shown.
EXAMPLES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "local": (("local up --detach", "start a cluster and leave it running"), ("local down", "end it")),
    "local up": (
        ("local up --detach", "a cluster with the operator, ready when this returns"),
        ("local up --engine envtest", "with a real API server from $KUBEBUILDER_ASSETS"),
        ("local up --cluster nodes.yaml --no-operator", "your own nodes, and nothing else"),
    ),
    "local down": (("local down --name mine", "end the cluster of that name"),),
    "local status": (("local status -o json", "all clusters of this machine, for programs"),),
    "operator": (("operator --log-format text --namespace team-a", "outside a cluster, for one namespace"),),
    "emulator": (("emulator exec --chip hygon-bw1000 --devices 2 -- python train.py", "a program beside an emulator"),),
    "demo": (("demo", "train, and read the verdict"),),
    "crds": (("crds", "all definitions, for kubectl apply --server-side -f -"),),
    "chips": (
        ("chips", "the catalogue"),
        ("chips hygon-bw1000", "one chip, every figure with its source"),
        ("chips hygon-bw1000 -o yaml", "as the fields of a pool's chipSpec"),
    ),
    "status": (("status", "of all namespaces"), ("status -n team-a -o json", "of one, for programs")),
    "top": (
        ("top -A", "pools and all jobs, live"),
        ("top --once", "one look"),
        ("top -o json", "one look, for programs"),
    ),
    "why": (("why gpt", "a job of this namespace"), ("why team-a/gpt -o yaml", "of another, for programs")),
    "defrag": (
        ("defrag --for wide", "show who could move, and its price"),
        ("defrag --for wide --moves 2 --yes", "have the operator move at most two"),
    ),
    "tree": (("tree", "all groups"), ("tree scalex --level supernode", "one, down to a level")),
    "ranks": (("ranks gpt", "where each worker is"), ("ranks gpt -o json", "for programs")),
    "predict": (
        ("predict --csv jobs.csv", "step time, parts, memory and MFU of each row"),
        ("predict --csv jobs.csv --search -o json", "the best cut of each model"),
    ),
    "logs": (
        ("logs -f gpt --tail 10", "follow all ranks"),
        ("logs gpt --rank 0,4-7", "only some"),
        ("logs gpt -c supernode-emulator", "the sidecars'"),
    ),
    "trace": (("trace gpt", "the timelines of all ranks, for Perfetto"),),
    "completion": (("completion bash", "for `source <(...)` in ~/.bashrc"),),
    "place": (
        ("place --cluster cluster.yaml --job job.yaml", "where, how fast, and what else there is"),
        ("place --cluster cluster.yaml --job job.yaml -o json --svg picture.svg", "for programs, and drawn"),
    ),
}


def epilog(program: str, command: str) -> str | None:
    """The end of a command's help; None where there is no example."""
    rows = [(f"{program} {line}", text) for line, text in EXAMPLES.get(command, ())]
    width = max((len(line) for line, _ in rows), default=0)
    if width > 56:  # what it is for goes on a line of its own
        return "examples:\n" + "\n".join(f"  # {text}\n  {line}" for line, text in rows)
    return "examples:\n" + "\n".join(f"  {line.ljust(width)}  # {text}" for line, text in rows) if rows else None
