"""The saved optimizer's own metric P and its edge of stability, for the probe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from homotopy_cli.errors import ProblemError


@dataclass(frozen=True)
class SavedMetric:
    """What a checkpoint's optimizer state says about stability."""

    name: str  # "adamw"
    diagonal: Any | None  # P, tensor (n,) in the problem's order; None for P = I
    threshold: float  # c: the edge is at lr·λ_max(P⁻¹H) = c
    lr: float  # as saved; the largest where the groups differ, whose ratios P then holds


def saved_metric(loaded: Any) -> tuple[SavedMetric | None, str]:
    """(The metric of the optimizer state in a checkpoint or None, what is to be said of it).

    Groups with differing rates move as if P were larger where the rate is smaller, as in
    training: see schedulers.metric.group_metric. Parameters that the optimizer does not hold
    have P = ∞. The threshold is the smallest of the groups'.
    """
    from homotopy_cli.curvature.families import saved_family
    from homotopy_cli.curvature.precondition import saved_preconditioner
    from homotopy_cli.schedulers.metric import differ
    from homotopy_cli.schedulers.thresholds import live_threshold, stability_threshold

    info, problem = loaded.optimizer_info, loaded.problem
    if info is None:
        return None, ""
    groups, params, flat = info.state_dict["param_groups"], problem.params, None
    if info.parameters is None:
        alike = info.unclear and len({str(group.get("lr", 0.0)) for group in groups}) == 1
        if not alike or saved_family(info.family, _settings(groups)) != "sgd":
            return None, info.unmatched
        names: list[str] = []  # whose is whose does not matter: P = I and one rate
    else:
        state, names = _of_measured(info, params)
        groups = [group for group in state["param_groups"] if group["params"]]
        try:
            flat = saved_preconditioner(state, [params[n] for n in names], family=info.family)
        except ProblemError as error:
            return None, error.message
    rates = [float(group.get("lr", 0.0)) for group in groups]
    family = saved_family(info.family, _settings(groups))
    edge = stability_threshold if flat is None else live_threshold  # as in training
    at = (info.step or 0) + 1
    c = min(edge(g, at, family=family, lr=r) for g, r in zip(groups, rates, strict=True))
    said = []
    if info.by_shape and (flat is not None or differ(rates)):
        said.append(
            f"optimizer state of {len(groups)} groups without names: matched by shape, in the "
            "model's order within each group"
        )
    if differ(rates):
        said.append(
            f"learning rates of {len(groups)} groups differ, {min(rates):.3g} to {max(rates):.3g}: "
            "P⁻¹ holds each group's rate over the largest, and the largest is the learning rate"
        )
    scales = [(rate, len(group["params"])) for rate, group in zip(rates, groups, strict=True)]
    if flat is not None or differ(rates):
        flat = _joined(flat, scales if differ(rates) else [], names, params)
    return SavedMetric(info.family or family, flat, c, max(rates)), "; ".join(said)


def _settings(groups: Sequence[Mapping[str, Any]]) -> set[str]:
    return {key for group in groups for key in group}


def _joined(
    flat: Any | None, scales: list[tuple[float, int]], names: list[str], params: Mapping[str, Any]
) -> Any:
    """P in the order of `params`, with each group's (rate, number of parameters) in it.

    `flat` is in the order of `names`, None for ones.
    """
    import torch

    from homotopy_cli.schedulers.metric import rate_weight

    parts = {n: torch.full_like(p.detach(), torch.inf).reshape(-1) for n, p in params.items()}
    held = {name: torch.ones_like(parts[name]) for name in names}
    if flat is not None:
        sizes = [params[name].numel() for name in names]
        held = dict(zip(names, flat.split(sizes), strict=True))
    top, counted = max((rate for rate, _ in scales), default=0.0), iter(names)
    for rate, count in scales:
        for _ in range(count):
            name = next(counted)
            held[name] = held[name] * rate_weight(top, rate)
    return torch.cat([{**parts, **held}[name] for name in params])


def _of_measured(info: Any, params: Any) -> tuple[dict[str, Any], list[str]]:
    """(The optimizer's state, names) of the measured parameters: frozen ones have no row in H."""
    groups = info.state_dict["param_groups"]
    named = dict(zip((i for g in groups for i in g["params"]), info.parameters, strict=True))
    kept = [{**g, "params": [i for i in g["params"] if named[i] in params]} for g in groups]
    return {**info.state_dict, "param_groups": kept}, [n for n in named.values() if n in params]
