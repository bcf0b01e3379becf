"""A recipe becomes a Run: every object a training step needs, in the recipe's state at step 0."""

import inspect
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from homotopy_cli.errors import HomotopyError, RecipeError, first_line
from homotopy_cli.problems.criteria import Loss
from homotopy_cli.problems.from_recipe import build_model_loss_data
from homotopy_cli.problems.partition import Block, Partition
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.sharded import shard_of
from homotopy_cli.recipe.optimizers import TORCH_OPTIMIZERS
from homotopy_cli.recipe.targets import is_user_code, load_target
from homotopy_cli.training.averaging import begin_training
from homotopy_cli.training.devices import on_device, resolve_device
from homotopy_cli.training.distributed import own_device, spread
from homotopy_cli.training.forward import Forward
from homotopy_cli.training.plans import build_probe, build_scheduler
from homotopy_cli.training.probing import NoProbe, Probe
from homotopy_cli.training.ranks import SOLO, Ranks, refuse_small_batches
from homotopy_cli.training.signs import Signs

# Parameters above which ‖Δθ‖ and the update's RMS are not worth a copy: 0.2 GB in float32 on
# the CPU, 2 GB on a GPU, whose memory moves a hundred times as fast (our choice).
SNAPSHOT_LIMIT = 50_000_000
SNAPSHOT_LIMIT_GPU = 500_000_000


@dataclass
class Run:
    """Everything a step reads or changes."""

    recipe: Any
    model: nn.Module
    loss: Loss
    data: Any
    optimizer: torch.optim.Optimizer
    scheduler: Any  # torch LRScheduler
    probe: Probe
    layers: tuple[Block, ...]
    eval_batches: list[Any]
    device: torch.device
    forward: Forward
    ranks: Ranks = SOLO

    def __post_init__(self) -> None:
        self.named: dict[str, Tensor] = {
            name: p for name, p in self.model.named_parameters() if p.requires_grad
        }
        self.params = list(self.named.values())
        self.n_params = sum(p.numel() for p in self.params)
        self.baseline: Mapping[str, float] = self.data.info.baseline
        self.kappa = math.nan  # of the newest probe, for curvature-aware clipping
        self.weight = 1.0  # of this rank's loss in the mean over ranks; 1 in one process
        self._before: list[Tensor] | None = None
        self.signs = Signs(self.optimizer, self.params, self.forward)

    @property
    def measured(self) -> bool:
        """Whether anything beside the loss is measured."""
        return not isinstance(self.probe, NoProbe)

    def batch(self, step: int) -> Any:
        """This rank's rows of step `step`'s batch, on the device: a function of step and seed."""
        whole = self.data.batch(step, self.recipe.batch_size, self.recipe.seed)
        part, _ = self.ranks.part(whole)
        self.weight = self.ranks.weight(self.loss.count, part, whole)
        return on_device(part, self.device)

    def shards(self) -> list[Tensor]:
        """Every trainable parameter; under FSDP this rank's part of it."""
        return [shard_of(p.detach()) for p in self.params]

    def grads(self, params: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Every gradient there is; under FSDP this rank's part of it."""
        held = (p.grad for p in (self.params if params is None else params))
        return [shard_of(grad) for grad in held if grad is not None]

    @property
    def spare(self) -> list[Tensor] | None:
        """The parameters' copy, free for other uses between `distance` and `snapshot`."""
        return self._before

    def snapshot(self) -> None:
        """Remember the parameters, for `distance`."""
        limit = SNAPSHOT_LIMIT if self.device.type == "cpu" else SNAPSHOT_LIMIT_GPU
        if self.n_params > limit:
            return
        with torch.no_grad():
            now = self.shards()
            if self._before is None:
                self._before = [torch.empty_like(p) for p in now]
            torch._foreach_copy_(self._before, now)

    def distance(self) -> float:
        """‖θ - θ_snapshot‖₂; NaN for models too large to remember."""
        if self._before is None:
            return math.nan
        with torch.no_grad():
            torch._foreach_sub_(self._before, self.shards())
            norms = torch._foreach_norm(self._before)
        own = float(torch.linalg.vector_norm(torch.stack([n.double() for n in norms])))
        return self.ranks.norms([own])[0]

    def weights_are_finite(self) -> bool:
        """Whether every parameter is a number: only such weights are worth a checkpoint."""
        own = torch.stack([torch.isfinite(p).all() for p in self.shards()])
        return self.ranks.all(bool(own.all()))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of these objects."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "probe": {"state": self.probe.state_dict(), "kappa": self.kappa},
        }

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Restore `state_dict()`'s entries of a checkpoint."""
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.load_the_rest(content)

    def load_the_rest(self, content: Mapping[str, Any]) -> None:
        """Restore what is not a parameter's: scheduler and probe."""
        self.scheduler.load_state_dict(content["scheduler"])
        self.probe.load_state_dict(content["probe"]["state"])
        self.kappa = content["probe"]["kappa"]


