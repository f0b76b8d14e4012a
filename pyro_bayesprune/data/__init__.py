"""Data sets as tensors in memory, their file format, and the built-in ones."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    builtin=["data_folder", "fetch", "load_dataset"],
    dataset=["Dataset", "Pair"],
    loading=["as_batches"],
    files=["read_file", "write_file"],
    splitting=["split"],
)
