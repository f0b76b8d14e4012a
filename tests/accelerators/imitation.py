"""A second device in pure Python, for tests of code that runs on accelerators.

A tensor on the device `NAME` wraps a tensor on the CPU, on which every operation is computed, so
that values are real. As on CUDA, an operation refuses tensors of both devices, except scalars in
pointwise operations and indices on the CPU, and refuses the CPU's generators. `synchronisations`
counts the operations for which the host waits. `install` changes the whole process for good.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.utils.backend_registration as registration
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

NAME = "imitated"
AVAILABLE = hasattr(registration, "_setup_privateuseone_for_python_backend")
GENERATOR = torch.Generator()
COPIES = ("copy_", "_to_copy", "_copy_from")
READS = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select", "bincount"}
READS |= {"_unique2", "unique_dim", "unique_consecutive"}  # the host needs a value or a shape
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
# CUDA has no deterministic version of these (torch.use_deterministic_algorithms).
RANDOM_ORDER = {"kthvalue", "median.dim", "nanmedian.dim", "cumsum"}

aten = torch.ops.aten
places: Counter[str] = Counter()  # of synchronisations, see `synchronisations`
touched: list[int] = []  # the devices whose random state was read or set


class OnDevice(Tensor):
    """A tensor on the device; ``host`` has its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    host: Tensor

    @staticmethod
    def __new__(cls, host):
        device, geometry = torch.device(NAME, 0), (host.stride(), host.storage_offset())
        new = Tensor._make_wrapper_subclass(
            cls, host.shape, *geometry, dtype=host.dtype, layout=host.layout, device=device
        )
        new.host = host
        return new

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return computed(op, args, kwargs or {})

    def _replace(self, value):
        Tensor.data.__set__(self, value)
        self.host = value.host

    data = property(Tensor.data.__get__, _replace)

    def __reduce_ex__(self, protocol):
        """Files have the values, and the device, which ``map_location`` may change."""
        values = (self.host, self.dtype, str(self.device), self.requires_grad)
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, values

    def __repr__(self):
        return f"{type(self).__name__}({self.host!r})"

    def tolist(self):
        """The values as numbers; PyTorch's own method refuses subclasses."""
        return self.cpu().tolist()


def computed(op, args, kwargs):
    """The result of an operation on the device."""
    name = op._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    _check(op, name, args, kwargs, tensors)
    if _waits(name, args, kwargs, tensors, target):
        places[f"{_place()}: {name}"] += 1
    op = aten.zeros.default if name == "_efficientzerotensor" else op  # it has no memory
    plain = dict(kwargs)
    for key, value in {"device": "cpu", "pin_memory": False}.items():
        plain |= {key: value} if key in plain else {}
    if any(argument.name == "generator" for argument in op._schema.arguments):
        plain["generator"] = GENERATOR
    result = op(*_mapped(_host, args), **_mapped(_host, plain))
    if written := _written(op, args, kwargs):  # in place: the arguments themselves are returned
        return (None, written[0], tuple(written))[min(2, len(op._schema.returns))]
    leaves = target is not None and target.type != NAME
    return result if leaves else _mapped(_on_device, result)


def _check(op, name, args, kwargs, tensors):
    generators = [a for a in (*args, *kwargs.values()) if isinstance(a, torch.Generator)]
    if any(generator is not GENERATOR for generator in generators):
        raise RuntimeError(f"{name}: expected a generator of the device, got one of the CPU")
    overload = str(op).removeprefix("aten.").removesuffix(".default")
    floats = name != "cumsum" or tensors[0].is_floating_point()
    if torch.are_deterministic_algorithms_enabled() and floats and {name, overload} & RANDOM_ORDER:
        raise RuntimeError(f"{overload} has no deterministic implementation on the device")
    others = [t for t in tensors if not isinstance(t, OnDevice)]
    if name in COPIES or not others or len(others) == len(tensors):
        return
    pointwise = torch.Tag.pointwise in op.tags or name.startswith("fill")
    scalars = pointwise and all(t.dim() == 0 for t in others)
    indices = name in INDEXED and all(isinstance(t, OnDevice) for t in (args[0], *args[2:3]))
    on_host = op._schema.is_mutable and not isinstance(args[0], OnDevice)
    if on_host or not (scalars or indices):
        shapes = [tuple(t.shape) for t in others]
        raise RuntimeError(f"{name}: tensors {shapes} are on the CPU, others on the device")


def _waits(name, args, kwargs, tensors, target):
    if name in COPIES:
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,))
        kinds = {isinstance(tensor, OnDevice) for tensor in tensors}
        kinds |= {target.type == NAME} if target is not None else set()
        return len(kinds) == 2 and not asynchronous
    if name in INDEXED:
        indices = [i for i in args[1] if i is not None]
        return any(i.dtype in (torch.bool, torch.uint8) or type(i) is Tensor for i in indices)
    return name in READS


def _place():
    """The innermost line of the package that is running."""
    frame = sys._getframe(1)
    while frame is not None and "/pyro_bayesprune/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "elsewhere"
    return f"{frame.f_code.co_filename.rpartition('/pyro_bayesprune/')[2]}:{frame.f_lineno}"


def _written(op, args, kwargs):
    names = [a.name for a in op._schema.arguments]
    writes = [a.name for a in op._schema.arguments if a.alias_info and a.alias_info.is_write]
    return [kwargs[n] if n in kwargs else args[names.index(n)] for n in writes]


def _mapped(function, values):
    return tree_map(lambda v: function(v) if isinstance(v, Tensor) else v, values)


def _host(tensor):
    return tensor.host if isinstance(tensor, OnDevice) else tensor


def _on_device(tensor):
    return tensor if isinstance(tensor, OnDevice) else OnDevice(tensor)


class _Module:
    """What ``torch.imitated`` has, as ``torch.cuda`` does."""

    @staticmethod
    def device_count():
        return 2

    @staticmethod
    def get_rng_state(device=0):
        touched.append(
            torch.device(NAME, device).index if isinstance(device, int) else device.index
        )
        return GENERATOR.get_state()

    @staticmethod
    def set_rng_state(state, device=0):
        GENERATOR.set_state(state)

    is_available = is_initialized = staticmethod(lambda: True)
    current_device, _is_in_bad_fork = staticmethod(lambda: 0), staticmethod(lambda: False)
    manual_seed = manual_seed_all = staticmethod(GENERATOR.manual_seed)
    get_device_name = staticmethod(lambda device=0: "an imitation")
    device = nullcontext


def install():
    """Make the device. Factories, which have no tensor on it as an argument, are registered."""
    registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    for full in torch._C._dispatch_get_all_op_names():
        name, _, overload = full.removeprefix("aten::").partition(".")
        op = getattr(getattr(aten, name, None), overload or "default", None)
        if not full.startswith("aten::") or op is None or "sparse" in name:
            continue
        kinds = {str(argument.type) for argument in op._schema.arguments}
        if "Optional[Device]" in kinds and not any("Tensor" in kind for kind in kinds):

            def factory(*args, _op=op, **kwargs):
                return computed(_op, args, kwargs | {"device": NAME})

            library.impl(full.removeprefix("aten::"), factory, "PrivateUse1")

    def copy(source, target, non_blocking=False):
        return computed(aten.copy_.default, (target, source, non_blocking), {})

    library.impl("_copy_from", copy, "PrivateUse1")
    _Module.library = library  # otherwise the registrations end with this function


@contextmanager
def synchronisations() -> Iterator[Counter[str]]:
    """Count the synchronisations inside, by the line of the package that causes them."""
    places.clear()
    yield places
