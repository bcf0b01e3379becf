"""The differentiated parameters of a module: detached leaves, tied tensors once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.wrappers import clean_name

_WORKING = (torch.float32, torch.float64)


@dataclass
class Parameters:
    """What a Problem differentiates, and how the model is given it."""

    leaves: dict[str, Tensor]
    originals: dict[str, Tensor]
    dtype: torch.dtype
    device: torch.device
    frozen: list[str] = field(default_factory=list)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    module_kinds: dict[str, str] = field(default_factory=dict)
    swaps: dict[int, Tensor] = field(default_factory=dict)  # id of original -> replacement

    def named(self) -> dict[int, str]:
        """id of an original, or of its whole copy under FSDP2 -> the name of its leaf."""
        names = {id(leaf): name for name, leaf in self.leaves.items()}
        copied = {i: names[id(t)] for i, t in self.swaps.items() if id(t) in names}
        return {id(p): name for name, p in self.originals.items()} | copied


def collect(
    model: nn.Module, dtype: torch.dtype | None, device: torch.device | str | None
) -> Parameters:
    """Leaves for the trainable parameters of an unwrapped model.

    Raises:
        ProblemError: None is trainable, or one cannot be measured (complex, lazy, meta,
            scripted).
    """
    named = [(clean_name(name), p) for name, p in model.named_parameters()]
    for name, parameter in named:
        _check(name, parameter)
    scripted = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        raise ProblemError(
            f"{_whose(scripted[0])} is TorchScript: its parameters cannot be replaced",
            hint="build the model from its Python class and load the state into it",
        )
    trainable = [(name, p) for name, p in named if p.requires_grad]
    if not trainable:
        raise ProblemError(
            f"no trainable parameter: {len(named)} parameters, all frozen or none",
            hint="call requires_grad_(True) on what is to be measured",
        )
    if dtype is None:
        kinds = {p.dtype for _, p in named if p.is_floating_point()}
        dtype = next(iter(kinds)) if len(kinds) == 1 and kinds <= set(_WORKING) else torch.float32
    device = torch.device(device) if device is not None else trainable[0][1].device
    leaves = {name: _leaf(p, dtype, device) for name, p in trainable}
    swaps = {id(p): leaves[name] for name, p in trainable}
    for _, parameter in named:
        if not parameter.requires_grad:
            kind = dtype if parameter.is_floating_point() else parameter.dtype
            swaps[id(parameter)] = parameter.detach().to(device, kind)
    first = {id(p): name for name, p in named}
    aliases: dict[str, tuple[str, ...]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        kept = first[id(parameter)]
        if clean_name(name) != kept:
            aliases[kept] = (*aliases.get(kept, ()), clean_name(name))
    return Parameters(
        leaves,
        dict(trainable),
        dtype,
        device,
        [name for name, p in named if not p.requires_grad],
        aliases,
        {clean_name(name): type(module).__name__ for name, module in model.named_modules()},
        swaps,
    )


def from_tensors(params: Mapping[str, Tensor]) -> Parameters:
    """Leaves that share storage with the given tensors.

    Raises:
        ProblemError: No tensor, or tensors of several dtypes or devices.
    """
    for name, tensor in params.items():
        _check(name, tensor)
    kinds = {(tensor.dtype, tensor.device) for tensor in params.values()}
    if len(kinds) != 1:
        raise ProblemError(
            f"{len(params)} parameters of {len(kinds)} kinds of dtype and device, one is wanted",
            hint="convert them with .to(dtype) first",
        )
    dtype, device = next(iter(kinds))
    leaves = {name: _leaf(tensor, dtype, device) for name, tensor in params.items()}
    return Parameters(leaves, dict(params), dtype, device)


def _leaf(parameter: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    return parameter.detach().to(device, dtype).requires_grad_()


def _check(name: str, parameter: Tensor) -> None:
    """Raise for a parameter that has no real numbers to differentiate."""
    if isinstance(parameter, UninitializedParameter):
        words, hint = "has no shape yet (lazy module)", "run the model once before measuring"
    elif parameter.is_meta:
        words, hint = "has no values (meta device)", "load the weights before measuring"
    elif parameter.is_complex():
        words, hint = "is complex", "store the real and imaginary parts (torch.view_as_real)"
    else:
        return
    raise ProblemError(f'parameter "{name}" {words} and cannot be measured', hint=hint)


def _whose(name: str) -> str:
    return f'module "{clean_name(name)}"' if name else "the model"
