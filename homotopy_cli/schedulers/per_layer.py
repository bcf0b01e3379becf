"""PerLayerHomotopyLR: one common ceiling, and a factor per layer from its own curvature."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from homotopy_cli.problems.nest import Batch
from homotopy_cli.problems.partition import ROOT
from homotopy_cli.problems.wrappers import clean_name, unwrap
from homotopy_cli.schedulers import rules
from homotopy_cli.schedulers.ceiling import PER_GROUP, SCHEDULE
from homotopy_cli.schedulers.effort import Effort
from homotopy_cli.schedulers.groups import follow_split, unwrapped
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.probing import LossLike

KEEP = 0.5  # share of the old log-multiplier that one new measurement keeps


class PerLayerHomotopyLR(HomotopyLR):
    """lr of layer b = schedule · clip((median λ / λ_b)^½, ¼, 4) · common factor.

    The optimizer's groups are split in place into one group per module that owns parameters,
    each with all options of the group it came from (and its name under "layer"), so that the
    factors reach the optimizer. Optimizer state is kept by parameter and stays. λ_b is the
    largest eigenvalue of the block in the optimizer's own metric; layers are measured every
    `layers_freq` optimizer steps after the burst, where the budget allows. An inner torch scheduler
    that was made before follows the split.

    Without an optimizer, PerLayerHomotopyLR(model, loss_fn, base_lr=0.01) makes a
    plain SGD over the model, at `.optimizer`.

    Args:
        optimizer, model, loss_fn: See CurvatureScheduler.
        power, low, high: See rules.layer_multipliers.
        settings: Keywords of HomotopyLR; layers_freq defaults to 100.
    """

    def __init__(
        self,
        optimizer: Optimizer | nn.Module,
        model: Any = None,
        loss_fn: LossLike = None,
        *,
        power: float = 0.5,
        low: float = 0.25,
        high: float = 4.0,
        **settings: Any,
    ) -> None:
        if isinstance(optimizer, nn.Module):
            network, loss_fn = optimizer, model if model is not None else loss_fn
            rate = settings.get("base_lr") or 0.01
            trainable = [p for p in network.parameters() if p.requires_grad]
            optimizer, model = torch.optim.SGD(trainable, lr=rate), network
        if model is None:
            raise TypeError("PerLayerHomotopyLR needs the model: its modules are the layers")
        settings.setdefault("layers_freq", 100)
        settings.setdefault("scale_decay", False)  # the largest rate moves with its layer's factor
        optimizer = unwrapped(optimizer)
        n_before = len(optimizer.param_groups)
        follow_split(settings.get("inner"), split_groups(optimizer, model), n_before)
        self._bounds = {"power": power, "low": low, "high": high}
        self.multipliers: dict[str, float] = {}
        self._measured_at = -1
        self._curvatures: dict[str, float] = {}
        super().__init__(optimizer, model, loss_fn, **settings)

    def get_per_layer_lr(self, inputs: Any, targets: Any) -> dict[str, float]:
        """Measure every layer now, whatever the budget, and return layer -> learning rate."""
        with torch.enable_grad():
            self._measure((inputs, targets), paired=True)
        self._apply()
        return self.layer_rates()

    def layer_rates(self) -> dict[str, float]:
        """Layer -> the learning rate its group has now."""
        return {group.get("layer", ""): float(group["lr"]) for group in self.optimizer.param_groups}

    @property
    def layer_curvatures(self) -> dict[str, float]:
        """Layer -> λ_b of its last measurement, signed, unit 1/lr; empty before the first."""
        return dict(self._curvatures)

    @property
    def lr_reason(self) -> int:
        """PER_GROUP where no ceiling decides but the layers' factors do."""
        code = super().lr_reason
        moved = any(value != 1.0 for value in self.multipliers.values())
        return PER_GROUP if code == SCHEDULE and moved else code

    def _scheduled(self, step: int) -> list[float]:
        plain = super()._scheduled(step)
        layers = [group.get("layer", "") for group in self.optimizer.param_groups]
        factors = [self.multipliers.get(layer, 1.0) for layer in layers]
        return [r if f == 1.0 else r * f for r, f in zip(plain, factors, strict=True)]

    def _after_probe(self, batch: Batch, *, paired: bool) -> None:
        guard = self._guard
        step, freq = guard.n_steps, guard.settings.layers_freq
        due = not self.multipliers or step - self._measured_at >= freq
        if due and freq and not guard.cadence.in_burst(step) and self._affordable(batch):
            self._measure(batch, paired=paired)

    def _affordable(self, batch: Batch) -> bool:
        """The first measurement always; later ones within the layers' share of the budget."""
        settings = self._guard.settings
        products = 0.5 * settings.lanczos_steps * len(self.optimizer.param_groups)
        return not self.multipliers or self._guard.layers.affords(
            self._guard.probe, batch, settings.probe_fraction, products, self._guard.n_steps
        )

    def _measure(self, batch: Batch, *, paired: bool) -> None:
        """λ_b of every layer in the optimizer's metric -> multipliers, averaged in log space."""
        guard = self._guard
        base = HomotopyLR._scheduled(self, self.last_epoch)
        effort = Effort(guard.settings.probe_fraction, guard.settings.lanczos_steps)
        found = guard.probe.measure_layers(
            batch, effort, paired=paired, step=guard.n_steps, metric=guard.metric(base)
        )
        guard.layers.cadence.spent += found.cost
        guard.seconds += found.seconds
        self._measured_at = guard.n_steps
        self._curvatures = dict(found.lambda_max)
        for name, value in rules.layer_multipliers(found.lambda_max, **self._bounds).items():
            old = self.multipliers.get(name)
            self.multipliers[name] = value if old is None else old**KEEP * value ** (1 - KEEP)
        guard.cadence.period = 1  # the common edge is another one now

    def state_dict(self) -> dict[str, Any]:
        """HomotopyLR's, and the multipliers."""
        return super().state_dict() | {
            "multipliers": dict(self.multipliers),
            "measured_at": self._measured_at,
            "curvatures": dict(self._curvatures),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bitwise."""
        super().load_state_dict(state_dict)
        self.multipliers = dict(state_dict["multipliers"])
        self._measured_at = state_dict["measured_at"]
        self._curvatures = dict(state_dict.get("curvatures", {}))


def split_groups(optimizer: Optimizer, model: nn.Module) -> list[int]:
    """Split every group of the optimizer, in place, into one per owning module of the model.

    Parameters that the model does not own stay together, under the layer "". Groups that have
    been split before are left alone.

    Returns:
        For each group the index of the one it came from.
    """
    before = optimizer.param_groups[:]
    if all("layer" in group for group in before):
        return list(range(len(before)))
    owner: dict[int, str] = {}
    for name, parameter in unwrap(model).named_parameters():
        owner[id(parameter)] = clean_name(name).rpartition(".")[0] or ROOT
    parts = [(i, part) for i, group in enumerate(before) for part in _parts(group, owner)]
    optimizer.param_groups[:] = [part for _, part in parts]
    return [i for i, _ in parts]


def _parts(group: dict[str, Any], owner: dict[int, str]) -> Iterator[dict[str, Any]]:
    layers: dict[str, list[int]] = {}
    for index, parameter in enumerate(group["params"]):
        layers.setdefault(owner.get(id(parameter), ""), []).append(index)
    for layer, indices in layers.items():
        part = dict(group) | {"layer": layer}
        for key in ("params", "param_names"):
            if key in group:
                part[key] = [group[key][i] for i in indices]
        for key in ("lr", "initial_lr"):
            if isinstance(group.get(key), Tensor):
                part[key] = group[key].clone()  # a shared tensor rate would be scaled twice
        yield part
