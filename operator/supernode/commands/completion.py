"""`supernode completion SHELL`: a script that completes commands, options and their values in bash, zsh or fish.

It is made from the commands' own parsers, so it can't be out of date. Flows in: an `ArgumentParser` with everything in
it. Flows out: the script. Nothing is asked of a cluster while someone types.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from supernode.commands.terminal import emit

SHELLS = ("bash", "zsh", "fish")
PROGRAMS = ("supernode", "kubectl-supernode")
# Options whose value is a file, by their metavar.
_FILES = ("PATH", "FILE")


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its spellings, what it is for, and what may follow.

    `takes`: whether a value follows. `values`: the only ones there are. `files`: the value is a path.
    """

    names: tuple[str, ...]
    help: str
    takes: bool
    values: tuple[str, ...]
    files: bool


@dataclass(frozen=True, slots=True)
class Command:
    """What may follow the words of `path`: subcommands (name and help), options, fixed values, or files."""

    path: tuple[str, ...]
    subcommands: tuple[tuple[str, str], ...]
    options: tuple[Option, ...]
    values: tuple[str, ...]
    files: bool


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")


def run(args: argparse.Namespace) -> int:
    """Print the script; `args.whole_parser` gives the parser of all commands."""
    emit(script(args.shell, args.whole_parser()))
    return 0


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for one shell."""
    commands = tuple(walk(parser))
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](commands)


def walk(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """The parser and all below it."""
    options: list[Option] = []
    values: tuple[str, ...] = ()
    files = False
    nested: dict[str, argparse.ArgumentParser] = {}
    texts: dict[str, str] = {}
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        choices = tuple(str(choice) for choice in action.choices or ())
        if isinstance(action, argparse._SubParsersAction):
            nested = dict(action.choices)
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
        elif action.option_strings:
            text = (action.help or "") % {**vars(action), "prog": parser.prog}
            options.append(Option(tuple(action.option_strings), text, action.nargs != 0, choices, _is_file(action)))
        else:
            values += choices
            files = files or _is_file(action)
    yield Command(path, tuple((name, texts.get(name, "")) for name in nested), tuple(options), values, files)
    for name, below in nested.items():
        yield from walk(below, (*path, name))


def _is_file(action: argparse.Action) -> bool:
    return action.type is Path or action.metavar in _FILES or "file" in action.dest.lower()


# --- bash and zsh share the way in which the command before the cursor is found: as a path such as `local/up` ---------


def _bash(commands: tuple[Command, ...]) -> str:
    lines = [
        "# bash completion of supernode; load it with: source <(supernode completion bash)",
        "_supernode() {",
        '    local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" path="" word index',
        "    COMPREPLY=()",
        "    for ((index = 1; index < COMP_CWORD; index++)); do",
        '        word="${COMP_WORDS[index]}"',
        '        case "$path/$word" in',
        f'            {_paths(commands)}) path="$path/$word" ;;',
        "        esac",
        "    done",
        '    case "$path $previous" in',
    ]
    for command in commands:
        for option in command.options:
            if option.takes:
                pattern = "|".join(shlex.quote(f"{_key(command)} {name}") for name in option.names)
                lines.append(f"        {pattern}) {_bash_values(option.values, files=option.files)}; return ;;")
    lines += ["    esac", '    case "$path" in']
    for command in commands:
        words = [*(name for name, _ in command.subcommands), *command.values]
        flags = [name for option in command.options for name in option.names]
        lines += [
            f"        {shlex.quote(_key(command))})",
            '            if [[ "$current" == -* ]]; then',
            f"                {_bash_values(tuple(flags), files=False)}",
            "            else",
            f"                {_bash_values(tuple(words), files=command.files)}",
            "            fi ;;",
        ]
    lines += ["    esac", "}", f"complete -F _supernode {' '.join(PROGRAMS)}"]
    return "\n".join(lines)


def _bash_values(words: tuple[str, ...], *, files: bool) -> str:
    if words:
        return f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(words))} -- "$current"))'
    return 'COMPREPLY=($(compgen -f -- "$current"))' if files else ":"


def _zsh(commands: tuple[Command, ...]) -> str:
    lines = [
        f"#compdef {' '.join(PROGRAMS)}",
        "# zsh completion of supernode; load it with: source <(supernode completion zsh)",
        "_supernode() {",
        '    local command="" word previous="${words[CURRENT-1]}"',
        "    local -a found",
        "    integer index",
        "    for ((index = 2; index < CURRENT; index++)); do",
        '        word="${words[index]}"',
        '        case "$command/$word" in',
        f'            {_paths(commands)}) command="$command/$word" ;;',
        "        esac",
        "    done",
        '    case "$command $previous" in',
    ]
    for command in commands:
        for option in command.options:
            if option.takes:
                pattern = "|".join(shlex.quote(f"{_key(command)} {name}") for name in option.names)
                action = ":"
                if option.values:
                    action = f"compadd -- {' '.join(map(shlex.quote, option.values))}"
                elif option.files:
                    action = "_files"
                lines.append(f"        {pattern}) {action}; return ;;")
    lines += ["    esac", '    case "$command" in']
    for command in commands:
        flags = [(name, option.help) for option in command.options for name in option.names]
        words = [*command.subcommands, *((value, "") for value in command.values)]
        lines += [
            f"        {shlex.quote(_key(command))})",
            '            if [[ "$PREFIX" == -* ]]; then',
            f"                found=({_described(flags)})",
            "                _describe -o option found",
            "            else",
            *(
                [f"                found=({_described(words)})", "                _describe command found"]
                if words
                else []
            ),
            *(["                _files"] if command.files else []),
            *([] if words or command.files else ["                :"]),
            "            fi ;;",
        ]
    lines += ["    esac", "}", f"compdef _supernode {' '.join(PROGRAMS)}"]
    return "\n".join(lines)


def _described(words: list[tuple[str, str]]) -> str:
    """zsh's `word:description` pairs; a colon inside the word is escaped."""
    return " ".join(shlex.quote(word.replace(":", "\\:") + (f":{_line(text)}" if text else "")) for word, text in words)


