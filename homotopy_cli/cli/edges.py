"""Where each optimizer would start to diverge on a quadratic as sharp as this one."""

from typing import Any

MOMENTUM = 0.9  # the momentum that the momentum edge is quoted for


def edges(estimate: Any, metric: Any) -> dict[str, float | None]:
    """Learning rates of the edges: η·λ = c.

    SGD 2/λ_max; heavy ball 2(1+β)/λ_max at β = 0.9; `own`, the checkpoint's optimizer with its
    saved settings, in its own metric; `adam` is the same where that is adaptive. None where
    λ <= 0, for then there is no such edge, or where no optimizer state is at hand. Of
    P^-1/2 H P^-1/2 the eigenvalues say nothing about steps without P: no edge of SGD then.
    """
    top = None if estimate.curvature == "preconditioned" else estimate.lambda_max
    sharp = estimate.preconditioned_sharpness
    lam = top.value if top is not None and top.value > 0 else None
    scaled = sharp.value if sharp is not None and sharp.value > 0 else None
    adam = own = None
    if metric is not None and metric.diagonal is not None:
        own = adam = None if scaled is None else metric.threshold / scaled
    elif metric is not None:
        own = None if lam is None else metric.threshold / lam
    return {
        "sgd": None if lam is None else 2.0 / lam,
        "momentum": None if lam is None else 2.0 * (1.0 + MOMENTUM) / lam,
        "adam": adam,
        "own": own,
    }


def own_threshold(estimate: Any, metric: Any) -> float | None:
    """c of the checkpoint's optimizer, where the λ that it is about was measured."""
    if metric is None:
        return None
    scaled = metric.diagonal is not None
    measured = estimate.preconditioned_sharpness if scaled else estimate.lambda_max
    return None if measured is None else metric.threshold


def edge_ratios(edge: dict[str, float | None], lr: float | None) -> dict[str, float | None]:
    """The rate over each edge: above 1 is beyond it."""
    return {name: None if lr is None or not at else lr / at for name, at in edge.items()}


def rate_in_use(asked: float | None, metric: Any) -> tuple[float | None, str]:
    """(learning rate, where it comes from): the option, else the checkpoint's optimizer."""
    if asked is not None:
        return asked, "--lr"
    if metric is None or not metric.lr:
        return None, ""
    return metric.lr, f"the checkpoint's {metric.name}"
