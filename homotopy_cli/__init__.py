"""homotopy: measure the geometry of training instead of guessing a learning rate.

A checkpoint or a recipe becomes a `Problem` (parameters, loss, fixed batches); the one
`CurvatureEstimator` turns a Problem into a torch-free record, `CurvatureEstimate`; the
terminal, the schedulers and the HDF5 log all consume that record; the report reads only
the log. One folder per layer, imports go one way:

    errors, records -> linalg -> curvature -> schedulers -> training -> cli
    recipe -> zoo -> problems ----^        runlog -> report -----------^

Public names resolve on first use (PEP 562): `homotopy --help` and `homotopy report` must
not pay for importing torch.
"""

from importlib import import_module
from typing import Any

from homotopy_cli._version import __version__ as __version__

_PUBLIC = {
    "AdaptiveHomotopyLR": "schedulers.adaptive",
    "CurvatureAdaptiveLR": "schedulers.facade",
    "CurvatureEstimate": "records",
    "CurvatureEstimator": "curvature.estimator",
    "CurvatureWarmup": "schedulers.warmup",
    "EstimatorConfig": "curvature.config",
    "HomotopyAdam": "schedulers.adam",
    "HomotopyError": "errors",
    "HomotopyLR": "schedulers.homotopy",
    "Partition": "problems.partition",
    "PerLayerHomotopyLR": "schedulers.per_layer",
    "Problem": "problems.problem",
    "curvature_aware_clip": "schedulers.clip",
    "load_problem": "problems.load",
    "load_recipe": "recipe.load",
    "probe": "curvature.api",
    "read_log": "runlog.reader",
    "validate": "curvature.api",
}

__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604  (the names are the table's keys)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'homotopy_cli' has no attribute {name!r}")
    value = getattr(import_module(f"homotopy_cli.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
