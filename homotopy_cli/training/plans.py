"""The recipe's `scheduler` and `curvature` sections become a scheduler and a probe."""

import math
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from homotopy_cli.errors import RecipeError
from homotopy_cli.problems.criteria import Loss
from homotopy_cli.recipe.schema import FIXED_SPECS
from homotopy_cli.schedulers import groups
from homotopy_cli.schedulers.base import CurvatureScheduler
from homotopy_cli.schedulers.baselines import build_schedule
from homotopy_cli.schedulers.replay import replay
from homotopy_cli.schedulers.settings import GuardSettings
from homotopy_cli.schedulers.trust_guard import make_guard
from homotopy_cli.training.probing import NoProbe, PassiveProbe, Probe, SchedulerProbe

# The classes keep 1 % of the schedule at the least. A recipe must be able to ask for lr 1e38 and
# get what curvature allows, so here nothing outranks the ceiling unless the recipe says so.
FLOOR = 0.0
CLASSES = {
    "homotopy": ("homotopy", "HomotopyLR"),
    "adaptive_homotopy": ("adaptive", "AdaptiveHomotopyLR"),
    "per_layer_homotopy": ("per_layer", "PerLayerHomotopyLR"),
    "curvature_warmup": ("warmup", "CurvatureWarmup"),
    "curvature_adaptive": ("facade", "CurvatureAdaptiveLR"),
}


def build_scheduler(
    recipe: Any, optimizer: Optimizer, model: nn.Module, loss: Loss, base_dir: Path
) -> Any:
    """torch's LambdaLR for a fixed schedule, else the curvature scheduler over its inner one.

    Raises:
        RecipeError: Numbers that do not fit together.
        LogError: A log to replay that cannot be read.
    """
    spec = recipe.scheduler
    if spec.name == "replay":
        return _replayed(spec, optimizer, base_dir / spec.path)
    if spec.name in FIXED_SPECS:
        return _fixed(spec, recipe.steps, optimizer=optimizer)
    module, name = CLASSES[spec.name]
    factory = getattr(import_module(f"homotopy_cli.schedulers.{module}"), name)
    settings = {"floor": FLOOR, **_probing(recipe)}
    own = spec.model_dump(exclude={"name", "inner"}, exclude_none=True)
    if "budget" in own:
        own["budget"] = own["budget"] or math.inf
    if "layers_freq" in own:
        own["layers_freq"] *= own.get("estimation_freq", settings["estimation_freq"])
    if spec.inner is not None:
        own["inner"] = _fixed(spec.inner, recipe.steps)
    try:
        return factory(optimizer, model, loss, **{**settings, **own})
    except ValueError as error:
        raise RecipeError(f"scheduler: {error}", hint="recipes/README.md lists ranges") from error


def build_probe(
    recipe: Any, scheduler: Any, optimizer: Optimizer, model: nn.Module, loss: Loss
) -> Probe:
    """The scheduler's own probe, or a passive one with the recipe's budget, or none."""
    if isinstance(scheduler, CurvatureScheduler):
        return SchedulerProbe(scheduler)
    if not recipe.curvature.freq:
        return NoProbe()
    return PassiveProbe(make_guard(optimizer, model, loss, GuardSettings(**_probing(recipe))))


def _probing(recipe: Any) -> dict[str, Any]:
    """The `curvature` section as keywords: periods in steps, no limit as infinity."""
    section = recipe.curvature
    freq = section.freq or GuardSettings.estimation_freq
    settings = {
        "estimation_freq": freq,
        "budget": section.budget or math.inf,
        "layers_freq": section.layers_freq * freq,
        "total_steps": recipe.steps,
        "seed": recipe.seed,
    }
    if section.signal != "auto":  # auto is every class's own choice
        settings["signal"] = section.signal
    if section.probe_fraction is not None:
        settings["probe_fraction"] = section.probe_fraction
    return settings


def _replayed(spec: Any, optimizer: Optimizer, path: Path) -> LambdaLR:
    """The rates of the log at `path`, or its placebo."""
    from homotopy_cli.runlog.reader import read_log

    log = read_log(path)
    rates = [float(x) for x in log.steps.get("lr", ())]
    plan = [float(x) for x in log.steps.get("schedule_lr", rates)]
    try:
        factors = replay(
            rates,
            plan,
            base_lr=max(groups.rates(optimizer)),
            blocks=spec.blocks,
            seed=spec.shuffle,
        )
    except ValueError as error:
        raise RecipeError(
            f"scheduler: {path}: {error}", hint="a log with lr at each step"
        ) from error
    return LambdaLR(optimizer, factors)


def _fixed(spec: Any, steps: int, *, optimizer: Optimizer | None = None) -> Any:
    settings = spec.model_dump(exclude={"name"}, exclude_none=True)
    try:
        return build_schedule(spec.name, steps, optimizer=optimizer, **settings)
    except ValueError as error:
        raise RecipeError(
            f"scheduler: {error}", hint="raise steps, or shorten the warmup or the decay"
        ) from error
