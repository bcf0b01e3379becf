"""Activation checkpointing: a block keeps its inputs only, and runs again during backward().

Chen et al. 2016 (arXiv:1604.06174), by torch.utils.checkpoint without reentrance. The blocks
are the children of a top-level nn.Sequential or nn.ModuleList: a GPT's blocks, a ResNet's, a
Sequential's layers. A block's `forward` is replaced while training's forward pass runs and put
back after it, so that probes, evaluations, copies and state dicts see the plain model.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from homotopy_cli.errors import RecipeError


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The model's blocks that have trainable parameters, in order; empty where it has none."""
    lists = (nn.Sequential, nn.ModuleList)
    tops = [model] if isinstance(model, lists) else list(model.children())
    found = [block for top in tops if isinstance(top, lists) for block in top]
    return [b for b in found if any(p.requires_grad for p in b.parameters())]


class Recomputed:
    """Context in which the blocks of a model forget what they can compute again.

    Raises:
        RecipeError: The model has no blocks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.blocks = blocks_of(model)
        if not self.blocks:
            raise RecipeError(
                f"activation_checkpointing: {type(model).__name__} has no blocks: no "
                "nn.Sequential or nn.ModuleList with parameters at its top level",
                hint="keep its repeated layers in an nn.ModuleList, or leave the key out",
            )
        self._forwards = [_again(block) for block in self.blocks]

    def __enter__(self) -> None:
        for block, forward in zip(self.blocks, self._forwards, strict=True):
            vars(block)["forward"] = forward

    def __exit__(self, *_: object) -> None:
        for block in self.blocks:
            del vars(block)["forward"]

    def refuse_batch_norm(self) -> None:
        """Raise RecipeError where a compiled block would count its statistics twice."""
        if any(_norms(block) for block in self.blocks):
            raise RecipeError(
                "activation_checkpointing: with compile, blocks with batch norm would update "
                "their running statistics twice a step",
                hint="leave out compile or activation_checkpointing",
            )


def _again(block: nn.Module) -> Callable[..., Any]:
    """The block's forward as one that is recomputed; its dropout draws the same mask twice."""
    plain = block.forward
    norms = _norms(block)

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _spare_statistics(norms)

    more: dict[str, Any] = {"context_fn": contexts} if norms else {}

    def forward(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(plain, *args, use_reentrant=False, **more, **kwargs)

    return forward


def _norms(block: nn.Module) -> list[_BatchNorm]:
    return [m for m in block.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextmanager
def _spare_statistics(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norm counts into copies of its running statistics; the second pass counts nothing."""
    kept = [(norm, dict(norm._buffers)) for norm in norms]
    for norm, buffers in kept:
        for name, buffer in buffers.items():
            norm._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
