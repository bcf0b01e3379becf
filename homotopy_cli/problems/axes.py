"""On which axis a cross entropy's outputs hold the classes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from homotopy_cli.problems.calling import result_outputs, split_target
from homotopy_cli.problems.nest import Batch, is_index

if TYPE_CHECKING:
    from homotopy_cli.problems.problem import Problem


def class_axis(outputs: Tensor, target: Tensor, batch: Batch) -> tuple[int, str]:
    """(The axis of the classes, why it and not the other that fits; "" if one fits).

    torch's convention is axis 1. The last is taken where shapes leave nothing else, where class
    probabilities sum to 1 on it and not on axis 1, and where the batch's inputs are tokens, one
    for each position: language models return (rows, length, vocabulary).

    Args:
        outputs: (rows, classes, ...) or (rows, ..., classes).
        target: Class indices in the outputs' shape without the classes, or probabilities in all
            of it.
        batch: Whose inputs are looked at.
    """
    last = outputs.ndim - 1
    if last < 2:
        return last, ""
    soft = target.is_floating_point() and target.shape == outputs.shape
    positions = outputs.shape[:-1]
    if not soft:
        at_end = positions == target.shape
        if not at_end or (outputs.shape[0], *outputs.shape[2:]) != tuple(target.shape):
            return (last if at_end else 1), ""
    else:
        sums = [(target.sum(axis) - 1).abs().max().item() < 1e-3 for axis in (1, last)]
        if sums[0] != sums[1]:
            axis = 1 if sums[0] else last
            return axis, f"targets sum to 1 on axis {axis}"
    inputs, _ = split_target(batch)
    tokens = inputs.get("input_ids") if isinstance(inputs, Mapping) else inputs
    if isinstance(tokens, Tensor) and is_index(tokens) and tokens.shape == positions:
        return last, "inputs are tokens, one for each position"
    return 1, "torch's convention"


def axis_note(problem: "Problem") -> str:
    """Which axis `cross_entropy` took for the classes where two fit, and why; or "".

    Costs one forward pass of the first batch, where targets have more than one axis.
    """
    batch = problem.batches[0] if problem.batches else None
    _, target = split_target(batch)
    if problem.criterion_name != "cross_entropy" or target is None or target.ndim < 2:
        return ""
    outputs = result_outputs(problem.batch_outputs(0)[0])
    axis, why = class_axis(outputs, target, batch)
    if not why:
        return ""
    return f"cross_entropy takes axis {axis} of outputs {list(outputs.shape)} for classes: {why}"
