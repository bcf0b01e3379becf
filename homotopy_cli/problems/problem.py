"""Problem: one scalar function of a model's parameters, over fixed batches, without a trace."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.batches import cast_floats
from homotopy_cli.problems.chunks import check_chunks
from homotopy_cli.problems.criteria import Loss, resolve_loss
from homotopy_cli.problems.evaluation import evaluate, prefix, scalar
from homotopy_cli.problems.graph import refuse_captured
from homotopy_cli.problems.nest import Batch, split_rows
from homotopy_cli.problems.parameters import Parameters, collect, from_tensors
from homotopy_cli.problems.reducer import LOCAL, Reducer
from homotopy_cli.problems.sharded import gathered, originals, reshard
from homotopy_cli.problems.shards import Shards, local_shards
from homotopy_cli.problems.spread import no_terms, over_ranks
from homotopy_cli.problems.wrappers import MODES, Borrowed, Mode, forked_rng, quiet_kernels, unwrap
from homotopy_cli.problems.writes import own_written


class Problem:
    """L(θ) = Σ_b w_b l_b(θ): parameters, fixed batches, and a mean loss of each.

    Build one with `from_module` or `from_closure`. Evaluating it changes nothing: weights,
    `.grad`, buffers, the mode of every submodule, the global generators and those that modules
    hold are bitwise what they were. Hooks of yours on the model fire in it as in any pass.

    Attributes:
        params: Name -> detached leaf that requires grad, in the order of named_parameters;
            tied tensors once, under their first name. The leaves share storage with the
            model's parameters, except copies that another dtype or device made necessary, and those
            of what the model itself writes to, taken anew where the model's own has changed.
        model_params: The same names -> the model's own parameters, for optimizer state.
        batches: Fixed; floats in `dtype`, integers untouched. Of this rank.
        weights: Of each batch what its mean divides by (`masses`: terms, elements, or weights of
            classes) over all of it; they add to 1 over all ranks. 1 for each if the loss sums.
        n_params, n_terms: Differentiated numbers; loss terms averaged over, on all ranks.
        reducer: Adds what the ranks compute on their batches; one rank as a rule.
        shards: Where `params` are this rank's shards only; None as a rule.
        numels: Name -> count.
        mode: "eval", "train", or "keep" (flags left as they are).
        frozen: Names of parameters that do not require grad.
        aliases: Name -> other names of the same tensor.
        module_kinds: Module path -> class name; "" is the model itself.
        criterion_name: The loss.
    """

    params: dict[str, Tensor]
    batches: tuple[Batch, ...]
    weights: tuple[float, ...]

    def __init__(
        self,
        *,
        parameters: Parameters,
        function: Callable[[int], Tensor],
        counts: Sequence[int],
        masses: Sequence[float] | None = None,
        batches: Sequence[Batch],
        mode: Mode,
        seed: int,
        loss: Loss,
        model: nn.Module | None,
        again: Callable[..., "Problem"] | None,
    ) -> None:
        self.params = parameters.leaves
        self.model_params = parameters.originals
        self.frozen = tuple(parameters.frozen)
        self.aliases = parameters.aliases
        self.module_kinds = parameters.module_kinds
        self.dtype, self.device = parameters.dtype, parameters.device
        self.numels = {name: leaf.numel() for name, leaf in self.params.items()}
        self.n_params = sum(self.numels.values())
        self.batches = tuple(batches)
        self.counts, self.loss = tuple(counts), loss
        self.masses = self.counts if masses is None else tuple(masses)
        self.share(LOCAL, sum(counts), sum(self.masses))
        self.mode, self.seed = mode, seed
        self.criterion_name = loss.name
        self.model = model
        self._function, self._again = function, again
        self._swaps, self._named = parameters.swaps, parameters.named()
        self._borrowed: Borrowed | None = None
        self.shards: Shards | None = None

    def share(self, reducer: Reducer, n_terms: int, mass: float) -> None:
        """Let each batch weigh its mass over `mass`, that of all the reducer's ranks.

        Of losses that are sums already each batch weighs 1: L is the sum over all terms.
        """
        self.reducer, self.n_terms = reducer, n_terms
        sums = self.loss.sums
        self.weights = tuple(1.0 if sums else own / mass for own in self.masses)

    @classmethod
    def from_module(
        cls,
        model: nn.Module,
        loss: Loss | Callable[..., Any] | str | None,
        batches: Sequence[Batch],
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        mode: Mode = "eval",
        seed: int = 0,
        microbatch: int | None = None,
        sources: Sequence[str] | None = None,
        reducer: Reducer = LOCAL,
        sharded: bool = False,
    ) -> "Problem":
        """A Problem of a module's trainable parameters.

        Args:
            model: DistributedDataParallel and torch.compile are unwrapped; of a model under
                FSDP2's fully_shard a copy with whole parameters is made, on every rank.
            loss: See `criteria.resolve_loss`; a callable is loss(model, batch) -> scalar mean.
            batches: A sequence of batches, each a nest of tensors; this rank's own.
            dtype: Of parameters, floating buffers and batches. None: the parameters' own,
                or float32 where they are half precision or mixed.
            device: None: the parameters' own.
            mode: "eval", "train" (batch statistics, one held dropout mask) or "keep".
            seed: The generators' state at every `batch_loss`.
            microbatch: Rows per chunk; exact for losses that are means over rows, and
                refused where loss or gradient of chunks do not add up: see check_chunks.
            sources: The batches' file names, for errors.
            reducer: ProcessGroupReducer() measures the mean over the batches of all ranks,
                each of which must make the same calls; a rank may be without any loss term.
            sharded: Leave an FSDP2 model's parameters on their ranks, see shards.py: for
                models whose parameters do not fit on one.

        Raises:
            ProblemError: No trainable parameter, no batch, every target ignored, a loss that
                chunks change, or ranks whose parameters differ.
        """
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}, not one of {', '.join(MODES)}")
        if isinstance(batches, Tensor | Mapping):
            raise TypeError("batches is a sequence of batches; write [batch] for one")
        if sharded and (dtype, device, microbatch) != (None, None, None):
            raise TypeError("sharded=True takes parameters and batches as they are")
        live = unwrap(model)
        model = live if sharded else gathered(live)

        def assemble() -> "Problem":
            own = local_shards(model, reducer) if sharded else None
            parameters = own or collect(model, dtype, device)
            if model is not live:
                parameters.originals = originals(live, parameters.originals)
            given = [cast_floats(batch, parameters.dtype, parameters.device) for batch in batches]
            labels = list(sources or [""] * len(given))
            if not given and reducer.size == 1:
                raise ProblemError("no batch to measure on", hint="--batch FILE.pt or FILE.npz")
            resolved = resolve_loss(loss, model=model, batch=given[0] if given else None)

            options: dict[str, Any] = {"device": device, "mode": mode, "seed": seed}
            options |= {"microbatch": microbatch, "reducer": reducer, "sharded": sharded}

            def again(others: Sequence[Batch], dtype: torch.dtype | None = dtype) -> "Problem":
                return cls.from_module(live, resolved, others, dtype=dtype, **options)

            def build(chunks: Sequence[Batch], labels: Sequence[str]) -> "Problem":
                counts = [int(resolved.count(chunk)) for chunk in chunks]
                masses = [resolved.mass(c) for c in chunks] if resolved.mass else counts
                kept = [i for i, n in enumerate(counts) if n > 0 and masses[i] > 0]
                if not kept and reducer.size == 1:
                    raise no_terms(prefix(labels))
                return cls(
                    parameters=parameters,
                    function=lambda i: evaluate(resolved, model, chunks[kept[i]], labels[kept[i]]),
                    counts=[counts[i] for i in kept],
                    masses=[masses[i] for i in kept],
                    batches=[chunks[i] for i in kept],
                    mode=mode,
                    seed=seed,
                    loss=resolved,
                    model=model,
                    again=again,
                )

            whole = build(given, labels)
            if microbatch is None:
                return whole
            pairs = [
                (chunk, label)
                for batch, label in zip(given, labels, strict=True)
                for chunk in split_rows(batch, max(1, microbatch))
            ]
            if len(pairs) == len(given):
                return whole
            chunked = build([chunk for chunk, _ in pairs], [label for _, label in pairs])
            check_chunks(whole, chunked, microbatch, build)
            return chunked

        problem = over_ranks(assemble, reducer, sharded=sharded)
        if sharded:
            problem.shards = Shards.of(problem)
            problem.n_params = problem.shards.n
        return problem

    @classmethod
    def from_closure(
        cls,
        params: Mapping[str, Tensor],
        closure: Callable[[dict[str, Tensor]], Tensor],
        *,
        seed: int = 0,
    ) -> "Problem":
        """A Problem of closure(params) -> scalar; no model, no batches, one term."""
        parameters = from_tensors(params)

        def function(_: int) -> Tensor:
            return scalar(closure(parameters.leaves), "the closure")

        name = getattr(closure, "__name__", "closure")
        return cls(
            parameters=parameters,
            function=function,
            counts=[1],
            batches=[()],
            mode="eval",
            seed=seed,
            loss=Loss(name, lambda model, batch: function(0), lambda batch: 1),
            model=None,
            again=None,
        )

    def batch_loss(self, index: int) -> Tensor:
        """The mean loss of batch `index`, a scalar that is differentiable in `params`.

        The weighted sum over all batches, Σ weights[i]·batch_loss(i), is L(θ).

        Raises:
            ProblemError: No scalar, a batch that does not fit, or a parameter used past its module.
        """
        with self.measuring(), forked_rng(self.device, self.seed):
            self._afresh()
            return self._looked_through(self._function(index))

    def batch_outputs(self, index: int) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """(outputs of the model, their mean loss as a function): the seam a Gauss-Newton needs.

        Raises:
            ProblemError: The loss is a callable of (model, batch) that cannot be split.
        """
        predict, criterion = self.loss.predict, self.loss.criterion
        if self.model is None or predict is None or criterion is None:
            raise ProblemError(
                f"loss {self.criterion_name} cannot be split into outputs and a criterion",
                hint="--loss cross_entropy, next_token, mse or bce; or --curvature hessian",
            )
        batch, model = self.batches[index], self.model
        with self.measuring(), forked_rng(self.device, self.seed):
            self._afresh()
            outputs = self._looked_through(predict(model, batch))
        return outputs, lambda values: scalar(criterion(values, batch), self.criterion_name)

    def _afresh(self) -> None:
        """Let the model, while it is held, be as it was on entry but for its parameters."""
        if self._borrowed is not None:
            self._borrowed.fresh_buffers(self.dtype, self.device)
            self._borrowed.reseed(self.seed)

    def _looked_through(self, result: Any) -> Any:
        """The result itself, and of the first one with a graph the parameters behind it."""
        if self._named and self.shards is None:
            refuse_captured(result, self.params, self._named)
            if isinstance(result, Tensor) and result.requires_grad:  # else there was no graph
                self._named = {}
        return result

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Hold the model still: mode set, leaves in place, kernels that differentiate twice.

        Entered by every `batch_loss`; enter it once around several losses *and* their
        products to save time, and always when the model recomputes activations in backward
        (checkpointing), since the recomputation must see the same leaves and modes. Nests.
        """
        if self._borrowed is not None or self.model is None:
            with quiet_kernels(None, self.device):
                yield
            return
        if self.shards is not None:  # what is gathered now must not be put back as it is
            reshard(self.model)
        with quiet_kernels(self.model, self.device):
            self._borrowed = Borrowed(self.model, self._swaps, self.mode)
            try:
                self._borrowed = own_written(self, self._borrowed, self._swaps)
                yield
            finally:
                if self.shards is not None:
                    reshard(self.model)
                self._borrowed.release()
                self._borrowed = None

    def flat_params(self) -> Tensor:
        """θ as one vector (n_params,), a copy, in the order of `params`."""
        return torch.cat([leaf.detach().reshape(-1) for leaf in self.params.values()])

    def on(self, batches: Sequence[Batch]) -> "Problem":
        """The same model and loss over other batches, at the parameters' present values."""
        if self._again is None:
            raise TypeError("a Problem from a closure has no batches to replace")
        self._afresh()  # the other one takes what the model holds now for its own beginning
        return self._again(batches)

    def in_float64(self) -> "Problem":
        """The same model, loss and batches, computed in float64."""
        if self._again is None:
            raise TypeError("a Problem from a closure has the dtype of its closure")
        self._afresh()
        return self._again(self.batches, torch.float64)
