"""Attack the package and report: ``python tests/faults/attack.py --out reports/reliability.md``.

Everything that is tried stands in `attacks`; `test_attacks` tries a little of each.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # of helpers
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("MPLBACKEND", "Agg")

import torch

torch.set_num_threads(1)  # processes are forked

from attacks import ATTACKS, Attack  # noqa: E402

from pyro_bayesprune._utils.provenance import provenance  # noqa: E402

NOTES = Path(__file__).parent / "attacks" / "notes.md"


def tried(attack: Attack, quick: bool, seed: int) -> tuple[Counter, str]:
    """Run an attack in a folder of its own; what happened, and what failed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return attack.outcomes(attack.quick if quick else attack.full, Path(folder), seed), ""
        except Exception as error:
            traceback.print_exc()
            return Counter(), f"FAILED: {type(error).__name__}: {str(error)[:200]}"


def row(attack: Attack, counts: Counter, failure: str) -> str:
    """A row of the table."""
    happened = "; ".join(f"{what} ({count})" for what, count in counts.most_common())
    cells = (attack.what, str(sum(counts.values())), failure or happened)
    return "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in cells) + " |"


def head(quick: bool, seed: int) -> list[str]:
    """What a reader needs to try it again."""
    now = provenance()
    versions = ", ".join(f"{name} {number}" for name, number in now["versions"].items())
    machine = ", ".join(f"{name} {value}" for name, value in now["machine"].items())
    words = "python tests/faults/attack.py" + " --quick" * quick + f" --seed {seed}"
    return [
        "# Reliability: tests with faults, and their results", "",
        f"Made by `{words} --out reports/reliability.md` on {now['finished'][:10]}, commit "
        f"{now['commit']}. {versions}; {machine}.", "",
        "Each row of a table describes one kind of test. It states how many tests were made and "
        "what happened. A number in parentheses is the number of tests with this result. The "
        "tables use these terms:", "",
        '- "Went on": the run or grid was started again and continued where it had stopped.',
        '- "Same": weights, masks and history are equal, byte for byte, to those of an undisturbed '
        "run. Wall-clock times are not compared.",
        '- "Noticed and named": there was one error, its message contains the name of the file, '
        "and nothing was deleted.",
        '- "Harmless": the values that were read are the values that were written.', "",
    ]  # fmt: skip


def tables(attacks: list[Attack], quick: bool, seed: int) -> int:
    """Run attacks; print a table for each area, with the seconds that a row took to the errors."""
    failed = 0
    for area in dict.fromkeys(attack.area for attack in attacks):
        print(f"## {area.capitalize()}\n\n| tried | times | what happened |\n| --- | --- | --- |")
        for attack in (a for a in attacks if a.area == area):
            started = time.perf_counter()
            counts, failure = tried(attack, quick, seed)
            failed += bool(failure)
            print(row(attack, counts, failure), flush=True)
            print(f"{time.perf_counter() - started:6.1f} s {attack.what}", file=sys.stderr)
        print()
    return failed


def elsewhere(area: str, options: list[str]) -> subprocess.CompletedProcess:
    """Run the attacks of an area in a process of its own."""
    words = [sys.executable, __file__, "--only", area, *options]
    return subprocess.run(words, stdout=subprocess.PIPE, text=True)


def main() -> int:
    """Run the attacks; write the report; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file of the report, of all areas")
    parser.add_argument("--quick", action="store_true", help="as few tries as the tests make")
    parser.add_argument("--only", default="", help="an area, or a part of what is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="areas at a time, with --out")
    given = parser.parse_args()
    if not given.out:
        chosen = [a for a in ATTACKS if given.only in a.area or given.only in a.what]
        return int(tables(chosen, given.quick, given.seed) > 0)
    options = ["--seed", str(given.seed), *["--quick"] * given.quick]
    areas = list(dict.fromkeys(attack.area for attack in ATTACKS))
    with ThreadPoolExecutor(given.jobs) as pool:
        done = list(pool.map(lambda area: elsewhere(area, options), areas))
    parts = [*head(given.quick, given.seed), *(d.stdout.rstrip() + "\n" for d in done)]
    given.out.write_text("\n".join(parts) + NOTES.read_text(encoding="utf-8"), encoding="utf-8")
    return max(d.returncode for d in done)


if __name__ == "__main__":
    sys.exit(main())
