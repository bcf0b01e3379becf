"""Mean loss and a metric on held-out batches, leaving no trace on the run."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from homotopy_cli.problems import evaluation
from homotopy_cli.problems.calling import call_model, result_outputs
from homotopy_cli.problems.criteria import Loss
from homotopy_cli.problems.sharded import is_sharded, reshard
from homotopy_cli.training.ranks import SOLO, Ranks

METRIC_NAMES = {"next_token": "perplexity", "cross_entropy": "accuracy"}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, forked RNG; every submodule's own mode comes back."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        model.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        if is_sharded(model):
            reshard(model)  # a forward without backward leaves FSDP's parameters gathered


def evaluate(
    model: nn.Module, loss: Loss, batches: Sequence[Any], ranks: Ranks = SOLO
) -> dict[str, float]:
    """Mean loss over all terms of `batches`, and the metric that fits the loss.

    Each rank takes its rows of every batch.

    Returns:
        eval_loss: nats per term for the likelihood losses, else the loss's own unit.
        eval_metric: perplexity exp(loss) for next_token, accuracy in [0, 1] for cross_entropy
            on (x, y) batches; absent for any other loss.
    """
    losses, counts, hits, rows = [], [], [], 0
    with evaluating(model):
        for batch in batches:
            part, counted = ranks.part(batch)
            counts.append(loss.count(part) if counted else 0)
            losses.append(loss_of(loss, model, part).detach())
            if loss.name == "cross_entropy" and _is_labelled(part):
                inputs, labels = part
                scores = result_outputs(call_model(model, inputs))
                right = (scores.argmax(dim=-1) == labels).sum()
                hits.append(right if counted else 0)
                rows += labels.numel() if counted else 0
    own = 0.0
    for value, count in zip(torch.stack(losses).tolist() if losses else (), counts, strict=True):
        own += value * count if count else 0.0
    total, terms, right, rows = ranks.sums([own, sum(counts), int(sum(hits)), rows])
    mean = total / terms if terms else math.nan
    values = {"eval_loss": mean}
    if loss.name == "next_token":
        values["eval_metric"] = math.exp(mean) if mean < 700 else math.inf
    elif rows:
        values["eval_metric"] = right / rows
    return values


def loss_of(loss: Loss, model: nn.Module, batch: Any) -> torch.Tensor:
    """The loss, without gradients unless the model needs them; errors speak of a recipe."""
    return evaluation.with_gradients_if_needed(
        lambda: evaluation.evaluate(loss, model, batch, training=True)
    )


def _is_labelled(batch: Any) -> bool:
    return (
        isinstance(batch, list | tuple)
        and len(batch) == 2
        and all(isinstance(part, torch.Tensor) for part in batch)
        and batch[1].dtype == torch.int64
        and batch[1].ndim == 1
    )
