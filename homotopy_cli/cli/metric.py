"""The saved optimizer's own metric P and its edge of stability, for the probe."""

from dataclasses import dataclass
from typing import Any

from homotopy_cli.errors import ProblemError


@dataclass(frozen=True)
class SavedMetric:
    """What a checkpoint's optimizer state says about stability."""

    name: str  # "adamw"
    diagonal: Any | None  # P, tensor (n,) in the problem's order; None for P = I
    threshold: float  # c: the edge is at lr·λ_max(P⁻¹H) = c
    lr: float  # of the first group, as saved


def saved_metric(loaded: Any) -> tuple[SavedMetric | None, str]:
    """The metric of the optimizer state in a checkpoint, or None and why in words."""
    import torch

    from homotopy_cli.curvature.families import saved_family
    from homotopy_cli.curvature.precondition import saved_preconditioner
    from homotopy_cli.schedulers.thresholds import live_threshold, stability_threshold

    info, problem = loaded.optimizer_info, loaded.problem
    if info is None:
        return None, ""
    if info.parameters is None:
        return None, "its optimizer state does not fit the model: no preconditioned curvature"
    state, names = _of_measured(info, problem.params)
    ordered = [problem.params[name] for name in names]
    try:
        flat = saved_preconditioner(state, ordered, family=info.family)
    except ProblemError as error:
        return None, error.message
    group = info.settings
    family = saved_family(info.family, group)
    if flat is not None:
        sizes = [p.numel() for p in ordered]
        parts = dict(zip(names, flat.split(sizes), strict=True))
        flat = torch.cat([parts[name] for name in problem.params])
    lr = float(group.get("lr", 0.0))
    edge = stability_threshold if flat is None else live_threshold  # as in training
    c = edge(group, (info.step or 0) + 1, family=family, lr=lr)
    return SavedMetric(info.family or family, flat, c, lr), ""


def _of_measured(info: Any, params: Any) -> tuple[dict[str, Any], list[str]]:
    """(The optimizer's state, names) of the measured parameters: frozen ones have no row in H."""
    groups = info.state_dict["param_groups"]
    named = dict(zip((i for g in groups for i in g["params"]), info.parameters, strict=True))
    kept = [{**g, "params": [i for i in g["params"] if named[i] in params]} for g in groups]
    return {**info.state_dict, "param_groups": kept}, [n for n in named.values() if n in params]
