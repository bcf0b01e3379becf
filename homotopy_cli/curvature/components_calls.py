"""Which torch functions are watched, and how their arguments read."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import CausalBias

from homotopy_cli.curvature.components_attention import dot_product_logits
from homotopy_cli.curvature.components_norm import (
    over_batch,
    over_groups,
    over_last,
    smallest_step,
)
from homotopy_cli.curvature.components_origins import Squashed

if TYPE_CHECKING:
    from homotopy_cli.curvature.components_watch import Watch

Observer = Callable[..., None]  # (result, *arguments of the function)


def observers(watch: "Watch") -> dict[Any, Observer]:
    """torch function -> what to note of a call, given its result and its own arguments."""
    softmax = (F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax)
    log_softmax = (F.log_softmax, torch.log_softmax, Tensor.log_softmax)
    sigmoid = (F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.special.expit)
    return (
        dict.fromkeys(softmax, _softmax(watch))
        | dict.fromkeys((*log_softmax, torch.special.log_softmax), _squash(watch, "log_softmax"))
        | dict.fromkeys(sigmoid, _squash(watch, "sigmoid"))
        | _norms(watch)
        | {
            F.scaled_dot_product_attention: _dot_product(watch),
            F.cross_entropy: _targets(watch.classify),
            F.nll_loss: _targets(watch.picked),
            F.binary_cross_entropy_with_logits: _binary(watch.decide),
            F.binary_cross_entropy: _binary(watch.decided),
        }
    )


def _softmax(watch: "Watch") -> Observer:
    def observe(result: Tensor, input: Tensor, dim: Any = None, *_: Any, **__: Any) -> None:
        watch.softmax(result, input, dim)

    return observe


def _squash(watch: "Watch", by: str) -> Observer:
    def observe(result: Tensor, input: Tensor, *_: Any, **__: Any) -> None:
        watch.origins.mark(result, Squashed(input, by))

    return observe


def _binary(note: Callable[[Tensor, Tensor, Tensor | None], None]) -> Observer:
    def observe(
        _: Tensor, input: Tensor, target: Tensor, weight: Tensor | None = None, *__: Any, **___: Any
    ) -> None:
        note(input, target, weight)

    return observe


def _targets(note: Callable[[Tensor, Tensor, Tensor | None, int], None]) -> Observer:
    def observe(
        _: Tensor,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        *__: Any,
        **___: Any,
    ) -> None:
        note(input, target, weight, ignore_index)

    return observe


def _dot_product(watch: "Watch") -> Observer:
    def observe(
        _: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        **__: Any,
    ) -> None:
        if isinstance(attn_mask, CausalBias):
            attn_mask = attn_mask._materialize(query.device)
        watch.attend(
            *dot_product_logits(
                query,
                key,
                attn_mask,
                is_causal=is_causal,
                scale=scale,
                grouped=enable_gqa,
                n_heads=watch.origins.heads_of(query),
            )
        )

    return observe


def _norms(watch: "Watch") -> dict[Any, Observer]:
    def layer_norm(
        _: Tensor,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *__: Any,
    ) -> None:
        watch.normalise("LayerNorm", over_last(input, normalized_shape, centred=True), eps)

    def rms_norm(
        _: Tensor,
        input: Tensor,
        normalized_shape: Any,
        weight: Tensor | None = None,
        eps: float | None = None,
    ) -> None:
        eps = smallest_step(input) if eps is None else eps
        watch.normalise("RMSNorm", over_last(input, normalized_shape, centred=False), eps)

    def group_norm(
        _: Tensor,
        input: Tensor,
        num_groups: int,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        eps: float = 1e-5,
        *__: Any,
    ) -> None:
        watch.normalise("GroupNorm", over_groups(input, num_groups), eps)

    def batch_norm(
        _: Tensor,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        own = training or running_var is None
        watch.normalise("BatchNorm", over_batch(input) if own else running_var, eps)

    def torch_batch_norm(
        _: Tensor,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        eps: float,
        *__: Any,
    ) -> None:
        batch_norm(_, input, running_mean, running_var, training=training, eps=eps)

    def instance_norm(
        _: Tensor,
        input: Tensor,
        running_mean: Tensor | None = None,
        running_var: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        use_input_stats: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> None:
        own = use_input_stats or running_var is None
        scales = over_groups(input, input.shape[1]) if own else running_var
        watch.normalise("InstanceNorm", scales, eps)

    return {
        F.layer_norm: layer_norm,
        torch.layer_norm: layer_norm,
        F.rms_norm: rms_norm,
        torch.rms_norm: rms_norm,
        F.group_norm: group_norm,
        torch.group_norm: group_norm,
        F.batch_norm: batch_norm,
        torch.batch_norm: torch_batch_norm,
        F.instance_norm: instance_norm,
    }
