"""A stand-in for torch's device ``cuda`` on machines without one: numbers stay here, where they are is kept.

A tensor "there" wraps one of the host and says that it is on ``cuda:0``. What CUDA refuses is refused:
operations between there and here (numbers, and what indexes, apart), numpy's view of what is there. What
makes the host wait for the device is written down in ``waits``: numbers and sizes that come back, and what is
sent from memory that is not page-locked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch.utils._pytree import tree_flatten, tree_map

THERE = torch.device("cuda:0")
#: Functions of torch that make a tensor where ``device`` says.
FACTORIES = ("arange", "as_tensor", "empty", "eye", "full", "ones", "tensor", "zeros")
#: Operations of there and here that CUDA knows: copies, and indices of the host.
_MEET = {"copy_", "index", "index_put", "index_put_", "_index_put_impl_"}
#: Operations whose size the host has to know: it waits for the device to count.
_COUNT = {"_local_scalar_dense", "is_nonzero", "masked_select", "nonzero", "_unique2", "unique_consecutive"}

_to, _made = torch.Tensor.to, {name: getattr(torch, name) for name in FACTORIES}
_sparse, _sparse_mm = torch.sparse_coo_tensor, torch.sparse.mm


class There(torch.Tensor):
    """A tensor of the device that is not there."""

    #: Where the host waited, since the device began.
    waits: ClassVar[list[str]] = []
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype
        )
        made.held = held
        return made

    device = property(lambda self: THERE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self) -> str:
        return f"There({self.held})"

    def numpy(self, **options: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu() first")

    def __array__(self, *args: Any, **options: Any) -> None:
        self.numpy()

    def tolist(self) -> Any:
        self.waits.append("tolist")
        return self.held.tolist()

    def cpu(self) -> torch.Tensor:
        return self.to("cpu")

    def record_stream(self, stream: Any) -> None:
        pass

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name.split("::")[1], kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, torch.Tensor)]
        here = [value for value in tensors if not isinstance(value, There) and value.dim()]
        if here and name not in _MEET:
            raise RuntimeError(f"{name}: tensors of cuda:0 and of cpu ({tuple(here[0].shape)})")
        if name.startswith(("index", "_index")):
            where = (
                [value for value in args[1] if value is not None] if isinstance(args[1], list | tuple) else []
            )
            assert isinstance(args[0], There) or not any(isinstance(value, There) for value in where), (
                f"{name}: indices of cuda:0 into a tensor of cpu"
            )
            if name.startswith(("index_put", "_index_put")):
                assert isinstance(args[2], There) or not args[2].dim(), f"{name}: values of cpu into cuda:0"
            if any(value.dtype in (torch.bool, torch.uint8) for value in where):
                cls.waits.append(f"{name} by marks")
            if any(not isinstance(value, There) for value in where):
                cls.waits.append(f"{name} by what is here")
        sized = kwargs.get("output_size") is not None
        if name in _COUNT or (name == "repeat_interleave" and not sized):
            cls.waits.append(name)
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if name.endswith("_") or (name.startswith("_foreach") and out is None):
            return args[0] if out is not None else None
        if "out" in kwargs:
            return kwargs["out"]
        return tree_map(_there, out)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, There) else value


def _there(value: Any) -> Any:
    plain = isinstance(value, torch.Tensor) and not isinstance(value, There)
    return There(value) if plain else value


def is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


class _Carried(torch.autograd.Function):
    """A copy to or from the device, and the gradient back."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        ctx.back = isinstance(tensor, There)
        return tensor.held.clone() if ctx.back else There(tensor.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        return _there(grads[0]) if ctx.back else _held(grads[0])


def _moved(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """Take the place of ``Tensor.to``."""
    target = options.get(
        "device", args[0] if args and isinstance(args[0], str | int | torch.device) else None
    )
    if isinstance(args[0] if args else None, torch.Tensor):
        target, args = args[0].device, (args[0].dtype, *args[1:])
    if target is None:
        return _to(tensor, *args, **options)
    dtype = options.get("dtype", next((a for a in args if isinstance(a, torch.dtype)), None))
    to_there, is_here = is_there(target), not isinstance(tensor, There)
    if is_here and not to_there:
        return _to(tensor, *args, **options)
    if to_there and not is_here and options.get("copy"):
        tensor = tensor.clone()
    if dtype is not None:
        tensor = _to(tensor, dtype)
    if to_there != is_here:
        return tensor
    if not (to_there and options.get("non_blocking")):
        There.waits.append("to cuda" if to_there else "to cpu")
    carried = _Carried.apply(tensor)
    return carried if tensor.requires_grad and torch.is_grad_enabled() else carried.detach()


def _factory(name: str) -> Callable[..., torch.Tensor]:
    def make(*args: Any, **options: Any) -> torch.Tensor:
        if not is_there(options.get("device")):
            options.pop("pin_memory", None)
            return _made[name](*args, **options)
        graded = options.pop("requires_grad", False)
        if name == "as_tensor" and isinstance(args[0], torch.Tensor):
            return _moved(args[0], options["device"], **{k: v for k, v in options.items() if k == "dtype"})
        if name in ("as_tensor", "tensor"):
            There.waits.append(name)
        made = There(_made[name](*args, **{**options, "device": "cpu"}))
        return made.requires_grad_() if graded else made

    return make


class SparseThere:
    """A sparse tensor there: torch has no wrappers of those."""

    def __init__(self, held: torch.Tensor) -> None:
        self.held = held


def _sparse_made(indices: Any, values: Any, *args: Any, **options: Any) -> Any:
    if not isinstance(values, There):
        return _sparse(indices, values, *args, **options)
    assert isinstance(indices, There), "indices of cpu, values of cuda:0"
    return SparseThere(_sparse(indices.held, values.held, *args, **options))


def _sparse_product(left: Any, right: torch.Tensor) -> torch.Tensor:
    if not isinstance(left, SparseThere):
        return _sparse_mm(left, right)
    assert isinstance(right, There), "sparse rows of cuda:0, dense ones of cpu"
    return There(_sparse_mm(left.held, right.held))


@contextmanager
def _stream(stream: Any) -> Iterator[None]:
    yield


def put(monkeypatch: Any, free_bytes: int = 2**40) -> type[There]:
    """Have torch's functions know the device; return the class of its tensors."""
    There.waits.clear()
    for name in FACTORIES:
        monkeypatch.setattr(torch, name, _factory(name))
    monkeypatch.setattr(torch.Tensor, "to", _moved)
    monkeypatch.setattr(torch, "sparse_coo_tensor", _sparse_made)
    monkeypatch.setattr(torch.sparse, "mm", _sparse_product)
    nothing = SimpleNamespace(synchronize=lambda: None, wait_stream=lambda other: None)
    said = {
        "Stream": lambda *args, **options: nothing,
        "current_stream": lambda *args: nothing,
        "default_stream": lambda *args: nothing,
        "device_count": lambda: 1,
        "empty_cache": lambda: None,
        "get_device_name": lambda *args: "a device that is not there",
        "is_available": lambda: True,
        "max_memory_allocated": lambda *args: 0,
        "mem_get_info": lambda *args: (free_bytes, free_bytes),
        "stream": _stream,
        "synchronize": lambda *args: None,
    }
    # or parameters of the host would be given numbers that are elsewhere
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    # optimisers of builds for CUDA ask the driver for its streams where there is an accelerator
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for name, function in said.items():
        monkeypatch.setattr(torch.cuda, name, function)
    return There
