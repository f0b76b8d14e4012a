"""Versions, machine, commit and time: what a number needs beside it."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def provenance(*others: str) -> dict[str, Any]:
    """Return versions (of ``others`` as well), machine, commit and time."""
    packages = ("pyro-bayesprune", "torch", "pyro-ppl", "numpy", *others)
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": machine(),
        "commit": _commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, Any]:
    """Return the processor, the platform, and how many processors and threads there are."""
    return {
        "processor": _processor(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def load_average() -> float | None:
    """Return how many processes were running in the last minute; None where nothing tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the git commit of the code, None outside a checkout of it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    tracked = [*git, "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        for command in (tracked, [*git, "rev-parse", "--short", "HEAD"]):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or installed below somebody else's repository
    return done.stdout.strip()
