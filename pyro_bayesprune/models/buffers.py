"""Buffers of modules, and tensors that modules store as plain attributes."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_bayesprune.models.module import Model, network, submodules

Shapes = dict[str, torch.Size]


def attribute_shapes(model: Model) -> Shapes:
    """Return the shapes of tensors that a module stores as plain attributes, by dotted name."""
    return {name: value.shape for name, value in _attributes(model).items()}


def buffers_of(model: Model, attributes: Shapes) -> dict[str, Tensor]:
    """Return copies of a module's buffers, and of its attributes of the given shapes, by name.

    Statistics that a module stores as an attribute are state, as buffers are. An attribute that is
    new or has another shape than ``attributes``, the result of `attribute_shapes` before training,
    is a result of the last call (an activation) and no state.
    """
    tensors = {n: v for n, v in _attributes(model).items() if attributes.get(n) == v.shape}
    module = network(model)
    if module is not None:
        tensors |= dict(module.named_buffers())
    return {name: value.detach().clone() for name, value in tensors.items()}


def set_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Set buffers and attributes by name to copies; a new name becomes a buffer.

    Raises:
        ValueError: for a buffer of the module that has no value.
    """
    missing = sorted({name for name, _ in module.named_buffers()} - set(buffers))
    if missing:
        raise ValueError(f"values are missing for the buffers {missing}, got {[*buffers]}")
    for name, value in buffers.items():
        owner, _, short = name.rpartition(".")
        part, new = module.get_submodule(owner), value.detach().clone()
        if short in part._buffers or isinstance(vars(part).get(short), Tensor):
            old = getattr(part, short)
            new = new if old is None else new.to(old.device)
            if old is not None and old.dtype == new.dtype:
                old.data = new  # another module may have the same tensor
            else:
                setattr(part, short, new)
        else:
            part.register_buffer(short, new)


def _attributes(model: Model) -> dict[str, Tensor]:
    return {
        f"{prefix}.{name}".lstrip("."): value
        for prefix, part in submodules(model)
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    }
