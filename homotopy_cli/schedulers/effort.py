"""How much a probe does: rows, Lanczos steps, matrices, by where the run is and what it can pay."""

from collections.abc import Callable
from dataclasses import dataclass

from homotopy_cli.curvature import along
from homotopy_cli.schedulers.cadence import PASS, probe_cost
from homotopy_cli.schedulers.settings import GuardSettings
from homotopy_cli.schedulers.slices import slice_size

TIGHT = 10.0  # G left in the start below which it measures no κ again; our choice
LEAST_STEPS = 2  # of the poorest probe: one is the Rayleigh quotient of an old vector


@dataclass(frozen=True)
class Effort:
    """How large a slice of the batch, and how many Lanczos steps on it."""

    fraction: float  # share of the batch's rows, (0, 1]
    steps: int  # Lanczos steps per matrix; of a signal without products, gradients for all
    matrices: int = 1  # 2: H itself and P⁻¹H; 1: only the one that steers; 0: no product

    def predicted(
        self,
        rows: int,
        size: Callable[[int, float], int] = slice_size,
        per_pass: float = PASS,
    ) -> float:
        """G this will cost on a batch of `rows` rows: see cadence.probe_cost.

        Args:
            rows: Of the batch.
            size: (rows, fraction) -> rows of a slice.
            per_pass: What a pass costs however small its slice, G.
        """
        share = size(rows, self.fraction) / max(1, rows)
        if not self.matrices:
            return self.steps * (share + per_pass)
        return probe_cost(share, self.matrices * self.steps, per_pass)


def efforts(
    settings: GuardSettings,
    *,
    signal: str,
    cold: bool,
    early: bool,
    stale: bool,
    scaled: bool,
    kappa_steers: bool,
    n_probes: int,
    left: float,
) -> list[Effort]:
    """What the next probe may do, dearest first; where the last one is old, cheap ones too.

    A short run spends most of its budget on the start. Two products from the last vector are a
    poor measure, and a far better one than none for the rest of the run: on a six-layer GPT over
    4,096 BPE tokens (300 steps) the ceiling stood still at its value of step 16, and the run ended
    2 % behind the same schedule without it; with poorer probes it ended level.

    Args:
        settings: The numbers.
        signal: Resolved: not "auto".
        cold: Nothing was measured yet, so there is no vector to start from.
        early: In the start, where P turns by much per step and every vector is half cold.
        stale: The last probe is older than its word is trusted.
        scaled: λ(P⁻¹H) steers, and H itself is a second matrix.
        kappa_steers: Every probe has to measure κ.
        n_probes: Taken so far.
        left: G that may be spent now.

    Returns:
        Efforts, dearest first.
    """
    s = settings
    if signal in along.SIGNALS:
        return [Effort(s.probe_fraction, 2 if signal == "secant" else 5, 0)]
    due = n_probes % s.kappa_freq == 0 and not (early and left < TIGHT)
    both = scaled and (kappa_steers or s.kappa_freq == 1 or cold or due)
    matrices = 2 if both else 1
    if cold:
        return [Effort(s.early_fraction, s.burst_lanczos_steps, matrices)]
    if early:
        steps = max(s.lanczos_steps, s.burst_lanczos_steps - 1)
        return [Effort(s.early_fraction, steps, matrices)]
    wanted = Effort(s.probe_fraction, s.lanczos_steps, matrices)
    if not stale:
        return [wanted]
    fewer = range(wanted.steps if both else wanted.steps - 1, LEAST_STEPS - 1, -1)
    return [wanted, *(Effort(wanted.fraction, n) for n in fewer)]
