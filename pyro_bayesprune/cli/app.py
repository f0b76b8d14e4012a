"""The entry point of the command line: it parses arguments, runs a command and reports errors."""

import os
import re
import signal
import sys
import warnings
from argparse import ArgumentError, Namespace
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from pyro_bayesprune._utils.calls import did_you_mean
from pyro_bayesprune.cli.common import Stopped
from pyro_bayesprune.cli.help import Formatter
from pyro_bayesprune.experiments.errors import RunError

COMMANDS = {  # each command is a module of this package with `add_arguments` and `main`
    "run": "train and prune one network; an interrupted run is resumed",
    "prune": "prune the network of a finished run without training it",
    "show": "print finished runs",
    "grid": "run many configurations on one or more machines; finished runs are skipped",
    "paper": "make the paper's Table 1 and figures from your runs",
    "report": "write an HTML report on whether pruned networks can be trusted",
    "export": "write the pruned network to a file",
    "bench": "measure the speed of training or of a deployed network",
    "data": "list the data sets, or download one of them",
}
OVERVIEW = """usage: bayesprune [--version] [--debug] COMMAND ...

commands:
{}

bayesprune COMMAND --help describes a command. --debug prints the traceback of an error."""


def _module(command: str) -> Any:  # noqa: ANN401
    return import_module(f"pyro_bayesprune.cli.{command}")


def parse(command: str, arguments: Sequence[str]) -> Namespace:
    """Return the parsed arguments of a command.

    The result for ``run`` contains only the options that the user has set, because a preset
    replaces the defaults of the others.

    Raises:
        ValueError: for invalid arguments.
    """
    parser = ArgumentParser(
        prog=f"bayesprune {command}",
        description=COMMANDS[command],
        formatter_class=Formatter,
        exit_on_error=False,
    )
    _module(command).add_arguments(parser)
    try:
        parsed = parser.parse_args(_normalized(arguments), defaults=command != "run")
        # The parser's own class has methods such as ``values``, which hide options.
        return Namespace(**parsed.as_dict())
    except ArgumentError as error:
        unknown = re.search(r"unrecognized arguments: (--\w+)", str(error))
        options = [name for action in parser._actions for name in action.option_strings]
        hint = did_you_mean(unknown[1], options) if unknown else ""
        raise ValueError(f"{error}{hint}") from None


def _normalized(arguments: Sequence[str]) -> list[str]:
    """Write option names with underscores and layer widths as a list, as jsonargparse expects."""
    result: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            argument = f"--{name.replace('-', '_')}{equals}{value}"
        if result and result[-1] in ("--hidden", "--channels"):
            argument = f"{result.pop()}={argument}"
        result.append(re.sub(r"^(--(?:hidden|channels)=)(-?\d+(?:,-?\d+)*)$", r"\1[\2]", argument))
    return result


def one_line(error: BaseException) -> str:
    """Return the message of an error on one line, without the notation of Python's types."""
    text = " ".join(str(error).split()) or type(error).__name__
    types = r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*?)\])"
    return re.sub(types, r"expected \1\2", text)


def _stop(signum: int, frame: object) -> NoReturn:
    raise Stopped


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning on one line, without its location in the source code."""
    print(f"bayesprune: warning: {' '.join(str(message).split())}", file=sys.stderr)


def _run(command: str, *arguments: str) -> int:
    if command not in COMMANDS:
        hint = did_you_mean(str(command), COMMANDS)
        raise ValueError(f"unknown command {command!r}: expected {', '.join(COMMANDS)}{hint}")
    with warnings.catch_warnings():
        warnings.showwarning = _print_warning
        code = _module(command).main(parse(command, arguments))
    sys.stdout.flush()
    return code or 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the name of the program. The default is those of the process.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for a mistake in the user's input.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the process was started with a closed stream
            setattr(sys, name, open(os.devnull, "w"))
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:8s} {description}" for name, description in COMMANDS.items()]
        print(OVERVIEW.format("\n".join(lines)))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"pyro_bayesprune {version('pyro-bayesprune')}")
        return 0
    previous_handler = signal.signal(signal.SIGTERM, _stop)
    try:
        return _run(*arguments)
    except BrokenPipeError:  # the reader of the output (head, less) has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        return 141  # the exit code of a shell in this case
    except Exception as error:
        if debug:
            raise
        print(f"bayesprune: error: {one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, RunError)) else 1
    except KeyboardInterrupt as stop:
        print(f"bayesprune: {str(stop) or 'stopped'}", file=sys.stderr)
        return 143 if isinstance(stop, Stopped) else 130
    finally:
        signal.signal(signal.SIGTERM, previous_handler)
