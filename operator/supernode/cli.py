"""The `supernode` command: a table of subcommands, each one module of `commands`, imported only when asked for.

The table keeps the emulator's image small: `supernode emulator` must not need kopf, kubernetes or pydantic.
Flows in: the arguments. Flows out: an exit status (0 done, 1 it did not work, 2 wrong usage).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from supernode import __version__
from supernode.commands.examples import epilog
from supernode.commands.terminal import clean
from supernode.errors import SupernodeError

# subcommand -> (module that offers `configure(parser)` and `run(args) -> int`, one line of help)
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "local": ("supernode.commands.local", "a Kubernetes cluster of ordinary processes, without Docker"),
    "operator": ("supernode.commands.operator", "the operator, inside or outside a cluster"),
    "emulator": ("supernode.commands.emulator", "the device emulator that runs beside a worker"),
    "demo": ("supernode.commands.demo", "train a small GPT on emulated DCUs, from start to verdict"),
    "crds": ("supernode.commands.crds", "print the custom resource definitions"),
    "chips": ("supernode.commands.chips", "print the chip catalogue, each figure with its source"),
    "status": ("supernode.commands.status", "the cluster at a glance: pools, groups, jobs by state, who leads"),
    "top": ("supernode.commands.top", "pools and jobs as a live table"),
    "why": ("supernode.commands.why", "why a job waits, or where it runs and why there"),
    "defrag": ("supernode.commands.defrag", "which jobs could move so that a waiting one can start; --yes moves them"),
    "tree": ("supernode.commands.tree", "a picture of the wiring, with the jobs in it"),
    "ranks": ("supernode.commands.ranks", "each worker's node, domains, devices and pod"),
    "predict": ("supernode.commands.predict", "predict step time, memory and MFU of training jobs, without a cluster"),
    "logs": ("supernode.commands.logs", "the logs of all ranks of a job, each line with its rank"),
    "trace": ("supernode.commands.job_trace", "what all devices of a job did when, as a file for Perfetto"),
    "completion": ("supernode.commands.completion", "print what makes a shell complete commands and options"),
    "place": ("supernode.commands.place", "say where a job would run, without a cluster"),
}


def build_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the subcommands in `names` are imported and filled in."""
    program = "kubectl supernode" if Path(sys.argv[0]).name == "kubectl-supernode" else "supernode"
    parser = argparse.ArgumentParser(prog=program, description=__doc__.splitlines()[0] if __doc__ else None)
    parser.description = "Places and runs training jobs on clusters of mixed AI accelerators."
    parser.add_argument("--version", action="version", version=f"supernode {__version__}")
    # For `completion`, which must know all of them.
    parser.set_defaults(whole_parser=lambda: build_parser(tuple(COMMANDS)))
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name in names:
            importlib.import_module(module).configure(sub)
            _show_examples(sub, program, name)
    return parser


def _show_examples(parser: argparse.ArgumentParser, program: str, command: str) -> None:
    """Let the help of a command and of its own subcommands end with examples."""
    parser.epilog = epilog(program, command)
    if parser.epilog:
        parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                _show_examples(sub, program, f"{command} {name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; errors of ours become one line on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), "")
    args = build_parser([wanted]).parse_args(arguments)
    module = importlib.import_module(COMMANDS[args.command][0])
    try:
        status: int = module.run(args)
    except SupernodeError as exc:
        # A server's words may stand in it: nothing raw goes to the terminal.
        print(f"supernode {args.command}: {clean(str(exc))}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing to say, and nothing to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status
