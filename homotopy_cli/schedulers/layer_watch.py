"""When the layers are measured, how thoroughly, and from which share of the budget."""

import math
from typing import Any

from homotopy_cli.problems.nest import Batch, n_rows
from homotopy_cli.schedulers.cadence import Cadence, probe_cost
from homotopy_cli.schedulers.effort import Effort
from homotopy_cli.schedulers.probing import CurvatureProbe, LayerMeasurement
from homotopy_cli.schedulers.ranks import mean_over_ranks
from homotopy_cli.schedulers.settings import GuardSettings

FIRST_COST = 3.0  # G that the first per-layer probe may cost whatever the budget
TRACE_PROBES = 3  # products for the layers' traces
SHARE = 0.2  # of the budget, where layers are measured; all three are our choice


class LayerWatch:
    """Per-layer probes on an account of their own, so that they never starve the ceiling.

    λ_max of every block where the account pays for it, else the blocks' traces, which one
    product gives for all at once, else nothing. The first time, whatever the account holds,
    eigenvalues if they cost at most FIRST_COST and else traces.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self.freq = settings.layers_freq  # steps between two; 0 = never
        self.fraction = settings.early_fraction
        budget = settings.budget
        own = budget * SHARE if self.freq else 0.0
        self.rest_of_budget = budget - own if budget < math.inf else math.inf
        self.cadence = Cadence(budget=own, total_steps=settings.total_steps)
        self.last_step = -1

    def due(self, step: int) -> bool:
        """Whether `layers_freq` steps have passed, or nothing was measured yet."""
        return self.freq > 0 and (self.last_step < 0 or step - self.last_step >= self.freq)

    def affords(
        self,
        probe: CurvatureProbe,
        batch: Batch,
        fraction: float,
        n_products: float,
        step: int,
        *,
        grant: float = 0.0,
    ) -> bool:
        """Whether the account, or a grant in G, has room for so many products on such a slice."""
        rows = max(1, n_rows(batch))
        share = probe.slice_size(rows, fraction) / rows
        (cost,) = mean_over_ranks([probe_cost(share, n_products, probe.per_pass)])
        return cost <= max(grant, self.cadence.left(step))

    def measure(
        self, probe: CurvatureProbe, batch: Batch, *, paired: bool, step: int
    ) -> LayerMeasurement | None:
        """Measure what the account allows and book it; None where it allows nothing."""
        first = self.last_step < 0
        products = float(probe.n_layers)  # two for each, each worth half a graph
        if self.affords(probe, batch, self.fraction, products, step, grant=FIRST_COST * first):
            effort = Effort(self.fraction, 2)
            found = probe.measure_layers(batch, effort, paired=paired, step=step)
        elif first or self.affords(probe, batch, self.fraction, TRACE_PROBES, step):
            effort = Effort(self.fraction, TRACE_PROBES)
            found = probe.measure_traces(batch, effort, paired=paired, step=step)
        else:
            return None
        self.last_step = step
        self.cadence.spent += found.cost
        return found

    def state_dict(self) -> dict[str, Any]:
        """The account, and when it was last used."""
        return {"cadence": self.cadence.state_dict(), "last_step": self.last_step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore both."""
        self.cadence.load_state_dict(state["cadence"])
        self.last_step = state["last_step"]
