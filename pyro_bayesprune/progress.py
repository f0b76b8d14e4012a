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
