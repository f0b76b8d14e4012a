"""The progress of a training and of a grid on standard error."""

import builtins
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from tqdm.auto import tqdm

MINUTE = 60.0  # seconds
T = TypeVar("T")


@contextmanager
def epoch_progress(
    title: str, total: int, done: int = 0, *, enabled: bool = True
) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Yield a function that displays the values of one more epoch.

    It updates a progress bar in a terminal or a notebook. Elsewhere, for example in a file, it
    prints a line after the last epoch, and in between at most one in a minute.

    Args:
        title: name of the training.
        total: number of epochs.
        done: number of epochs that are already finished.
        enabled: whether to display anything.
    """
    if not enabled:
        yield lambda values: None
    elif is_displayed():
        with tqdm(desc=title, total=total, initial=done, unit="epoch") as bar:

            def advance(values: Mapping[str, str]) -> None:
                bar.set_postfix(values, refresh=False)
                bar.update()

            yield advance
    else:
        yield partial(_write_line, title, total, itertools.count(done + 1), [time.monotonic()])


def _write_line(
    title: str, total: int, epochs: Iterator[int], last: list[float], values: Mapping[str, str]
) -> None:
    """Print a line if it is the last epoch, or a minute after the line before."""
    epoch = next(epochs)
    if epoch == total or time.monotonic() - last[0] >= MINUTE:
        text = "  ".join(f"{name} {value}" for name, value in values.items())
        print(f"{title}  epoch {epoch}/{total}  {text}", file=sys.stderr, flush=True)
        last[0] = time.monotonic()


def is_displayed() -> bool:
    """Return whether there is a terminal or a notebook for a progress bar."""
    return sys.stderr.isatty() or hasattr(builtins, "__IPYTHON__")  # IPython sets this name


def counted(items: Iterable[T], title: str, unit: str, *, enabled: bool = True) -> Iterator[T]:
    """Yield items, and advance a progress bar if there is a display."""
    hidden = not (enabled and is_displayed())
    yield from tqdm(items, desc=title, unit=unit, leave=False, disable=hidden)


@contextmanager
def draw_progress(
    title: str, total: int, *, enabled: bool = True
) -> Iterator[Callable[[], object]]:
    """Yield a function that advances a progress bar of ``total`` draws, if there is a display."""
    hidden = not (enabled and is_displayed())
    with tqdm(desc=title, total=total, unit="draw", disable=hidden) as bar:
        yield bar.update


class GridView:
    """Prints the finished, failed and remaining runs of a grid, and an estimate of its time."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.jobs = total, jobs
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        self.seconds = 0.0

    def start(self, titles: Sequence[str]) -> None:
        """Print what will run: the first run may take long."""
        first = f"; the first is {titles[0]}" if titles else ""
        print(
            f"{self.total} runs, {len(titles)} not finished, {self.jobs} at a time{first}",
            file=sys.stderr,
            flush=True,
        )

    def add(self, title: str, status: str, seconds: float) -> None:
        """Count a run and print its outcome. Skipped runs are not printed."""
        self.counts[status] += 1
        self.seconds += seconds
        if status == "skipped":
            return
        remaining = self.total - sum(self.counts.values())
        finished = self.counts["done"] + self.counts["failed"]
        minutes = self.seconds / finished * remaining / self.jobs / 60
        counts = "  ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        running = min(remaining, self.jobs)
        print(
            f"{title}: {status}, {seconds:.0f} s  |  {counts}  {running} running  "
            f"{remaining - running} waiting  about {minutes:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
