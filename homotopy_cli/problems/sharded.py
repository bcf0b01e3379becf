"""Models under FSDP2 (`fully_shard`): a plain copy with whole parameters.

FSDP's own forward replaces the parameters of a module and cannot be differentiated twice. The
copy has the original classes, none of FSDP's hooks, and every parameter gathered from its
shards; the model itself is not touched. Costs one all-gather of the parameters and their
memory, on every rank.
"""

import copy
import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from homotopy_cli.problems.wrappers import clean_name

_DTENSOR = "torch.distributed.tensor"
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def is_sharded(model: nn.Module) -> bool:
    """Whether a parameter is a DTensor, or a module belongs to FSDP2."""
    if "torch.distributed.fsdp" not in sys.modules and _DTENSOR not in sys.modules:
        return False  # such a model cannot exist; and the import is not paid for
    from torch.distributed.fsdp import FSDPModule

    return any(isinstance(m, FSDPModule) for m in model.modules()) or any(
        is_dtensor(p) for p in model.parameters()
    )


def full(tensor: Tensor) -> Tensor:
    """A DTensor's whole value, gathered from all ranks; another tensor as it is."""
    return tensor.full_tensor() if is_dtensor(tensor) else tensor


def gathered(model: nn.Module) -> nn.Module:
    """A plain copy of a sharded model with whole parameters; any other model itself.

    Args:
        model: Unwrapped. All ranks of its mesh must call this.
    """
    if not is_sharded(model):
        return model
    reshard(model)  # as state_dict() does: else a forward pass may have left plain tensors
    memo: dict[int, Any] = {}
    modules = list(model.modules())
    for module in modules:
        memo[id(module)] = object.__new__(original_class(module))
    for parameter in model.parameters():
        whole = full(parameter.detach()).clone()
        memo[id(parameter)] = nn.Parameter(whole, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = full(buffer.detach()).clone()
    for module in modules:
        for name, value in vars(module).items():
            kept = _own_hooks(value) if name in _HOOKS else value
            vars(memo[id(module)])[name] = _copied(kept, memo)
    return memo[id(model)]


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """A deep copy; the object itself where it cannot be copied (a process group, a stream)."""
    try:
        return copy.deepcopy(value, memo)
    except (TypeError, RuntimeError, ValueError, AttributeError):
        return value


def reshard(model: nn.Module) -> None:
    """Free what a forward pass without backward leaves gathered, in every FSDP2 module."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def originals(model: nn.Module, names: Mapping[str, Any]) -> dict[str, Tensor]:
    """The model's own parameters under `names`, for its optimizer's state."""
    live = {clean_name(name): p for name, p in model.named_parameters()}
    return {name: live[name] for name in names}


def is_dtensor(tensor: Tensor) -> bool:
    """Whether the tensor is one rank's part of a longer one."""
    if _DTENSOR not in sys.modules:
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def original_class(module: nn.Module) -> type:
    """The class from before fully_shard put its own in front."""
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(module, FSDPModule):
        return type(module)
    return next(c for c in type(module).__mro__[1:] if not issubclass(c, FSDPModule))


def _own_hooks(hooks: Mapping[int, Any]) -> OrderedDict[int, Any]:
    """The hooks that torch.distributed did not put there."""
    return OrderedDict(
        (key, hook)
        for key, hook in hooks.items()
        if not (getattr(hook, "__module__", None) or "").startswith("torch.distributed")
    )


def shard_of(tensor: Tensor) -> Tensor:
    """This rank's shard of a DTensor; another tensor itself."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
