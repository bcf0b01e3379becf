"""The graph behind a loss: every node once, and parameters that it reaches past their module."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.naming import listed


def nodes(tensors: Iterable[Tensor | None]) -> Iterator[Any]:
    """Yield every node behind some tensors once."""
    todo = [t.grad_fn for t in tensors if t is not None and t.grad_fn is not None]
    seen = set(todo)
    while todo:
        node = todo.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                todo.append(following)


def refuse_captured(result: Any, leaves: Mapping[str, Tensor], swaps: Mapping[int, str]) -> None:
    """Raise where a loss depends on a parameter that its module was not asked for.

    While a model is measured its modules hold leaves in place of their parameters. A loss that
    keeps the parameters themselves, in a list or a closure, uses two tensors for one parameter, and
    the gradient with respect to the leaf misses a part.

    Args:
        result: A loss or a model's outputs, with their graph.
        leaves: What is differentiated, by name.
        swaps: id of a parameter -> the name of its leaf. By identity: a copy that shares storage
            (detach) is another variable in training too.

    Raises:
        ProblemError: Such parameters, by name.
    """
    used = {id(leaf) for leaf in leaves.values()}
    behind = nodes([result] if isinstance(result, Tensor) else [])
    variables = (getattr(node, "variable", None) for node in behind)
    found = {id(v) for v in variables if v is not None} - used
    captured = sorted({swaps[i] for i in found if i in swaps})
    if captured:
        one = len(captured) == 1
        raise ProblemError(
            f"the loss reaches parameter{'' if one else 's'} {listed(captured, 4)} past the module "
            f"that owns {'it' if one else 'them'}: that part of the gradient would be missing",
            hint="read parameters from the module inside forward or the loss, as self.head.weight "
            "or model.parameters(); a list, tuple or closure made before keeps other tensors",
        )
