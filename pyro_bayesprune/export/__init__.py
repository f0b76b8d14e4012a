"""Pruned networks without Pyro: compaction, network files, torch.export programs and ONNX."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__, compaction=["compact"], files=["read", "write"], graphs=["onnx_session"]
)
