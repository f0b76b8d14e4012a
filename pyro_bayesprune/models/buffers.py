"""Buffers of modules, and tensors that modules keep as plain attributes."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyro_bayesprune.models.module import Model, network

Shapes = dict[str, torch.Size]


def attribute_shapes(model: Model) -> Shapes:
    """Return the shapes of tensors that a module keeps as plain attributes, by dotted name."""
    return {name: value.shape for name, value in _attributes(network(model)).items()}


def buffers_of(model: Model, attributes: Shapes) -> dict[str, Tensor]:
    """Return copies of a module's buffers, and of its attributes of the given shapes, by name.

    Statistics that a module keeps as an attribute are state like buffers. An attribute of another
    shape than at first, or a new one, is a result of the last call (an activation): it is no state.

    Args:
        model: a module under any handlers; a function has no buffers.
        attributes: what `attribute_shapes` returned before training.
    """
    module = network(model)
    named = dict(module.named_buffers()) if module is not None else {}
    kept = {n: v for n, v in _attributes(module).items() if attributes.get(n) == v.shape}
    return {name: value.detach().clone() for name, value in (kept | named).items()}


def set_buffers(module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Set buffers and attributes by name to copies; one that is new becomes a buffer.

    Raises:
        ValueError: for a buffer of the module that has no value.
    """
    missing = sorted({name for name, _ in module.named_buffers()} - set(buffers))
    if missing:
        raise ValueError(f"values are missing for the buffers {missing}, given are {[*buffers]}")
    for name, value in buffers.items():
        owner, _, short = name.rpartition(".")
        part, new = module.get_submodule(owner), value.detach().clone()
        if short in part._buffers or isinstance(vars(part).get(short), Tensor):
            old = getattr(part, short)
            setattr(part, short, new if old is None else new.to(old.device))
        else:
            part.register_buffer(short, new)


def _attributes(module: nn.Module | None) -> dict[str, Tensor]:
    parts = module.named_modules() if module is not None else ()
    return {
        f"{prefix}.{name}".lstrip("."): value
        for prefix, part in parts
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    }
