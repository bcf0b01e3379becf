"""Hold a model still while it is measured: unwrap it, borrow its parameters, give all back."""

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy as np
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Mode = Literal["eval", "train", "keep"]
MODES = ("eval", "train", "keep")
_COMPILED = "_orig_mod."


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel and torch.compile, nested or not."""
    parallel = (nn.parallel.DistributedDataParallel, nn.DataParallel)
    while True:
        if "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        elif isinstance(model, parallel):
            model = model.module
        else:
            return model


def clean_name(name: str) -> str:
    """A parameter or module path without the segments that torch.compile adds."""
    return f"{name}.".replace(_COMPILED, "").removesuffix(".")


@contextmanager
def sdpa_math() -> Iterator[None]:
    """Attention on the math kernel: the fused ones have no second derivative, on no device."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


class _PlainCheckpoint:
    """Stands in for the reentrant CheckpointFunction."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *inputs: Any) -> Any:
        """The same recomputation by saved-tensor hooks, which any derivative goes through."""
        return torch.utils.checkpoint.checkpoint(
            function, *inputs, use_reentrant=False, preserve_rng_state=preserve
        )


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Activation checkpoints that a gradient with respect to given tensors can pass.

    Reentrant ones run a backward pass of their own: torch.autograd.grad then misses the
    parameters inside them, and the product with the Hessian is wrong without an error.
    """
    module = torch.utils.checkpoint
    reentrant = module.CheckpointFunction
    module.CheckpointFunction = _PlainCheckpoint
    try:
        yield
    finally:
        module.CheckpointFunction = reentrant


def _written_out(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """g·v/‖v‖, the norm over every axis but `dim`."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


@contextmanager
def open_weight_norm() -> Iterator[None]:
    """Weight normalisation as its formula, in both of torch's modules for it.

    The second derivative of torch's fused kernel holds ‖v‖ constant (torch 2.13, CPU): products
    with the Hessian come out unsymmetric, by as much as their own length in a small layer, and
    no error is raised. It has no forward derivative either.
    """
    hooks = sys.modules["torch.nn.utils.weight_norm"]  # the name in torch.nn.utils is a function
    fused, imported = torch._weight_norm, hooks._weight_norm
    torch._weight_norm = hooks._weight_norm = _written_out
    try:
        yield
    finally:
        torch._weight_norm, hooks._weight_norm = fused, imported


@contextmanager
def forked_rng(device: torch.device, seed: int) -> Iterator[None]:
    """All global generators (torch, CUDA device, Python, NumPy) at `seed`, restored afterwards.

    torch.manual_seed is not used: it would also reseed, or queue a reseeding of, devices that
    this problem does not touch.
    """
    saved, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    try:
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        if cuda is not None:
            index = torch.cuda.current_device() if device.index is None else device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(saved)
        random.setstate(python)
        np.random.set_state(numpy)
        if cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


class Borrowed:
    """A model whose parameters are replaced by given tensors until `release`.

    Mode flags, plain attributes (the tensors that weight_norm or a stateful layer keeps in
    `__dict__`), buffers and parameters of every submodule are recorded on entry and put back,
    the same objects, on release; so are the states of torch.Generators among the attributes.
    Borrowings nest, last in, first out.

    Args:
        model: Unwrapped.
        tensors: id of a parameter -> its replacement; tied owners all get the same tensor.
        mode: Flags for every submodule; "keep" leaves them as they are.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[int, Tensor], mode: Mode) -> None:
        modules = list(model.modules())
        self._saved = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in modules]
        held = [value for m in modules for value in vars(m).values()]
        generators = {id(g): g for g in held if isinstance(g, torch.Generator)}.values()
        self._generators = [(generator, generator.get_state()) for generator in generators]
        self._tensors = tensors
        self.written: frozenset[tuple[int, str]] = frozenset()  # see writes.py
        for module in modules:
            for name, parameter in module._parameters.items():
                if id(parameter) in tensors:
                    module._parameters[name] = tensors[id(parameter)]
            if mode != "keep":
                vars(module)["training"] = mode == "train"
            if isinstance(module, nn.RNNBase):  # it also keeps its weights in a list
                names = module._flat_weights_names
                vars(module)["_flat_weights"] = [getattr(module, name) for name in names]

    def fresh_buffers(self, dtype: torch.dtype | None, device: torch.device) -> None:
        """Clones of the buffers as they were on entry, floats in `dtype`; shared ones stay so.

        So are clones of what the forward pass writes to, frozen parameters and plain attributes.
        """
        clones: dict[int, Tensor] = {}
        for module, _, _, buffers in self._saved:
            for name, buffer in buffers.items():
                if buffer is None:
                    continue
                if id(buffer) not in clones:
                    kind = dtype if dtype and buffer.is_floating_point() else buffer.dtype
                    clones[id(buffer)] = buffer.detach().to(device, kind, copy=True)
                module._buffers[name] = clones[id(buffer)]
        for place, name in self.written:
            module, attributes, parameters, _ = self._saved[place]
            kept = parameters.get(name, attributes.get(name))
            kept = self._tensors.get(id(kept), kept)
            if not isinstance(kept, Tensor):  # reset since it was seen to be written to
                continue
            if not kept.requires_grad:  # others are copies of their own: see Problem.measuring
                fresh = clones.setdefault(id(kept), kept.clone())
                (module._parameters if name in parameters else vars(module))[name] = fresh

    def original(self, place: int, name: str) -> Tensor | None:
        """The model's own parameter of a module, by its position; None where it has none."""
        return self._saved[place][2].get(name)

    def reseed(self, seed: int) -> None:
        """Set the model's own generators, as forked_rng sets the global ones."""
        for generator, _ in self._generators:
            generator.manual_seed(seed)

    def release(self) -> None:
        """Put every flag, attribute, buffer, parameter and generator's state back."""
        for generator, state in self._generators:
            generator.set_state(state)
        for module, attributes, parameters, buffers in self._saved:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
            _refill(module._parameters, parameters)
            _refill(module._buffers, buffers)


def quiet_kernels(model: nn.Module | None, device: torch.device) -> ExitStack:
    """The kernels that can be differentiated twice, as one context.

    Math attention, checkpoints without a backward pass of their own and weight normalisation as a
    formula always; no autocast of the caller's, whose half precision no second derivative
    survives; eager mode where anything can have been compiled (compiled code refuses double
    backward); no cuDNN where a recurrent layer sits on CUDA.
    """
    stack = ExitStack()
    if torch.is_autocast_enabled(device.type):
        stack.enter_context(torch.autocast(device.type, enabled=False))
    stack.enter_context(sdpa_math())
    stack.enter_context(plain_checkpoints())
    stack.enter_context(open_weight_norm())
    if "torch._dynamo" in sys.modules:  # torch.compile, of a module or a function, loads it
        stack.enter_context(torch.compiler.set_stance("force_eager"))
    modules = [] if model is None else model.modules()
    if device.type == "cuda" and any(isinstance(m, nn.RNNBase) for m in modules):
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
    return stack


def _refill(target: dict[str, Any], saved: dict[str, Any]) -> None:
    """Make `target` hold exactly the objects of `saved`, in its order."""
    if target or saved:
        target.clear()
        target.update(saved)
