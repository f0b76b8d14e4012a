"""The command line: what was given goes to a command of `commands`; errors become one line."""

import os
import re
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.commands import COMMANDS, Stopped, UserError
from pyro_bayesprune.config import RunError


def overview() -> str:
    """Return the help of ``bayesprune`` itself."""
    lines = [f"  {name:8s} {command[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        ["usage: bayesprune [--debug] COMMAND ...", "", "commands:", *lines, ""]
        + ["bayesprune COMMAND --help tells more; --debug shows the traceback of an error."]
    )


def parse(command: str, arguments: Sequence[str]) -> Namespace:
    """Return what was given to a command (defaults left out).

    Raises:
        UserError: for arguments that do not fit.
    """
    description, add_arguments, _ = COMMANDS[command]
    parser = ArgumentParser(
        prog=f"bayesprune {command}", description=description, exit_on_error=False
    )
    add_arguments(parser)
    try:
        return parser.parse_args(_spelled(arguments), defaults=False)
    except ArgumentError as error:
        raise UserError(str(error)) from None


def _spelled(arguments: Sequence[str]) -> list[str]:
    """Return arguments as jsonargparse wants them: ``--hidden 64,32`` as ``--hidden=[64,32]``."""
    given: list[str] = []
    for argument in map(_underscored, arguments):
        if given[-1:] in (["--hidden"], ["--channels"]):
            argument = f"{given.pop()}={argument}"
        given.append(re.sub(r"^(--hidden=|--channels=)(-?\d+(,-?\d+)*)$", r"\1[\2]", argument))
    return given


def _underscored(argument: str) -> str:
    """``--data-dir`` and ``--data_dir`` are the same option."""
    name, equals, value = argument.partition("=")
    return (
        name.replace("-", "_").replace("__", "--", 1) + equals + value
        if (argument.startswith("--"))
        else argument
    )


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without the spelling of Python's types."""
    text = " ".join(str(error).split()) or type(error).__name__
    union = re.match(r"(.*?: )Does not validate .* Given value: (.*)", text)
    if union:
        kinds = re.findall(
            r"- Expected an? (?:<class '|typing\.Literal\['?)(.*?)['\]]+(?:>| )", text
        )
        text = f"{union[1]}expected {' or '.join(kinds)}; Got value: {union[2]}"
    text = re.sub(r"Expected a typing\.Literal\[(.*?)\]\.", r"expected one of \1;", text)
    return re.sub(r"Expected an? <class '(\w+)'>\.", r"expected \1;", text)


def _stop(signum: int, frame: object) -> NoReturn:
    raise Stopped


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning as one line; where it was raised in our code tells a user nothing."""
    print(f"bayesprune: warning: {' '.join(str(message).split())}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for what failed, 2 for a user's mistake."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0 if arguments else 2
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        if arguments[0] not in COMMANDS:
            raise UserError(f"unknown command {arguments[0]!r}: expected {', '.join(COMMANDS)}")
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            code = COMMANDS[arguments[0]][2](parse(arguments[0], arguments[1:]))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads what we print (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its end
        return 141  # as a shell has it
    except Exception as error:
        if debug:
            raise
        print(f"bayesprune: error: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, (UserError, ValueError, RunError)) else 1
    except (KeyboardInterrupt, Stopped) as stop:
        print("bayesprune: stopped", file=sys.stderr)
        return 130 if isinstance(stop, KeyboardInterrupt) else 143
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
