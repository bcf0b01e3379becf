"""What a normalisation layer divides by: the variance of each row that it normalises."""

import math

import torch
from torch import Tensor

from homotopy_cli.curvature.components_attention import widened
from homotopy_cli.curvature.components_sample import Sample
from homotopy_cli.records import NormComponent


class NormSite:
    """The scales that one normalisation has divided by, over all its calls."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.sigma = Sample()
        self._var_min = math.inf
        self._eps_over_var = 0.0

    def add(self, variances: Tensor, eps: float, added: float = 0.0) -> bool:
        """Take the variances (RMSNorm: mean squares) of one call; True if all were finite.

        What is divided by is sqrt(variance + eps) + added, and eps_over_var is by how much its
        square exceeds the variance, over the variance.
        """
        finite = variances.isfinite()
        values = variances[finite].double()
        if values.numel():
            smallest = max(values.min().item(), 0.0)
            self._var_min = min(self._var_min, smallest)
            extra = eps + added * (2 * math.sqrt(smallest + eps) + added)
            share = extra / smallest if smallest > 0 else (math.inf if extra > 0 else 0.0)
            self._eps_over_var = max(self._eps_over_var, share)
            self.sigma.add(values.clamp(min=0).sqrt())
        return bool(finite.all())

    def absorb(self, other: "NormSite") -> None:
        """Pool the rows of another rank."""
        self.sigma.absorb(other.sigma)
        self._var_min = min(self._var_min, other._var_min)
        self._eps_over_var = max(self._eps_over_var, other._eps_over_var)

    def record(self, name: str) -> NormComponent:
        """The site as plain numbers; eps_over_var is inf where a variance is 0 and eps is not."""
        overflows = self._var_min < 1e-308
        return NormComponent(
            name=name,
            kind=self.kind,
            sigma_min=self.sigma.smallest,
            sigma_p01=self.sigma.quantile(0.01),
            eps_over_var=self._eps_over_var,
            seed_kappa=None if overflows else 1 / self._var_min,
        )


def over_last(values: Tensor, shape: object, *, centred: bool) -> Tensor:
    """Variance, or mean square, over the last axes, whose sizes `shape` lists."""
    axes = tuple(range(-len(shape) if hasattr(shape, "__len__") else -1, 0))
    values = widened(values)
    return values.var(axes, correction=0) if centred else values.square().mean(axes)


def over_groups(values: Tensor, n_groups: int) -> Tensor:
    """Variance of each group of channels of each example, (batch, groups)."""
    return widened(values).reshape(values.shape[0], n_groups, -1).var(-1, correction=0)


def over_batch(values: Tensor) -> Tensor:
    """Variance of each channel (axis 1) over all other axes."""
    return widened(values).transpose(0, 1).flatten(1).var(-1, correction=0)


def smallest_step(values: Tensor) -> float:
    """The eps of rms_norm when none is given: torch computes half precision in float32."""
    return torch.finfo(widened(values).dtype).eps
