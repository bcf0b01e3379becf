"""Start vectors remembered between probes, so that two products do what ten did.

Between optimizer steps an eigenvector turns by little, so the last one is an excellent start.
They live in parameter space: the eigenvector y of P^-1/2 H P^-1/2 is kept as x = P^-1/2 y,
which stays an approximate solution of Hx = λPx when P moves.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from homotopy_cli.linalg.extreme import ExtremeResult
from homotopy_cli.linalg.vectors import dot, gaussian, norm, part_length, signs, unit

OTHER_END = 0.1  # share of the other end's vector: one Krylov space then holds both
LONG = 2**20  # entries from which normal numbers take longer than the product on a GPU
NOISE = 0.05  # random share of ‖v‖: an exact eigenvector could never leave its own line


class WarmStarts:
    """Start vectors (n,) by name; one of another size counts as none: that costs products only."""

    def __init__(self) -> None:
        self._vectors: dict[str, Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._vectors

    def start(
        self,
        key: str,
        n: int,
        *,
        generator: torch.Generator,
        sqrt: Tensor | None = None,
        device: torch.device | None = None,
    ) -> Tensor | None:
        """Return a start vector (n,) for this key, or None when there is none.

        Args:
            key: Which operator.
            n: Its size.
            generator: Draws the small random part.
            sqrt: P^1/2 of now, shape (n,), for a preconditioned operator.
            device: The operator's: vectors read from a file lie on the CPU.
        """
        kept = self._vectors.get(key)
        if kept is None or kept.numel() != part_length(n):
            return None
        kept = kept if device is None else kept.to(device)
        vector = unit(kept if sqrt is None else kept * sqrt.to(kept))
        if vector is None:
            return None
        draw = signs if n > LONG else gaussian
        noise = draw(n, generator=generator, dtype=kept.dtype, device=kept.device)
        return vector.add_(noise, alpha=NOISE / n**0.5)

    def keep(self, key: str, found: ExtremeResult, *, inv_sqrt: Tensor | None = None) -> None:
        """Remember the two ends' vectors, the larger one foremost.

        Args:
            key: Which operator.
            found: Its extreme pairs.
            inv_sqrt: P^-1/2 of now, shape (n,), for a preconditioned operator.
        """
        first = max((found.largest, found.smallest), key=lambda pair: abs(pair.value))
        other = found.smallest if first is found.largest else found.largest
        vector = first.vector
        if other is not first:
            vector = torch.add(vector, other.vector, alpha=OTHER_END)
        if inv_sqrt is not None:
            vector = vector * inv_sqrt.to(vector)
        if 0.0 < norm(vector) < float("inf"):
            self._vectors[key] = vector / norm(vector)

    def sums(self) -> dict[str, float]:
        """Return the sum of each vector: what ranks compare."""
        return {key: dot(v, torch.ones_like(v)) for key, v in self._vectors.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return the vectors; plain tensors, loadable with weights_only=True."""
        return dict(self._vectors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over saved vectors."""
        self._vectors = {key: vector.clone() for key, vector in state.items()}
