"""Attention, normalisation and output softmax of any model, from one forward pass.

Nothing is asked of the model: its functional calls are intercepted while it runs on the
problem's batches. Every number is exact over all batches, except that quantiles come from a
uniform random subset of 1,000,000 values where there are more.

Seen: scaled_dot_product_attention, nn.MultiheadAttention and the layers built on it (their
fused inference path is left for the open one), softmax over a product of two activations, and
any softmax over the last axis whose result is then multiplied into activations (additive
attention, learned queries, gates over experts); layer_norm, rms_norm, group_norm, batch_norm,
instance_norm, and division by the root of a mean square or a variance; cross_entropy, nll_loss
of a log_softmax, and binary cross entropy with logits or of a sigmoid. components_origins.py
and components_scales.py have the rules for what is written by hand.

Not seen: attention in a fused kernel of its own (flash-attn, xformers, flex_attention,
nested tensors), exp and sum in place of softmax, anything in a scripted module (said in
`notes`) or under vmap; norms that divide by a p-norm (cosine attention); frozen batch norm
written by hand; log-probabilities picked by gather, adaptive softmax.
"""

import math

import torch

from homotopy_cli.curvature.components_watch import Seen, Watch
from homotopy_cli.errors import NonFiniteError
from homotopy_cli.problems.evaluation import with_gradients_if_needed
from homotopy_cli.problems.problem import Problem
from homotopy_cli.records import Components


def measure_components(problem: Problem, *, heads: bool = True) -> Components:
    """Return how peaked attention is, what the norms divide by, how sure the output is.

    One forward pass over all batches, with the problem's mode, seed and weights, and without
    gradients unless the model itself takes derivatives in it; the model, its buffers and the
    generators are left bitwise as they were. Attention logits are computed a second time, in
    pieces of at most 2¹⁹ numbers. Measured on small GPTs on a CPU: the seconds of 0.6 to 1.3
    gradients, and 0.02 GB beside what the forward pass itself needs, at 4096 tokens.

    A call site is named by the module that makes the call; "#2" is the second such call within
    one run of that module, "(root)" the model itself, "(loss)" code outside every module. A
    module that runs several times (shared layers, several batches) is one site, its rows pooled;
    so are the rows of all ranks, where the problem's batches are spread over several.
    Rows that see no key, and rows that hold NaN while the loss is finite, are left out.

    Args:
        problem: Its batches are what is measured on; mode "train" sees batch statistics.
        heads: False leaves the per-head values out, for a log written often.

    Returns:
        Components in the order of first use; empty tuples and None for what is not there;
        `notes` say what could not be seen.

    Raises:
        NonFiniteError: The loss is NaN or infinite; the message names the first module in
            which a logit or variance was.
        ProblemError: The batch does not fit the model.
    """

    def look() -> tuple[Watch, list[Seen]]:
        watch = Watch(problem.model)
        return watch, problem.reducer.together(lambda: _run(watch, problem))

    with torch.no_grad():
        watch, seen = with_gradients_if_needed(look)
    if len(seen) > 1:
        watch.pool(seen)
    return Components(
        attention=tuple(s.record(n, heads=heads) for n, s in watch.named("attention") if s.n_rows),
        norm=tuple(site.record(name) for name, site in watch.named("norm") if site.sigma.count),
        cross_entropy=watch.output.record(),
        notes=tuple(watch.notes),
    )


def _run(watch: Watch, problem: Problem) -> Seen:
    """One forward pass over this rank's batches."""
    with problem.measuring(), watch.watching():
        for index in range(len(problem.batches)):
            watch.restart()
            value = problem.batch_loss(index).item()
            if not math.isfinite(value):
                first = watch.first_non_finite
                raise NonFiniteError(
                    f"batch {index + 1}: the loss is {value}"
                    + (f", and {first} holds the first NaN or infinity" if first else ""),
                    hint="look at the weights and inputs of that module",
                )
    return watch.seen()
