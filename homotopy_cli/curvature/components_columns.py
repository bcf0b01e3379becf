"""Components as columns of a log: of the whole model, and on the layers of a partition."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from homotopy_cli.records import Components


def component_columns(components: Components) -> Mapping[str, float]:
    """The whole model's component columns of the log; what is not there is left out."""
    columns: dict[str, float] = {}
    if components.attention:
        columns["attention_max_logit"] = max(a.max_logit for a in components.attention)
        columns["attention_entropy"] = min(a.entropy for a in components.attention)
    if components.norm:
        columns["norm_sigma_min"] = min(n.sigma_min for n in components.norm)
        columns["norm_eps_over_var"] = max(n.eps_over_var for n in components.norm)
    if components.cross_entropy is not None:
        output = components.cross_entropy
        columns |= {
            "p_min": output.p_min,
            "p_q001": output.p_q001,
            "log_z_mean": output.log_z_mean,
        }
    return {k: float(np.float64(v)) for k, v in columns.items() if math.isfinite(v)}


def component_layers(
    components: Components, layers: Sequence[Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return the per-layer component columns of the log, each (L,) float32.

    A value goes to the first layer inside the module that made the call: a norm's to its own
    row, an attention's to the layer that makes its queries (`blocks.0.attention` to
    `blocks.0.attention.qkv`). A module without parameters hands it to the module around it. Of
    several values of one layer the worst is kept: the largest logit and ε/σ², the smallest
    entropy and σ. What the model itself or the loss calls belongs to no layer.

    Args:
        components: As measured; no pass is made here.
        layers: (L,) the parameter names of each layer, in the partition's order.

    Returns:
        Columns that hold a value: layer_attention_max_logit (dimensionless),
        layer_attention_entropy (nat), layer_norm_sigma_min (activation units),
        layer_norm_eps_over_var (dimensionless). NaN where a layer has none.
    """
    owner = _owners(layers)
    columns: dict[str, np.ndarray] = {}

    def put(name: str, site: str, value: float, *, smallest: bool = False) -> None:
        layer = _layer_of(site, owner)
        if layer is None or not math.isfinite(value):
            return
        column = columns.setdefault(name, np.full(len(layers), np.nan, dtype=np.float32))
        worst = np.fmin if smallest else np.fmax
        column[layer] = worst(column[layer], np.float32(value))

    for a in components.attention:
        put("layer_attention_max_logit", a.name, a.max_logit)
        put("layer_attention_entropy", a.name, a.entropy, smallest=True)
    for n in components.norm:
        put("layer_norm_sigma_min", n.name, n.sigma_min, smallest=True)
        put("layer_norm_eps_over_var", n.name, n.eps_over_var)
    return columns


def _owners(layers: Sequence[Sequence[str]]) -> dict[str, int]:
    """The first layer inside each module, by the module's path."""
    first: dict[str, int] = {}
    for layer, names in enumerate(layers):
        for name in names:
            path = name.rpartition(".")[0]
            while path:
                first.setdefault(path, layer)
                path = path.rpartition(".")[0]
    return first


def _layer_of(site: str, owner: dict[str, int]) -> int | None:
    path = site.partition("#")[0]  # "#2" is the second call of one module
    while path and path not in owner:
        path = path.rpartition(".")[0]
    return owner.get(path)
