"""The public surface: exactly these names, each importable, each documented."""

import ast
import inspect
from pathlib import Path

import homotopy_cli

PUBLIC = {
    "AdaptiveHomotopyLR",
    "CurvatureAdaptiveLR",
    "CurvatureEstimate",
    "CurvatureEstimator",
    "CurvatureWarmup",
    "EstimatorConfig",
    "HomotopyAdam",
    "HomotopyError",
    "HomotopyLR",
    "Partition",
    "PerLayerHomotopyLR",
    "Problem",
    "RunLogger",
    "curvature_aware_clip",
    "load_problem",
    "load_recipe",
    "probe",
    "read_log",
    "validate",
}


def test_the_public_names_are_exactly_these():
    assert set(homotopy_cli.__all__) - {"__version__"} == PUBLIC
    assert dir(homotopy_cli) == sorted(homotopy_cli.__all__)


def test_each_public_name_resolves_and_is_documented():
    for name in PUBLIC:
        value = getattr(homotopy_cli, name)
        assert value.__doc__ and len(value.__doc__.strip()) > 20, name
        assert value.__name__ == name


def test_type_checkers_see_the_same_names():
    body = ast.parse(inspect.getsource(homotopy_cli)).body
    (block,) = (node for node in body if isinstance(node, ast.If))
    seen = {a.name: (node.module, a.asname) for node in block.body for a in node.names}
    table = homotopy_cli._PUBLIC.items()
    assert seen == {name: (f"homotopy_cli.{module}", name) for name, module in table}
    assert (Path(homotopy_cli.__file__).parent / "py.typed").exists()


def test_an_unknown_name_is_an_attribute_error():
    try:
        homotopy_cli.does_not_exist  # noqa: B018
    except AttributeError as error:
        assert "does_not_exist" in str(error)
    else:
        raise AssertionError("an unknown name resolved")
