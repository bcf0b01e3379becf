"""Read tensors and containers out of any torch pickle without running a line of it.

Every class and function that a pickle names becomes an inert stand-in: it can be built,
called and given a state, and does nothing but remember them. Only torch's own tensor
rebuilders, OrderedDict and the builtin containers are real, and the rebuilders are ours.
So an argparse.Namespace beside the weights costs nothing, and a hostile pickle nothing
either.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from homotopy_cli.errors import CheckpointError

_ITEM_LIMIT = 2**40  # numbers in one tensor


class Inert:
    """A stand-in for an object of a class that was not run: its arguments and its state."""

    path = ""  # "module.Class"

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        self = object.__new__(cls)
        self.__dict__.update(args=args, state={})
        return self

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.__dict__["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[key] = value

    def append(self, value: Any) -> None:
        self.__dict__.setdefault("values", []).append(value)

    def extend(self, values: Any) -> None:
        self.__dict__.setdefault("values", []).extend(values)

    def add(self, value: Any) -> None:
        self.append(value)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<{self.path}, not run>"

    @property
    def attributes(self) -> dict[str, Any]:
        """The state where it is a dict, as instances' mostly are."""
        state = self.__dict__.get("state")
        if isinstance(state, tuple) and state and isinstance(state[0], dict):
            state = state[0]
        return state if isinstance(state, dict) else {}


def plain(value: Any, known: dict[int, Any] | None = None) -> Any:
    """`value` with omegaconf's stand-ins as the dicts, lists and numbers that they hold.

    Hydra, Lightning and pyannote save settings so, an optimizer's betas among them. Other
    stand-ins stay. Each object is looked into once, so a nest that holds itself ends too.

    Args:
        value: Any nest.
        known: id -> what it became; for the recursion.
    """
    known = {} if known is None else known
    if id(value) in known:
        return known[id(value)]
    known[id(value)] = value
    made = value
    if isinstance(value, Inert):
        if value.path.startswith("omegaconf."):
            names = [name for name in ("_content", "_val") if name in value.attributes]
            made = plain(value.attributes[names[0]], known) if names else value
    elif isinstance(value, dict):
        made = {key: plain(item, known) for key, item in value.items()}
    elif type(value) in (list, tuple):
        made = type(value)(plain(item, known) for item in value)
    known[id(value)] = made
    return made


