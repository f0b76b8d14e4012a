"""Times of functions that run in turn, so that other processes disturb all of them equally."""

from collections.abc import Callable, Mapping
from time import perf_counter
from timeit import Timer

import pandas as pd

from pyro_bayesprune._utils.progress import counted

QUARTILES = [0.5, 0.25, 0.75]  # the median is the first


def seconds(
    runs: Mapping[str, Callable[[], object]],
    rounds: int,
    duration: float = 0.0,
    timer: Callable[[], float] = perf_counter,
) -> pd.DataFrame:
    """Return the mean seconds of a call of each function (columns) in each round (rows).

    Args:
        runs: functions by name.
        rounds: number of rounds.
        duration: seconds of one measurement, which repeats short calls. A few calls before the
            first round determine the number of repetitions. By default each measurement is one
            call. One call before the first round allocates memory and starts threads.
        timer: clock. With ``process_time`` and one thread, other processes disturb less.
    """
    timers = {name: Timer(run, "gc.enable()", timer) for name, run in runs.items()}
    first = {name: min(timer.repeat(5 if duration else 1, 1)) for name, timer in timers.items()}
    calls = {name: max(1, round(duration / first[name])) for name in runs}
    rows = [
        {name: timer.timeit(calls[name]) / calls[name] for name, timer in timers.items()}
        for _ in counted(range(rounds), "measuring", "round")
    ]
    return pd.DataFrame(rows)
