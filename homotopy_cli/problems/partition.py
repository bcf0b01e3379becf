"""Partitions: disjoint blocks ("layers") that together cover the parameters of a Problem."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.problem import Problem

ROOT = "(root)"
REST = "(rest)"


@dataclass(frozen=True)
class Block:
    """One subset of the parameters; H_bb is its diagonal block of the Hessian."""

    name: str  # path of the owning module, "(root)" for the top one
    kind: str  # class name of the owning module, "function", "parameter" or "pattern"
    params: tuple[str, ...]  # keys of problem.params, in their order


@dataclass(frozen=True)
class Partition:
    """Disjoint blocks that cover the parameters; tied tensors are in the first owner's block."""

    blocks: tuple[Block, ...]

    @classmethod
    def by_module(cls, problem: Problem) -> "Partition":
        """One block per module that owns parameters: its weight and bias together."""
        kinds = problem.module_kinds

        def owner(name: str) -> tuple[str, str]:
            path = name.rpartition(".")[0]
            return path or ROOT, kinds.get(path, "function")

        return cls._grouped(problem, owner)

    @classmethod
    def by_parameter(cls, problem: Problem) -> "Partition":
        """One block per parameter tensor."""
        return cls._grouped(problem, lambda name: (name, "parameter"))

    @classmethod
    def by_pattern(cls, problem: Problem, regex: str) -> "Partition":
        """Blocks named by what `regex` finds in a parameter's name; others are "(rest)".

        The block's name is the groups of the match joined by ".", or the whole match:
        `h\\.(\\d+)` makes one block per transformer layer.

        Raises:
            ProblemError: The expression is not valid, or finds nothing.
        """
        try:
            pattern = re.compile(regex)
        except re.error as error:
            raise ProblemError(
                f"layer pattern {regex!r} is not a regular expression: {error}",
                hint="--layers module, --layers parameter, --layers none, or e.g. 'h\\.(\\d+)'",
            ) from error

        def found(name: str) -> tuple[str, str]:
            match = pattern.search(name)
            if match is None:
                return REST, "pattern"
            groups = [group for group in match.groups() if group]
            return ".".join(groups) or match.group() or REST, "pattern"

        partition = cls._grouped(problem, found)
        if [block.name for block in partition.blocks] == [REST]:
            some = ", ".join(list(problem.params)[:3])
            raise ProblemError(
                f"layer pattern {regex!r} matches none of {len(problem.params)} parameter names",
                hint=f"names look like: {some}",
            )
        return partition

    @classmethod
    def _grouped(cls, problem: Problem, key: Callable[[str], tuple[str, str]]) -> "Partition":
        """Blocks by (name, kind), in the order of first appearance."""
        members: dict[tuple[str, str], list[str]] = {}
        for name in problem.params:
            members.setdefault(key(name), []).append(name)
        return cls(tuple(Block(*label, tuple(names)) for label, names in members.items()))