class _Storage:
    """One storage type as a pickle names it."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        self.dtype = dtype


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": None,
}
# Type names that configuration objects carry along; they too become stand-ins, unmentioned.
_UNREMARKABLE = {
    "numpy.dtype",
    "typing.Any",
    *(f"builtins.{n}" for n in ("int", "long", "float", "str", "bool", "complex", "bytes")),
}
_CONTAINERS = {"dict": dict, "list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class LegibleUnpickler(pickle.Unpickler):
    """Builds tensors and plain containers; `refused` lists the globals that became stand-ins.

    Args:
        content: The pickle.
        storage: Key -> the bytes of one storage, as uint8.
    """

    def __init__(self, content: io.BufferedIOBase, storage: Callable[[str], Tensor]) -> None:
        super().__init__(content, encoding="utf-8")
        self._storage = storage
        self._stand_ins: dict[str, type[Inert]] = {}
        self.refused: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Any:
        """A rebuilder, a container, a dtype, or a stand-in. Nothing is imported."""
        if module == "collections" and name in ("OrderedDict", "defaultdict", "Counter"):
            return _containers()[name]
        if module in ("builtins", "__builtin__") and name in _CONTAINERS:
            return _CONTAINERS[name]
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _Storage(_STORAGES[name])
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == "torch" and name == "Size":
            return tuple
        if module == "torch._utils" and name in _rebuilders():
            return _rebuilders()[name]
        if module == "torch._tensor" and name == "_rebuild_from_type_v2":
            return lambda function, kind, arguments, state: function(*arguments)
        if module == "torch.nn.parameter" and name == "Parameter":
            return lambda data=None, requires_grad=True: data
        if module == "torch.jit._pickle":  # TorchScript's typed lists and dicts
            return lambda data=None, *kind: data
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":
            return lambda kind, *rest: kind() if isinstance(kind, type) else Inert()
        if module == "_codecs" and name == "encode":
            return lambda text, coding="utf-8": text.encode("latin1")
        if module.endswith("multiarray") and module.startswith("numpy") and name == "scalar":
            self.refused["numpy scalar"] = None
            return _numpy_scalar
        if module == "torch" and name == "device":
            return lambda *place: ":".join(map(str, place))
        path = f"{'builtins' if module == '__builtin__' else module}.{name}"
        if path not in _UNREMARKABLE:
            self.refused[path] = None
        if path not in self._stand_ins:
            self._stand_ins[path] = type(name, (Inert,), {"path": path})
        return self._stand_ins[path]

    def persistent_load(self, pid: Any) -> Any:
        """("storage", type, key, location, numel, ...): the location is ignored, all is CPU."""
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            return Inert()
        kind, key = pid[1], str(pid[2])
        raw = self._storage(key)  # uint8
        dtype = kind.dtype if isinstance(kind, _Storage) else None
        if dtype is None:
            return raw
        usable = len(raw) - len(raw) % dtype.itemsize
        numbers = raw[:usable].view(dtype)
        if len(pid) > 5 and isinstance(pid[5], tuple) and len(pid[5]) == 3:  # a view, before 0.4
            _, start, length = pid[5]
            return numbers[start : start + length]
        return numbers


def _rebuild(
    storage: Any, offset: Any = 0, size: Any = (), stride: Any = (), *rest: Any
) -> Tensor | Inert:
    """torch._utils._rebuild_tensor_v2, with its bounds checked against the storage."""
    if not isinstance(storage, Tensor):
        return Inert()
    numbers = (offset, *size, *stride)
    if not all(isinstance(n, int) and 0 <= n < _ITEM_LIMIT for n in numbers):
        raise CheckpointError("damaged: a tensor's shape is not a shape")
    numel = 1
    for length in size:
        numel *= length
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if numel and last >= storage.numel():
        raise CheckpointError(
            f"damaged: a tensor of shape {list(size)} reaches beyond its {storage.numel()} numbers"
        )
    if numel * storage.itemsize > max(2**26, 16 * storage.nbytes):
        raise CheckpointError(
            f"refused: a tensor of shape {list(size)} is stored in {storage.numel()} numbers"
        )
    if not numel:
        return storage.new_empty(size)
    return torch.as_strided(storage, size, stride, offset)


def _rebuilders() -> dict[str, Callable[..., Any]]:
    """Fresh functions for each reader, so that no pickle can hand a state to a shared one."""
    return {
        "_rebuild_tensor": lambda *a: _rebuild(*a),
        "_rebuild_tensor_v2": lambda *a: _rebuild(*a),
        "_rebuild_tensor_v3": lambda s, o, size, stride, g, h, dtype, *m: _rebuild(
            s.view(dtype), o, size, stride
        ),
        "_rebuild_parameter": lambda data=None, *a: data,
        "_rebuild_parameter_with_state": lambda data=None, *a: data,
        "_rebuild_buffer": lambda data=None, *a: data,
    }


def _containers() -> dict[str, Callable[..., Any]]:
    """Constructors of plain dicts, whatever default factory a pickle names."""
    return {
        "OrderedDict": lambda *a: _StatefulDict(*a),
        "defaultdict": lambda *a: _StatefulDict(*a[1:]),
        "Counter": lambda *a: _StatefulDict(*a),
    }


class _StatefulDict(OrderedDict):
    """An OrderedDict that takes a pickled state (`_metadata`) and drops it."""

    def __setstate__(self, state: Any) -> None:
        pass


def _numpy_scalar(dtype: Any, raw: Any = b"") -> Any:
    """A NumPy scalar as a Python number, or a stand-in."""
    code = dtype.args[0] if isinstance(dtype, Inert) and dtype.__dict__.get("args") else None
    kinds = {
        "f2": torch.float16,
        "f4": torch.float32,
        "f8": torch.float64,
        "i1": torch.int8,
        "i2": torch.int16,
        "i4": torch.int32,
        "i8": torch.int64,
        "u1": torch.uint8,
        "b1": torch.bool,
    }
    if code not in kinds or not isinstance(raw, bytes) or len(raw) != kinds[code].itemsize:
        return Inert()
    return torch.frombuffer(bytearray(raw), dtype=kinds[code])[0].item()
