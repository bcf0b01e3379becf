"""Which rows are worth an event: spikes of the loss and the norm, and the signs before them."""

from collections.abc import Iterator, Mapping
from typing import Any

from homotopy_cli.records import ALARMS, SPIKE_AFTER
from homotopy_cli.training.spikes import SpikeDetector

MEANING = {
    "update_rms": f"a loss spike tends to follow within {SPIKE_AFTER} steps",
    "second_moment_ratio": "Adam's second moments lag behind",
}


class Watch:
    """One detector per column; `row` yields the events that begin with a step."""

    def __init__(self) -> None:
        self.spikes = {"loss": SpikeDetector(), "grad_norm": SpikeDetector()}
        self.alarms = {
            name: SpikeDetector(persistence=1, floor=floor) for name, (_, floor) in ALARMS.items()
        }

    def row(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """(code, message) of every event."""
        for name, detector in self.spikes.items():
            score = detector.update(values[name])
            if score is not None:
                words = f"{name} {values[name]:.4g} is {score:.1f} sd above its recent mean"
                yield "SPIKE", words
        for name, detector in self.alarms.items():
            score = detector.update(values[name]) if name in values else None
            if score is not None:
                code, floor = ALARMS[name]
                yield (
                    code,
                    f"{name} {values[name]:.3g} is {score:.1f} sd above its recent mean and above "
                    f"{floor:g}: {MEANING[name]}",
                )

    def state_dict(self) -> dict[str, Any]:
        """Of every detector."""
        return {name: d.state_dict() for name, d in (self.spikes | self.alarms).items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; a column that it lacks starts afresh."""
        for name, detector in (self.spikes | self.alarms).items():
            if name in state:
                detector.load_state_dict(state[name])
