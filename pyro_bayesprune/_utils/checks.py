"""Checks of arguments. Each ValueError names the argument, the expected and the actual value."""

import sys

import torch
from torch import Tensor


def positive(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is a positive finite number (denormals count as zero)."""
    numeric = isinstance(value, (int, float))
    if not (numeric and sys.float_info.min <= value <= sys.float_info.max):
        raise ValueError(f"{name} must be a positive finite number, got {value!r}")


def positive_integer(name: str, value: object) -> None:
    """Raise a ValueError that names ``name`` unless ``value`` is a positive integer."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")


def check_kind(name: str, value: object, kind: type) -> None:
    """Raise a ValueError that names ``name`` unless ``value`` is a ``kind``."""
    if not isinstance(value, kind):
        text = f" {value!r}: write {name}={kind.__name__}({value!r})"
        hint = text if isinstance(value, str) and kind.__name__ == "Pruning" else ""
        raise ValueError(f"{name} must be a {kind.__name__}, got {type(value).__name__}{hint}")


def check_finite(name: str, values: Tensor) -> None:
    """Raise a ValueError that names ``name`` if ``values`` contain NaN or infinity."""
    if not values.is_floating_point() or not values.numel():
        return
    if not torch.stack(values.aminmax()).isfinite().all():  # NaN if any value is
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"{name} must be finite, got {bad} NaN or infinite values")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise a ValueError that names ``name`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_device(device: str | torch.device) -> None:
    """Raise a ValueError if this machine does not have the device, or it has no float64."""
    try:
        torch.ones(1, device=torch.device(device), dtype=torch.float64).item()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}") from None
