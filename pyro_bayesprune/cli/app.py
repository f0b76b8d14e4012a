"""The command line: what was given goes to a command's module; errors become one line."""

import os
import re
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from pyro_bayesprune.cli.common import Stopped, UserError
from pyro_bayesprune.experiments.errors import RunError

COMMANDS = {  # each is a module of this package, with `add_arguments` and `main`
    "run": "train and prune one network; goes on where it was interrupted",
    "show": "print finished runs again",
    "grid": "many runs, on one machine or many; run it again to go on",
    "paper": "the paper's Table 1 and figures, from your runs",
    "report": "one HTML page: can it be trusted?",
    "export": "write the pruned network to a file of its own",
    "bench": "measure: training beside plain PyTorch, deployment",
    "data": "list the data sets, or fetch one",
}


def _module(command: str) -> Any:  # noqa: ANN401
    return import_module(f"pyro_bayesprune.cli.{command}")


def overview() -> str:
    """Return the help of ``bayesprune`` itself."""
    lines = [f"  {name:8s} {description}" for name, description in COMMANDS.items()]
    return "\n".join(
        ["usage: bayesprune [--debug] COMMAND ...", "", "commands:", *lines, ""]
        + ["bayesprune COMMAND --help tells more; --debug shows the traceback of an error."]
    )


def parse(command: str, arguments: Sequence[str]) -> Namespace:
    """Return what was given to a command (defaults left out).

    Raises:
        UserError: for arguments that do not fit.
    """
    parser = ArgumentParser(
        prog=f"bayesprune {command}", description=COMMANDS[command], exit_on_error=False
    )
    _module(command).add_arguments(parser)
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
            code = _module(arguments[0]).main(parse(arguments[0], arguments[1:]))
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
