"""The versions, machine, commit and time of a measurement."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def provenance(*others: str) -> dict[str, Any]:
    """Return the versions (also of the packages ``others``), machine, commit and time."""
    packages = ("pyro-bayesprune", "torch", "pyro-ppl", "numpy", *others)
    return {
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "machine": machine(),
        "commit": _commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def machine() -> dict[str, Any]:
    """Return the processor, the platform, and the numbers of processors and threads."""
    return {
        "processor": _processor(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the git commit of the code; None outside a repository that tracks this file."""
    git = ["git", "-C", str(Path(__file__).parent)]
    tracked = [*git, "ls-files", "--error-unmatch", Path(__file__).name]
    try:
        for command in (tracked, [*git, "rev-parse", "--short", "HEAD"]):
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or the package is installed inside another repository
    return done.stdout.strip()
