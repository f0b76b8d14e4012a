"""Conversion of the parts of data to tensors: arrays, and the batches of data sets and loaders."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_bayesprune.data.dataset import Pair, check_pair
from pyro_bayesprune.data.inputs import mapped

Unpack = Callable[[Any], tuple[Any, Any]]


@dataclass(frozen=True)
class Conversion:
    """From a batch of the user's to inputs and targets on the model's device, in its dtype."""

    unpack: Unpack | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None

    def __call__(self, batch: Any) -> Pair:  # noqa: ANN401
        """Return inputs and targets."""
        if self.unpack is not None:
            batch = self.unpack(batch)
        if not (isinstance(batch, (tuple, list)) and len(batch) == 2):
            raise ValueError(
                f"a batch must be a pair (inputs, targets), got {_described(batch)}: say what its "
                f"inputs and targets are, as_batches(data, unpack=lambda batch: (..., ...))"
            )
        x, y = map(as_tensors, batch)
        check_pair(x, y)
        return mapped(self.placed, x), self.placed(y)

    def in_memory(self, pair: tuple[Any, Any]) -> Pair:
        """Return a pair of tensors as it is, without history, and arrays as such tensors."""
        x, y = (as_tensors(part, self._from_array) for part in pair)
        check_pair(x, y)
        return mapped(Tensor.detach, x), y.detach()

    def placed(self, values: Tensor) -> Tensor:
        """Return a tensor on the device, in the dtype if it is real."""
        dtype = self.dtype if values.is_floating_point() else None
        # From pinned memory to a device, the copy is made while the host goes on.
        goes_on = self.device is not None and self.device.type != "cpu"
        return values.detach().to(self.device, dtype, non_blocking=goes_on)

    def _from_array(self, array: np.ndarray) -> Tensor:
        values = torch.as_tensor(array, device="cpu")
        dtype = self.dtype or torch.get_default_dtype()
        return values.to(self.device, dtype if values.is_floating_point() else None)


def as_tensors(
    values: Any,  # noqa: ANN401
    from_array: Callable[[np.ndarray], Tensor] = torch.from_numpy,
) -> Any:  # noqa: ANN401
    """Return tensors, a tuple or a dictionary of them; other values stay, for a check to refuse."""
    if isinstance(values, np.ndarray):
        return from_array(values)
    if isinstance(values, Mapping):
        return {name: as_tensors(value, from_array) for name, value in values.items()}
    if isinstance(values, (tuple, list)) and all(hasattr(v, "dtype") for v in values):
        return tuple(as_tensors(value, from_array) for value in values)
    return values


def _described(batch: Any) -> str:  # noqa: ANN401
    if isinstance(batch, Mapping):
        return f"a {type(batch).__name__} of {', '.join(map(str, batch))}"
    size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
    return f"a {type(batch).__name__}{size}"
