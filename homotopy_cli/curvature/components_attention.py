"""How peaked one attention softmax is: largest logit and entropy, per head."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from homotopy_cli.records import AttentionComponent

PIECE = 1 << 19  # logits at a time: our choice, 10 MB with what is derived from them; measured
# on a CPU, of 2^15 to 2^21 the fastest
MASKED_BELOW = 5e3  # a key this far below its row's largest logit is masked, not unlikely:
# masks by addition use -1e4 (half precision), -1e9 or the dtype's minimum
NEGLIGIBLE = -80.0  # e^-80 is below the rounding of any sum; exp of less takes ten times longer

Shape = tuple[int, int, int, int]  # batch, heads, rows, keys
Logits = Callable[[slice, slice, slice], Tensor]  # of batch, heads, rows


class AttentionSite:
    """Sums over the rows that one call site has seen; a row is one query of one head.

    Args:
        n_heads: Rows are kept apart by head.
    """

    def __init__(self, n_heads: int) -> None:
        self.n_heads = n_heads
        self._largest = torch.full((n_heads,), -math.inf, dtype=torch.float64)
        self._entropy = torch.zeros(n_heads, dtype=torch.float64)
        self._rows = torch.zeros(n_heads, dtype=torch.float64)
        self._normalised = 0.0
        self._normalised_rows = 0

    @property
    def n_rows(self) -> int:
        """Rows that see a key and hold no NaN."""
        return int(self._rows.sum())

    def add(self, logits: Logits, shape: Shape) -> bool:
        """Take the logits of one call, piece by piece; True if all were finite or masked.

        Args:
            logits: (batch slice, head slice, row slice) -> masked logits, float32 or float64.
            shape: (batch, heads, rows, keys) of the whole.
        """
        sound = True
        if 0 in shape:
            return sound
        for batch, heads, rows in _pieces(shape):
            sound &= self._add_piece(heads, logits(batch, heads, rows))
        return sound

    def _add_piece(self, heads: slice, logits: Tensor) -> bool:
        top = logits.amax(-1)  # NaN anywhere in a row makes it NaN
        valid = top.isfinite()
        shifted = logits - top.masked_fill(~valid, 0.0)[..., None]
        seen = (shifted > -MASKED_BELOW).float().sum(-1)
        # with s = z - max z: H = log Σ e^s - Σ s e^s / Σ e^s, two terms of one sign
        shifted.clamp_(min=NEGLIGIBLE)
        weights = shifted.exp()
        total = weights.sum(-1)
        entropy = total.log() - shifted.mul_(weights).sum(-1) / total
        entropy = entropy.double().masked_fill(~valid, 0.0)
        of_heads = (0, 2)
        largest = top.masked_fill(~valid, -math.inf).amax(of_heads).double().cpu()
        self._largest[heads] = torch.maximum(self._largest[heads], largest)
        self._entropy[heads] += entropy.sum(of_heads).cpu()
        self._rows[heads] += valid.sum(of_heads).cpu()
        chooses = valid & (seen > 1)  # log 1 = 0: a row with one key has no scale
        self._normalised += (entropy / seen.clamp(min=2).double().log())[chooses].sum().item()
        self._normalised_rows += int(chooses.sum())
        return bool((valid | (top == -math.inf)).all())

    def absorb(self, other: "AttentionSite") -> None:
        """Pool the rows of another rank."""
        self._largest = torch.maximum(self._largest, other._largest)
        self._entropy += other._entropy
        self._rows += other._rows
        self._normalised += other._normalised
        self._normalised_rows += other._normalised_rows

    def record(self, name: str, *, heads: bool) -> AttentionComponent:
        """The site as plain numbers; per head only when `heads`."""
        largest = self._largest.max().item()
        used = self._rows.clamp(min=1)
        normalised = self._normalised / max(self._normalised_rows, 1)
        per_head = heads and bool((self._rows > 0).all())
        return AttentionComponent(
            name=name,
            max_logit=largest,
            entropy=(self._entropy.sum() / self._rows.sum()).item(),
            entropy_normalised=normalised if self._normalised_rows else 1.0,
            n_heads=self.n_heads,
            head_max_logit=tuple(self._largest.tolist()) if per_head else (),
            head_entropy=tuple((self._entropy / used).tolist()) if per_head else (),
            seed_kappa=math.exp(2 * largest) if 2 * largest < math.log(1e308) else None,
        )


def _pieces(shape: Shape) -> Iterator[tuple[slice, slice, slice]]:
    """Slices over (batch, heads, rows) that hold at most PIECE logits, or one row."""
    batch, heads, rows, keys = shape
    n_rows = max(1, min(rows, PIECE // keys))
    n_heads = max(1, min(heads, PIECE // (keys * rows)))
    n_batch = max(1, min(batch, PIECE // (keys * rows * heads)))
    for b in range(0, batch, n_batch):
        for h in range(0, heads, n_heads):
            for r in range(0, rows, n_rows):
                yield slice(b, b + n_batch), slice(h, h + n_heads), slice(r, r + n_rows)


def widened(values: Tensor) -> Tensor:
    """Half precision as float32."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def dot_product_logits(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    *,
    is_causal: bool,
    scale: float | None,
    grouped: bool,
    n_heads: int | None = None,
) -> tuple[Logits, Shape]:
    """The logits of scaled_dot_product_attention as (function of slices, whole shape).

    Leading axes before the heads are one batch axis; a query without heads has one.

    Args:
        query: (..., heads, rows, size), or (batch, rows, size) or (rows, size).
        key: As query; fewer heads when `grouped`.
        mask: Broadcastable to the logits; bool (True = see) or added. None: all seen.
        is_causal: Row i sees keys 0..i (torch aligns at the top left).
        scale: None for 1/sqrt(size).
        n_heads: Heads that a first axis of batch·heads holds; None if there are none.
        grouped: Query heads share key heads in consecutive groups.
    """
    if grouped and key.shape[-3] != query.shape[-3]:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    lead = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2])
    n_rows, n_keys = query.shape[-2], key.shape[-2]
    n_heads = lead[-1] if len(lead) >= 2 else n_heads or 1

    def by_head(values: Tensor) -> Tensor:
        values = values.expand(*lead, *values.shape[-2:])
        return values.reshape(-1, n_heads, *values.shape[-2:])

    queries, keys = by_head(query), by_head(key).transpose(-2, -1)
    masks = None if mask is None else by_head(mask.expand(*mask.shape[:-2], n_rows, n_keys))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    columns = torch.arange(n_keys, device=query.device)

    def logits(batch: slice, heads: slice, rows: slice) -> Tensor:
        # no row of a causal piece sees a key behind the last row's
        n_seen = min(rows.stop, n_keys) if is_causal else n_keys
        q, k = queries[batch, heads, rows], keys[batch, heads, :, :n_seen]
        found = (widened(q) * factor) @ widened(k)
        if masks is not None:
            part = masks[batch, heads, rows, :n_seen]
            if part.dtype == torch.bool:
                found.masked_fill_(~part, -math.inf)
            else:
                found += part
        if is_causal:
            places = torch.arange(rows.start, min(rows.stop, n_rows), device=query.device)
            found.masked_fill_(columns[:n_seen] > places[:, None], -math.inf)
        return found

    return logits, (queries.shape[0], n_heads, n_rows, n_keys)


def given_logits(logits: Tensor, n_heads: int | None) -> tuple[Logits, Shape]:
    """A softmax's input as (function of slices, whole shape).

    Args:
        logits: (batch, heads..., rows, keys), (batch, rows, keys) or (rows, keys).
        n_heads: Heads that a first axis of batch·heads holds; None if unknown.
    """
    if logits.ndim <= 3:
        whole = logits.reshape(-1, n_heads or 1, *logits.shape[-2:])
    else:
        whole = logits.flatten(1, -3)
    return lambda batch, heads, rows: widened(whole[batch, heads, rows]), tuple(whole.shape)
