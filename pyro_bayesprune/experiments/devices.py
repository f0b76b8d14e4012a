"""The devices of runs: their description, and which worker of a grid uses which one."""

import multiprocessing
from collections.abc import Mapping
from typing import Any

import torch

from pyro_bayesprune._utils.provenance import machine

Ranks = Mapping[str, int]


def describe(device: str | torch.device) -> dict[str, Any]:
    """Return a device, its name, and for CUDA its version, for result.json."""
    device = torch.device(device)
    if device.type == "cpu":
        return {"device": "cpu", "name": machine()["processor"]}
    name = torch.get_device_module(device).get_device_name(device)
    version = {"cuda": torch.version.cuda} if device.type == "cuda" else {}
    return {"device": str(device), "name": name, **version}


def ranks(workers: Mapping[str, Mapping[str, Any]]) -> Ranks:
    """Return the number of each Dask worker among those of its machine, by its address.

    Args:
        workers: what the scheduler knows of each worker, by its address.
    """
    hosts = [info["host"] for info in workers.values()]
    return {address: hosts[:i].count(hosts[i]) for i, address in enumerate(workers)}


def device_of_worker(device: str, others: Ranks | None = None) -> str:
    """Return the device of this worker process: worker k uses GPU k modulo their number.

    Args:
        device: as the user named it; only ``"cuda"`` stands for all visible GPUs.
        others: result of `ranks` on a Dask cluster, and None on this machine.
    """
    if device != "cuda" or not (count := torch.cuda.device_count()):
        return device
    if others is None:
        number = multiprocessing.current_process().name.rpartition("LokyProcess-")[2]
        rank = int(number) - 1 if number.isdecimal() else 0
    else:
        from distributed import get_worker

        rank = others.get(get_worker().address, 0)
    return f"cuda:{rank % count}"
