"""The subcommands of `supernode`: one module each with `configure(parser)` and `run(args) -> int`; see `cli.COMMANDS`.

They pick the concrete classes and talk to the person. Beside them lie what several share: `terminal` (text that fits
and is clean), `figures` (numbers in few characters), `reading` (options, connection, lists), `picture` (who has what).
"""
