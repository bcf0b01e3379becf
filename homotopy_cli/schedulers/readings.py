"""What a curvature scheduler knows, to print, to log and to draw."""

import math
from typing import TYPE_CHECKING, Any

from homotopy_cli.records import CurvatureEstimate, EventRecord
from homotopy_cli.schedulers.guard import CurvatureGuard
from homotopy_cli.schedulers.history import History

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Readings:
    """Read-only view of a guard and a history; holds no state of its own."""

    _guard: CurvatureGuard
    history: History
    enabled: bool

    @property
    def ceiling(self) -> float:
        """The largest rate the edge of stability allows now; ∞ where none is known."""
        return self._guard.ceiling.level if self.enabled else math.inf

    @property
    def lr_reason(self) -> int:
        """Index into records.LR_REASONS: what decides the present rate."""
        return self._guard.ceiling.reason

    @property
    def signal(self) -> str:
        """The signal that steers, "auto" resolved: one of settings.Signal."""
        return self._guard.signal

    @property
    def current_curvature(self) -> float:
        """κ = ‖H‖₂/‖g‖² of the last probe that measured it, 1/loss; NaN before the first.

        Under an adaptive optimizer that is every `kappa_freq`-th probe. Logged, not steering.
        """
        return self._guard.current_curvature

    @property
    def curvature_history(self) -> list[float]:
        """κ of the probes that measured it, 1/loss, oldest first; a copy.

        Of a long run every second, fourth, ... one: see history.Series.
        """
        return [kappa for kappa in self.history.probes.column("kappa") if kappa == kappa]

    @property
    def last_estimate(self) -> CurvatureEstimate | None:
        """The last successful probe's estimate."""
        return self._guard.last_estimate

    @property
    def last_probe(self) -> dict[str, Any]:
        """The last successful probe as columns of the log: floats, and layer_* arrays."""
        return self._guard.last

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names in the order of the layer_* arrays; empty before the first per-layer probe."""
        return self._guard.probe.layer_names

    @property
    def n_probes(self) -> int:
        """Probes so far, failed ones too."""
        return self._guard.cadence.n_probes

    @property
    def n_failed_probes(self) -> int:
        """Probes that failed or gave NaN; each kept the last ceiling."""
        return self._guard.n_failed

    @property
    def probe_seconds(self) -> float:
        """Wall time of all probes of this process; reported, never decides anything."""
        return self._guard.seconds

    @property
    def overhead(self) -> float:
        """Gradient-equivalents spent on probes per optimizer step so far, dimensionless."""
        return self._guard.spent / max(1, self._guard.n_steps)

    @property
    def events(self) -> list[EventRecord]:
        """What happened and was not drained yet; `drain_events` empties it."""
        return self._guard.events.pending

    def drain_events(self) -> list[EventRecord]:
        """Return the pending events and forget them."""
        return self._guard.events.drain()

    def plot_curvature_history(self) -> "go.Figure":
        """κ, λ_max, preconditioned sharpness and the edge ratio over the steps."""
        return self.history.curvature_figure()

    def plot_lr_history(self) -> "go.Figure":
        """The learning rate, its schedule and its ceiling, with the reason at every step."""
        return self.history.lr_figure()
