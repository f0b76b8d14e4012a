"""How a training is shown while it runs."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm.auto import tqdm


@contextmanager
def shown(
    title: str, total: int, done: int = 0, *, enabled: bool = True
) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Yield a function that shows one more epoch and what is to say of it.

    A progress bar in a terminal or a notebook, a plain line an epoch elsewhere.

    Args:
        title: what runs.
        total: number of epochs.
        done: epochs that have passed already.
        enabled: False shows nothing.
    """
    if not enabled:
        yield lambda told: None
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        with tqdm(desc=title, total=total, initial=done, unit="epoch") as bar:

            def advance(told: Mapping[str, str]) -> None:
                bar.set_postfix(told, refresh=False)
                bar.update()

            yield advance
    else:
        passed = done

        def write(told: Mapping[str, str]) -> None:
            nonlocal passed
            passed += 1
            values = "  ".join(f"{name} {value}" for name, value in told.items())
            print(f"{title}  epoch {passed}/{total}  {values}", file=sys.stderr, flush=True)

        yield write


class GridView:
    """What a grid shows while it runs: done, failed, and time left from the runs so far."""

    def __init__(self, total: int, jobs: int) -> None:
        self.total, self.jobs = total, jobs
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        self.seconds = 0.0

    def add(self, title: str, status: str, seconds: float) -> None:
        """Show how one more run ended; runs that were there before are only counted."""
        self.counts[status] += 1
        self.seconds += seconds
        if status == "skipped":
            return
        left = self.total - sum(self.counts.values())
        ran = self.counts["done"] + self.counts["failed"]
        minutes = self.seconds / ran * left / self.jobs / 60
        counts = "  ".join(f"{count} {what}" for what, count in self.counts.items() if count)
        running = min(left, self.jobs)
        print(
            f"{title}: {status}, {seconds:.0f} s  |  {counts}  {running} running  "
            f"{left - running} waiting  about {minutes:.0f} min left",
            file=sys.stderr,
            flush=True,
        )
