"""A run that is worse off than where it began: the edge was passed between two probes.

Beyond the edge a few steps can take the loss far above its start, and the curvature of what is
left (dead units, say) is small: it would allow any rate. So in the first steps a loss that is far
above its start and rises halves what the edge allows; near the edge, without an adaptive metric,
which takes one wild step back by itself, also one a little above it. Half of the largest rate of
the steps before is not exceeded again.

A ReLU network on digits under SGD with momentum, 400 steps, eight seeds, final losses at ten times
its best rate: five at 0.008 to 0.12, 0.66, 1.7 and one dead (2.3), where six were dead and two at
1.7 and 2.0; at a hundred times five at 0.01 to 0.07, two at 1.3 and 1.7 and one dead, where four
were.
"""

import math
from typing import Any

from homotopy_cli.schedulers import rules
from homotopy_cli.schedulers.cadence import Cadence
from homotopy_cli.schedulers.ceiling import Ceiling
from homotopy_cli.schedulers.events import EventLog

WORSE = 1.7  # times the first loss, at a rate near the edge; heavy ball on quadratics met 1.6
LOST = 3.0  # times the first loss, whatever the edge; our choice
NEAR = 0.25  # of the target: an edge ratio that is near; our choice
RECENT = 5  # steps whose rates may be to blame; our choice
RETRY = 0.5  # of the largest of them: the most that is tried again; our choice
FIRST, LAST = 4, 200  # steps in which the first loss is a measure; our choice


class Relapse:
    """Compares each training loss with the first one, and lowers the ceiling's edge.

    Args:
        ceiling: Whose edge to lower; nothing happens where the edge is not what steers.
        cadence: Whose next probe to bring forward.
        events: Takes what was done.
    """

    def __init__(self, ceiling: Ceiling, cadence: Cadence, events: EventLog) -> None:
        self.first = self.before = math.nan  # losses of the first step and of the last one
        self.recent: list[float] = []  # largest rates of the last RECENT steps
        self._ceiling, self._cadence, self._events = ceiling, cadence, events

    def __call__(self, loss: float, *, step: int, top: float) -> None:
        """Take the loss of the step about to be taken; top: the largest scheduled rate."""
        ceiling = self._ceiling
        if math.isnan(self.first):
            self.first = loss
        rose, self.before = not loss <= self.before, loss
        used = top * ceiling.factor(top)
        blame = max([used, *self.recent])
        self.recent = [*self.recent[1 - RECENT :], used]
        acts = ceiling.lowers and ceiling.measured and ceiling.by_edge and used > 0.0
        if not acts or not FIRST <= step <= LAST:
            return
        ratio = rules.edge_ratio(used, ceiling.edge.curvature, ceiling.threshold(step))
        near = not ceiling.by_metric and ratio > NEAR * ceiling.target
        worse = loss > WORSE * self.first and near
        if rose and self.first > 0.0 and (worse or loss > LOST * self.first):
            ceiling.edge.halve(used, cap=RETRY * blame)
            self._cadence.hasten()
            text = f"loss {loss:.4g} is above its start, {self.first:.4g}: the rate is halved"
            self._events.add(step, "warning", "RELAPSE", text)

    def state_dict(self) -> dict[str, Any]:
        """The losses and rates it remembers."""
        return {"first": self.first, "before": self.before, "recent": list(self.recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore them."""
        self.first, self.before = state["first"], state["before"]
        self.recent = list(state["recent"])