def build_run(loaded: Any, ranks: Ranks = SOLO) -> Run:
    """Build everything a recipe names, seeded by its seed, and spread it over the ranks.

    Raises:
        HomotopyError: A model, loss, data or optimizer that cannot be built, or that do not
            fit together. Nothing is written.
    """
    recipe = loaded.recipe
    refuse_small_batches(recipe, ranks)
    device = resolve_device(own_device(recipe.device, ranks))
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for user code that says .cuda()
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    seed_everything(recipe.seed)
    made = ranks.together(lambda: build_model_loss_data(recipe, base_dir=loaded.base_dir))
    made.model.to(device)  # initialised on the CPU: the same weights on every device
    made.model.train()
    layers = _layers(made, recipe, device) if ranks.sharded else ()
    engine = spread(
        made.model, ranks, made.loss, lambda: ranks.part(_first_batch(made, recipe, device))[0]
    )
    if ranks.rank:
        seed_everything(recipe.seed + ranks.rank)  # other dropout masks than rank 0's
    optimizer = build_optimizer(made.model, recipe.optimizer, loaded.base_dir)
    begin_training(optimizer)
    forward = Forward(
        made.model,
        made.loss,
        device,
        engine=engine,
        amp=recipe.amp,
        compile=None if recipe.compile is None else recipe.compile.settings(),
        recompute=recipe.activation_checkpointing,
    )
    scheduler = build_scheduler(recipe, optimizer, made.model, made.loss, Path(loaded.base_dir))
    probe = build_probe(recipe, scheduler, optimizer, made.model, made.loss)
    return Run(
        recipe=recipe,
        model=made.model,
        loss=made.loss,
        data=made.data,
        optimizer=optimizer,
        scheduler=scheduler,
        probe=probe,
        layers=layers or _layers(made, recipe, device),
        eval_batches=[
            on_device(batch, device)
            for batch in made.data.eval_batches(recipe.batch_size, recipe.eval_batches)
        ],
        device=device,
        forward=forward,
        ranks=ranks,
    )


def _layers(made: Any, recipe: Any, device: torch.device) -> tuple[Block, ...]:
    """The modules that own trainable parameters."""
    batch = _first_batch(made, recipe, device)
    with torch.random.fork_rng(devices=[]):
        return Partition.by_module(Problem.from_module(made.model, made.loss, [batch])).blocks


def _first_batch(made: Any, recipe: Any, device: torch.device) -> Any:
    with torch.random.fork_rng(devices=[]):
        return on_device(made.data.batch(0, recipe.batch_size, recipe.seed), device)


def seed_everything(seed: int) -> None:
    """Seed torch, Python and NumPy; NumPy's legacy generator takes 32 bits."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def build_optimizer(model: nn.Module, spec: Any, base_dir: Any) -> torch.optim.Optimizer:
    """torch.optim's class of that name, or the user's, on the trainable parameters.

    A user's callable whose first argument is named `model` gets the model, one named
    `named_parameters` the list of (name, parameter): either can make groups.

    Raises:
        RecipeError: No trainable parameter, or the class refuses its settings.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    settings = spec.model_dump(exclude={"name"}, exclude_none=True)
    if not params:
        raise RecipeError(
            "model: has no trainable parameter, so there is nothing to train",
            hint="set requires_grad on some of them",
        )
    factory: Callable[..., Any]
    given: Any = params
    if is_user_code(spec):
        factory = load_target(spec.name, base_dir)
        given = _first_argument(factory, model)
    else:
        factory = getattr(torch.optim, TORCH_OPTIMIZERS[spec.name])
    try:
        optimizer = factory(given, **settings)
    except HomotopyError:
        raise
    except Exception as error:  # user code: anything may come
        own = is_user_code(spec) and not isinstance(error, TypeError)
        said = "failed" if own else "refused its settings"
        raise RecipeError(
            f"optimizer: {spec.name} {said}: {first_line(error, named=own)}",
            hint=f"it takes {', '.join(_keywords(factory))}",
        ) from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise RecipeError(
            f"optimizer: {spec.name} made a {type(optimizer).__name__}, not a torch Optimizer",
            hint="name a subclass of torch.optim.Optimizer",
        )
    return optimizer


def _first_argument(factory: Callable[..., Any], model: nn.Module) -> Any:
    """What a user's optimizer is built on, by the name of its first argument."""
    try:
        name = next(iter(inspect.signature(factory).parameters), "")
    except (TypeError, ValueError):
        name = ""
    if name == "model":
        return model
    named = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    return named if name == "named_parameters" else [p for _, p in named]


def _keywords(factory: Callable[..., Any]) -> list[str]:
    """What the factory can be told, its parameters argument left out."""
    try:
        names = list(inspect.signature(factory).parameters)[1:]
    except (TypeError, ValueError):
        return ["other settings"]
    return names or ["no settings"]
