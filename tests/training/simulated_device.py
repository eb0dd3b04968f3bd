"""A device in all but name: tensors on it compute on the CPU, and nothing may mix with the CPU's.

Fake tensors on CUDA show where a forward pass mixes devices, but without a GPU autograd has no
queue for them and they hold no numbers. Tensors here have numbers, gradients and the name of a
device that is not in use and whose graph autograd runs on the CPU's thread, so whole runs work. A
GPU's exceptions hold: copies from one device to the other, and CPU tensors without axes.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map

DEVICE = torch.device("lazy")
CPU = torch.device("cpu")
aten = torch.ops.aten

COPY, FILL = aten._to_copy.default, aten.copy_.default
WAITS = (
    *(aten._local_scalar_dense.default, aten.equal.default),
    *(aten.nonzero.default, aten.masked_select.default),
)
"""Operations whose results the host waits for: numbers it reads, and shapes that depend on them."""


class TensorOnDevice(Tensor):
    """A tensor on the simulated device; `numbers` holds what it is worth, on the CPU."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "TensorOnDevice":
        layout = {"strides": numbers.stride(), "storage_offset": numbers.storage_offset()}
        return Tensor._make_wrapper_subclass(
            cls, numbers.shape, dtype=numbers.dtype, device=DEVICE, **layout
        )

    def __init__(self, numbers: Tensor) -> None:
        self.numbers = numbers

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} is called outside of the simulation")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.cpu().__reduce_ex__(protocol)


class SimulatedDevice(TorchDispatchMode):
    """A context in which `DEVICE` exists; `waits` counts what a host waits for.

    These are numbers that it reads, and copies that it does not ask to be `non_blocking`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> "SimulatedDevice":
        self._lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        self._patches = ExitStack()
        self._patches.enter_context(patch.object(torch, "autocast", _autocast(torch.autocast)))
        module = patch.object(torch, DEVICE.type, SimpleNamespace(), create=True)
        self._patches.enter_context(module)  # Where activation checkpointing looks for states.
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._patches.close()
        torch._C._set_only_lift_cpu_tensors(self._lifts)

    def waits_of(self, call: Callable[[], Any]) -> Counter[str]:
        """Return what the host waits for in a call."""
        self.waits.clear()
        call()
        return Counter(self.waits)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, is_on_device = dict(kwargs or {}), TensorOnDevice in types
        target = kwargs.get("device")
        target = (DEVICE if is_on_device else CPU) if target is None else torch.device(target)
        if not is_on_device and target != DEVICE:
            return func(*args, **kwargs)
        self._count(func, target, args, kwargs)
        if target == DEVICE and "device" in kwargs:
            kwargs["device"] = CPU
        operands = _Operands()
        own_args, own_kwargs = operands.of(args), operands.of(kwargs)
        if func not in (COPY, FILL) and is_on_device and operands.is_cpu_among:
            raise RuntimeError(f"{func} must get tensors of one device; one is on the CPU")
        found = func(*own_args, **own_kwargs)
        if func is FILL:
            return args[0]
        if target == DEVICE:
            found = tree_map(lambda x: TensorOnDevice(x) if isinstance(x, Tensor) else x, found)
        if is_on_device and target == DEVICE and _returns_operands(func):
            return return_and_correct_aliasing(func, args, kwargs, found)
        return found

    def _count(self, func: Any, target: torch.device, args: Any, kwargs: Any) -> None:
        if func in WAITS:
            self.waits[func.overloadpacket.__name__] += 1
        if func is COPY:
            source, waits = args[0], not kwargs.get("non_blocking")
        elif func is FILL:
            target, source = args[0].device, args[1]
            waits = len(args) < 3 or not args[2]
        else:
            return
        if source.device != target and waits:
            self.waits[f"copy to the {'host' if target == CPU else 'device'}"] += 1


class _Operands:
    """Finds the numbers of an operation's tensors; `is_cpu_among` is whether some were there."""

    def __init__(self) -> None:
        self.is_cpu_among = False

    def of(self, x: Any) -> Any:
        if isinstance(x, TensorOnDevice):
            return x.numbers
        if isinstance(x, Tensor):
            self.is_cpu_among |= x.ndim > 0
        elif isinstance(x, list | tuple):
            return type(x)(map(self.of, x))
        elif isinstance(x, dict):
            return {key: self.of(value) for key, value in x.items()}
        return x


@cache
def _returns_operands(func: Any) -> bool:
    """Return whether an operation returns views, or what it changed in place."""
    return any(result.alias_info is not None for result in func._schema.returns)


def numbers_of(tensor: Tensor) -> Tensor:
    """Return a tensor's numbers, on the CPU, without its history."""
    return _Operands().of(tensor.detach())


def _autocast(known: Any) -> Any:
    """Return torch's autocast, which has no devices but its own; nothing is cast on this one."""

    def of(kind: str, *arguments: Any, **keywords: Any) -> Any:
        return known("cpu" if kind == DEVICE.type else kind, *arguments, **keywords)

    return of
