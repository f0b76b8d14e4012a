"""Measure training steps with one and two threads, alone and beside two other trainings.

    python reports/speed/threads.py

writes threads.csv and prints its table. Each cell is a process of its own, because OpenMP reads
its settings when torch is imported. The measurement needs a machine with nothing else to do.
"""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd

from pyro_bayesprune._utils.tables import table_markdown

FOLDER = Path(__file__).parent
STEPS = 50
POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}  # default: torch's own
NEIGHBOURS = 2
STEP = """
import sys, time, torch, pyro_bayesprune as bp
what, threads, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
shape = (1, 28, 28)
net = bp.CNN(shape, 10) if what == "CNN" else bp.FCN(shape, 10)
data = torch.randn(64 * 8, *shape), torch.randint(10, (64 * 8,))
pruning = bp.Pruning(sparsity=0.9 if what == "FCN, 90% zeros" else 0.0, gate="always",
                     schedule="constant")
model = bp.BayesianModule(net, bp.priors.normal(0.3), len(data[0]))
epochs = bp.train(model, data, pruning=pruning, epochs=10**6)
next(epochs)
done, spent = 0, 0.0
while done < steps or steps == 0:
    spent += next(epochs)[1].seconds_training
    done += 8
print(spent / done)
"""


def command(what: str, threads: int, steps: int) -> list[str]:
    """Return the command that prints the mean seconds of a step; 0 steps never end."""
    return [sys.executable, "-c", STEP, what, str(threads), str(steps)]


def measure(what: str, threads: int, policy: str, neighbours: int) -> float:
    """Return the seconds of a step beside other trainings with one thread each."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    environment = clean | POLICIES[policy]
    others = [
        subprocess.Popen(command("FCN", 1, 0), env=environment, stderr=subprocess.DEVNULL)
        for _ in range(neighbours)
    ]
    try:
        output = subprocess.check_output(
            command(what, threads, STEPS), env=environment, stderr=subprocess.DEVNULL
        )
    finally:
        for other in others:
            other.kill()
    return float(output)


def main() -> None:
    """Measure all cells and write the table."""
    rows = [
        {
            "network": what,
            "threads": threads,
            **{
                f"{policy}, {'beside two trainings' if n else 'alone'}":
                    round(1000 * measure(what, threads, policy, n), 1)
                for n in (0, NEIGHBOURS)
                for policy in POLICIES
            },
        }
        for what in ("FCN", "FCN, 90% zeros", "CNN")
        for threads in (1, 2)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.to_csv(FOLDER / "threads.csv", index=False)
    print(table_markdown(table.columns, table.astype(str).to_numpy().tolist()))


if __name__ == "__main__":
    main()
