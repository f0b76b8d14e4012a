"""What cannot be trained or compared rightly is refused before training, in one sentence."""

from threading import get_ident
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_pre_hook

from pyro_bayesprune.models.module import BayesianModule, Model, evaluation_mode, network

REENTRANT = "CheckpointFunctionBackward"


def modules_of(model: Model, x: Tensor, y: Tensor) -> list[nn.Module]:
    """Return the modules of a model; of a function those that run when it is called."""
    module = network(model)
    if module is not None:
        return list(module.modules())
    ran: list[nn.Module] = []
    thread = get_ident()

    def hook(part: nn.Module, args: object) -> None:
        if get_ident() == thread and part not in ran:
            ran.append(part)

    handle = register_module_forward_pre_hook(hook)
    try:
        with evaluation_mode(model), torch.no_grad(), torch.random.fork_rng(), poutine.block():
            model(x[:2], y[:2])
    finally:
        handle.remove()
    return ran


def check_modules(model: Model, x: Tensor, y: Tensor, batch_size: int) -> None:
    """Raise a ValueError for modules whose densities or gradients would be wrong."""
    norms = [part for part in modules_of(model, x, y) if isinstance(part, _BatchNorm)]
    for norm in norms:
        if norm.running_mean is None:
            raise ValueError(
                f"{type(norm).__name__} with track_running_stats=False normalises by the batch in "
                f"evaluation mode too, so that densities depend on the batch size: use running "
                f"statistics, or LayerNorm or GroupNorm"
            )
    if min(batch_size, len(x)) == 1 and any(norm.training for norm in norms):
        raise ValueError(
            f"BatchNorm cannot be trained on batches of one example: batch_size is {batch_size}, "
            f"and there are {len(x)} examples"
        )
    if isinstance(model, BayesianModule) and _is_reentrant(model, x[:2]):
        raise ValueError(
            "checkpoint(..., use_reentrant=True) trains no weight inside it when a module is run "
            "on weights from outside: use use_reentrant=False"
        )


def normalises_batches(model: Model) -> bool:
    """Say whether a module has a BatchNorm in training mode."""
    module = network(model)
    parts = module.modules() if module is not None else ()
    return any(isinstance(part, _BatchNorm) and part.training for part in parts)


def _is_reentrant(model: BayesianModule, x: Tensor) -> bool:
    weights = {n: p.detach().requires_grad_() for n, p in model.named_weights().items()}
    if x.is_floating_point():
        x = x.detach().requires_grad_()  # or a checkpoint at the beginning leaves no trace
    with evaluation_mode(model), torch.enable_grad(), torch.random.fork_rng():
        outputs = model.outputs(weights, x)
    left, met = [outputs.grad_fn], set()
    while left:
        node: Any = left.pop()
        if node is None or node in met:
            continue
        if node.name() == REENTRANT:
            return True
        met.add(node)
        left += [parent for parent, _ in node.next_functions]
    return False