def _fish(commands: tuple[Command, ...]) -> str:
    lines = [
        "# fish completion of supernode; load it with: supernode completion fish | source",
        "function __supernode_at",
        '    set -l path ""',
        "    for word in (commandline -opc)[2..-1]",
        '        switch "$path/$word"',
        f"            case {' '.join(shlex.quote(_key(command)) for command in commands if command.path)}",
        '                set path "$path/$word"',
        "        end",
        "    end",
        '    test "$path" = "$argv[1]"',
        "end",
    ]
    for program in PROGRAMS:
        lines.append(f"complete -c {program} -f")
        for command in commands:
            start = f"complete -c {program} -n {shlex.quote(f'__supernode_at {shlex.quote(_key(command))}')}"
            for word, text in (*command.subcommands, *((value, "") for value in command.values)):
                lines.append(f"{start} -a {_fish_word(word)}" + (f" -d {_fish_word(_line(text))}" if text else ""))
            if command.files:
                lines.append(f"{start} -F")
            for option in command.options:
                parts = [f"-{'l' if name.startswith('--') else 's'} {name.lstrip('-')}" for name in option.names]
                if option.takes:
                    # -x: a value follows that is no file.
                    parts.append("-r -F" if option.files else "-x")
                if option.values:
                    parts.append(f"-a {_fish_word(' '.join(option.values))}")
                lines.append(f"{start} {' '.join(parts)} -d {_fish_word(_line(option.help))}")
    return "\n".join(lines)


def _fish_word(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _line(text: str) -> str:
    return " ".join(text.split())


def _key(command: Command) -> str:
    return "".join(f"/{word}" for word in command.path)


def _paths(commands: tuple[Command, ...]) -> str:
    return "|".join(_key(command) for command in commands if command.path)
