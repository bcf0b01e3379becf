"""What an autograd graph says about itself: kinks, custom functions, derivatives cut off."""

from collections.abc import Sequence

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from homotopy_cli.problems.graph import nodes

# Nodes whose first derivative jumps: a finite step across the jump measures another curvature.
_KINKED = (
    "Abs",
    "Amax",
    "Amin",
    "Aminmax",
    "Ceil",
    "Clamp",
    "Cummax",
    "Cummin",
    "Floor",
    "FractionalMaxPool",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Kthvalue",
    "LeakyRelu",
    "Max",
    "Median",
    "Min",
    "PreluKernel",
    "Relu",
    "Round",
    "RreluWithNoise",
    "Sgn",
    "Sign",
    "Softshrink",
    "Sort",
    "Threshold",
    "Topk",
    "Trunc",
    "Where",
)


def has_dead_end(grads: Sequence[Tensor | None]) -> bool:
    """Whether the graph holds the node that @once_differentiable leaves behind.

    The node raises when it is run, but it leads to no parameter, so autograd.grad prunes it
    and would return a wrong product without a word.
    """
    return any(node.name() == "torch::autograd::Error" for node in nodes(grads))


def operations(loss: Tensor) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the operations with kinks and the custom autograd functions behind a loss.

    Returns:
        (("MaxPool2DWithIndices", "Relu"), ("MyFunction",)), each sorted.
    """
    kinked, custom = set(), set()
    for node in nodes([loss]):
        name = node.name().partition("Backward")[0]
        if isinstance(node, BackwardCFunction):
            custom.add(name)
        elif name.startswith(_KINKED):
            kinked.add(name)
    return tuple(sorted(kinked)), tuple(sorted(custom))
