"""Outputs that are probabilities already, given to a loss that takes logits."""

from torch import Tensor

from homotopy_cli.problems.calling import result_outputs
from homotopy_cli.problems.problem import Problem

_LEAST = 16  # outputs: logits of so many are all within 0..1 by chance too rarely to matter
_CLASSES = ("cross_entropy", "next_token", "CrossEntropyLoss")
_BINARY = ("bce", "BCEWithLogitsLoss", "binary_cross_entropy_with_logits")


def applied_twice(problem: Problem) -> str:
    """A warning where the model ends in the sigmoid or softmax that the loss applies again.

    Such a loss is finite and differentiable, so nothing else shows that it is another function
    than the one that was trained.

    Args:
        problem: Its loss's name tells whether logits are wanted; any other costs nothing.

    Returns:
        One sentence, or "". Costs one forward pass of the first batch.
    """
    name = problem.criterion_name.rpartition(":")[2].rpartition(".")[2]
    if name not in (*_CLASSES, *_BINARY) or problem.loss.predict is None:
        return ""
    outputs = result_outputs(problem.batch_outputs(0)[0]).detach()
    if outputs.numel() < _LEAST or not bool(((outputs >= 0) & (outputs <= 1)).all()):
        return ""
    if name in _BINARY:
        return (
            f"warning: all {outputs.numel()} outputs are within 0..1, and {name} takes logits: "
            "if the model ends in a sigmoid, --loss torch.nn.functional:binary_cross_entropy"
        )
    if not _sums_to_one(outputs):
        return ""
    return (
        f"warning: the outputs are probabilities that sum to 1, and {name} takes logits: if the "
        "model ends in a softmax, --loss FILE.py:CALLABLE with nll_loss of their logarithm"
    )


def _sums_to_one(outputs: Tensor) -> bool:
    """Over the classes, on the last axis or on axis 1."""
    axes = {outputs.ndim - 1, min(1, outputs.ndim - 1)}
    sums = (outputs.float().sum(axis) for axis in axes if outputs.shape[axis] > 1)
    return any(bool(((total - 1).abs() < 1e-2).all()) for total in sums)
