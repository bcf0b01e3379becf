"""Attention statistics from logits written out whole, row by row, in float64."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Attention:
    """What a probe should say of logits (batch, heads, rows, keys); -inf is not seen."""

    max_logit: float
    entropy: float
    entropy_normalised: float
    head_max_logit: list[float]
    head_entropy: list[float]


def attention(logits: Tensor) -> Attention:
    """One Python loop over rows, sums by math.fsum; rows without a key do not count."""
    heads: list[list[tuple[float, float, float]]] = [[] for _ in range(logits.shape[1])]
    for example in logits.detach().double().tolist():
        for head, rows in enumerate(example):
            for row in rows:
                seen = [z for z in row if z != -math.inf]
                if not seen:
                    continue
                log_z = max(seen) + math.log(math.fsum(math.exp(z - max(seen)) for z in seen))
                entropy = -math.fsum(math.exp(z - log_z) * (z - log_z) for z in seen)
                share = entropy / math.log(len(seen)) if len(seen) > 1 else math.nan
                heads[head].append((max(seen), entropy, share))
    every = [row for head in heads for row in head]
    shares = [share for _, _, share in every if not math.isnan(share)]
    return Attention(
        max_logit=max(top for top, _, _ in every),
        entropy=math.fsum(entropy for _, entropy, _ in every) / len(every),
        entropy_normalised=math.fsum(shares) / len(shares) if shares else 1.0,
        head_max_logit=[max(top for top, _, _ in head) for head in heads],
        head_entropy=[math.fsum(e for _, e, _ in head) / len(head) for head in heads],
    )


def masked(logits: Tensor, sees: Tensor) -> Tensor:
    """-inf where a query does not see a key."""
    return torch.where(sees, logits, torch.tensor(-math.inf, dtype=logits.dtype))


def causal(rows: int, keys: int) -> Tensor:
    """Row i sees keys 0..i, from a comparison of positions."""
    return torch.tensor([[k <= r for k in range(keys)] for r in range(rows)])
