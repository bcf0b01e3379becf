"""homotopy: measure the geometry of training instead of guessing a learning rate.

A checkpoint or a recipe becomes a `Problem` (parameters, loss, fixed batches); the one
`CurvatureEstimator` turns a Problem into a torch-free record, `CurvatureEstimate`; the
terminal, the schedulers and the HDF5 log all consume that record; the report reads only
the log. One folder per layer, imports go one way:

    errors, records -> linalg -> curvature -> schedulers -> training -> integrations, cli
    recipe -> zoo -> problems ----^        runlog -> report -----------^

`crossings` is what a spike of a series is, for training and the report alike.

Public names resolve on first use (PEP 562): `homotopy --help` and `homotopy report` must
not pay for importing torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from homotopy_cli._version import __version__ as __version__

if TYPE_CHECKING:  # the same names for type checkers and editors; a test compares
    from homotopy_cli.curvature.api import probe as probe
    from homotopy_cli.curvature.api import validate as validate
    from homotopy_cli.curvature.config import EstimatorConfig as EstimatorConfig
    from homotopy_cli.curvature.estimator import CurvatureEstimator as CurvatureEstimator
    from homotopy_cli.errors import HomotopyError as HomotopyError
    from homotopy_cli.integrations.loop import RunLogger as RunLogger
    from homotopy_cli.problems.load import load_problem as load_problem
    from homotopy_cli.problems.partition import Partition as Partition
    from homotopy_cli.problems.problem import Problem as Problem
    from homotopy_cli.recipe.load import load_recipe as load_recipe
    from homotopy_cli.records import CurvatureEstimate as CurvatureEstimate
    from homotopy_cli.runlog.reader import read_log as read_log
    from homotopy_cli.schedulers.adam import HomotopyAdam as HomotopyAdam
    from homotopy_cli.schedulers.adaptive import AdaptiveHomotopyLR as AdaptiveHomotopyLR
    from homotopy_cli.schedulers.clip import curvature_aware_clip as curvature_aware_clip
    from homotopy_cli.schedulers.facade import CurvatureAdaptiveLR as CurvatureAdaptiveLR
    from homotopy_cli.schedulers.homotopy import HomotopyLR as HomotopyLR
    from homotopy_cli.schedulers.per_layer import PerLayerHomotopyLR as PerLayerHomotopyLR
    from homotopy_cli.schedulers.warmup import CurvatureWarmup as CurvatureWarmup

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
    "RunLogger": "integrations.loop",
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
