"""What an attempt keeps: run.pt and best.pt when they are due, and what has to come back."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homotopy_cli.errors import CheckpointError
from homotopy_cli.training.build import Run
from homotopy_cli.training.outputs import RunPaths
from homotopy_cli.training.saving import load_run, rank_generators, restore_generators, save_run
from homotopy_cli.training.stopping import Stopping
from homotopy_cli.training.summary import Tally
from homotopy_cli.training.watch import Watch

SAVE_SECONDS = 30.0  # between checkpoints when the recipe does not say; our choice
SAVE_SHARE = 0.01  # of the time so far that such checkpoints may take


@dataclass
class Standing:
    """What a run knows of itself beside weights and optimizer: plain numbers, kept in run.pt."""

    stopping: Stopping
    tally: Tally = field(default_factory=Tally)
    watch: Watch = field(default_factory=Watch)
    evaluations: dict[str, float] = field(default_factory=dict)  # newest; `first`, `step`
    curvature: dict[str, float] = field(default_factory=dict)  # newest, as shown

    def state_dict(self) -> dict[str, Any]:
        """The checkpoint's entry `loop`."""
        return {
            "tally": self.tally.state_dict(),
            "spikes": self.watch.state_dict(),
            "evaluations": dict(self.evaluations),
            "curvature": dict(self.curvature),
            "stopping": self.stopping.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; `stopping` is read before, to see if the run goes on."""
        self.tally.load_state_dict(state["tally"])
        self.watch.load_state_dict(state["spikes"])
        self.evaluations = dict(state["evaluations"])
        self.curvature = dict(state["curvature"])


class SaveClock:
    """When to save by the clock, and what saving has cost."""

    def __init__(self) -> None:
        self._seconds, self._last = 0.0, time.perf_counter()

    def due(self, began: float) -> bool:
        """Whether a run, begun at time.perf_counter() `began`, should save now."""
        now = time.perf_counter()
        rested = now - self._last >= SAVE_SECONDS
        return rested and self._seconds <= SAVE_SHARE * (now - began)

    def took(self, began: float) -> None:
        """Book a save that began then and has just ended."""
        self._last = time.perf_counter()
        self._seconds += self._last - began


class Keeper:
    """Writes and reads the checkpoints of one attempt.

    Args:
        run, paths, standing: What is kept, and where.
        loaded: The LoadedRecipe, which a checkpoint holds.
        environment: Versions and device, likewise.
        warn: Called with (code, words) when a save was not possible; the run goes on.
    """

    def __init__(
        self,
        run: Run,
        paths: RunPaths,
        standing: Standing,
        loaded: Any,
        environment: Mapping[str, str],
        warn: Callable[[str, str], None],
    ) -> None:
        self._run, self._paths, self._standing = run, paths, standing
        self._loaded, self._environment, self._warn = loaded, environment, warn
        self._clock = SaveClock()
        self._saved_at: int | None = None
        self._failing: set[Path] = set()  # said already: a full disk fails at every save

    def due(self, done: int, began: float) -> bool:
        """Whether run.pt is to be saved after `done` steps of a run that began then."""
        every = self._loaded.recipe.checkpoint_every
        if every:
            return done % every == 0
        return self._run.ranks.main_decides(self._clock.due(began))

    def save(self, done: int, path: Path | None = None) -> CheckpointError | None:
        """Write run.pt, or best.pt at `path`, after `done` steps; a failure is returned.

        A failure is also a warning, once until that file can be written again.
        """
        if self._saved_at == done and path is None:
            return None
        if not self._run.weights_are_finite():
            self._warn("CHECKPOINT_KEPT", "weights are not finite: kept the last good")
            return None
        target = path or self._paths.checkpoint
        began = time.perf_counter()
        try:
            save_run(self._run, target, self._content(done))
        except CheckpointError as error:
            if target not in self._failing:
                self._failing.add(target)
                self._warn("CHECKPOINT_FAILED", error.message)
            return error
        finally:
            self._clock.took(began)
        self._failing.discard(target)
        if path is None:
            self._saved_at = done
        return None

    def restore(self, content: Mapping[str, Any]) -> None:
        """Everything as it was when `content` was saved."""
        load_run(self._run, self._paths.checkpoint, content)
        self._standing.load_state_dict(content["loop"])
        if "noise" in content["loop"]:  # checkpoints from before it lack it
            self._run.signs.noise.load_state_dict(content["loop"]["noise"])
        restore_generators(self._run, content)
        self._saved_at = int(content["step"])

    def _content(self, done: int) -> dict[str, Any]:
        folder = self._paths.checkpoint.absolute().parent
        base = Path(self._loaded.base_dir).absolute()
        noise = self._run.signs.noise.state_dict()
        return {
            "step": done,
            **self._run.state_dict(),
            "loop": {**self._standing.state_dict(), "noise": noise},
            **rank_generators(self._run),
            "environment": self._environment,
            "recipe": json.dumps(self._loaded.recipe.resolved()),
            "recipe_source": self._loaded.source,
            "recipe_dir": os.path.relpath(base, folder),
            "n_params": self._run.n_params,
            "loss": self._standing.tally.last_loss,
        }
