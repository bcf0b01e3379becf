"""What evaluations and the clock decide: the best weights, an early end, a limit on time."""

import math
import time
from dataclasses import dataclass
from typing import Any

from homotopy_cli.errors import RecipeError


@dataclass
class Stopping:
    """The best evaluation so far and how long the run may go on; plain numbers.

    Args:
        patience: Evaluations without a gain of more than `min_delta` that end the run; 0 = never.
        min_delta: Loss.
        max_seconds: Of this process's training; 0 = no limit.
    """

    patience: int = 0
    min_delta: float = 0.0
    max_seconds: float = 0.0
    best_loss: float = math.inf  # smallest held-out loss
    best_step: int = -1  # steps made before that evaluation
    reference: float = math.inf  # what an evaluation has to gain min_delta on
    waited: int = 0  # evaluations since the reference

    @classmethod
    def of(cls, recipe: Any, n_eval_batches: int) -> "Stopping":
        """As the recipe says.

        Raises:
            RecipeError: It wants the best evaluation and the data have no held-out batch.
        """
        early = recipe.early_stop
        if (recipe.keep_best or early is not None) and not n_eval_batches:
            key = "keep_best" if recipe.keep_best else "early_stop"
            raise RecipeError(
                f"{key}: the data have no held-out batch to judge the weights by",
                hint=f"give the data a holdout, or leave {key} out",
            )
        settings = {} if early is None else early.settings()
        return cls(**settings, max_seconds=recipe.max_seconds or 0.0)

    def evaluated(self, step: int, loss: float, *, counts: bool = True) -> bool:
        """Take in one evaluation; whether it is the best so far.

        Args:
            step: Steps made.
            loss: Mean held-out loss; NaN is no gain.
            counts: Whether it uses up patience: those of the schedule do, one at a cut does not.
        """
        better = loss < self.best_loss
        if better:
            self.best_loss, self.best_step = loss, step
        if loss < self.reference - self.min_delta:
            self.reference, self.waited = loss, 0
        elif counts:
            self.waited += 1
        return better

    @property
    def best(self) -> tuple[int, float] | None:
        """(steps made, held-out loss) of the best evaluation; None before the first."""
        return None if self.best_step < 0 else (self.best_step, self.best_loss)

    @property
    def early(self) -> str:
        """Why the run ends early, or ""."""
        if not self.patience or self.waited < self.patience:
            return ""
        gain = f"more than {self.min_delta:g}" if self.min_delta else "any"
        return (
            f"{self.waited} evaluations in a row without {gain} gain on the held-out loss; "
            f"best {self.best_loss:.4g} after {self.best_step} steps"
        )

    def late(self, began: float) -> str:
        """Why the run, begun at time.perf_counter() `began`, ends for now, or ""."""
        seconds = time.perf_counter() - began
        if not self.max_seconds or seconds < self.max_seconds:
            return ""
        return f"max_seconds {self.max_seconds:g} reached"

    def state_dict(self) -> dict[str, Any]:
        """What evaluations changed."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name in _STATE:
            setattr(self, name, state[name])


_STATE = ("best_loss", "best_step", "reference", "waited")
