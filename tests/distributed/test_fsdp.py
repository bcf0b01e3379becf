"""Two ranks under FSDP2 against one process with all rows; float64."""

import pytest
from cases import BY_NAME
from distributed_close import assert_same_estimate
from distributed_splits import CONFIGS, partition
from laws_fsdp import SHARDED

from homotopy_cli.curvature.estimator import CurvatureEstimator

pytestmark = pytest.mark.distributed


@pytest.fixture
def found(ranks):
    return ranks("laws_fsdp")


@pytest.mark.parametrize("name", SHARDED)
def test_gathered_parameters_give_the_estimate_of_one_process(found, name):
    problem = BY_NAME[name].problem()
    expected = CurvatureEstimator(config=CONFIGS["exact"]).estimate(problem, partition(problem))
    estimate, told = found[0]["estimates"][name]
    assert_same_estimate(estimate, expected)
    assert told == found[1]["estimates"][name][1]


def test_probes_leave_a_sharded_run_bitwise_as_it_was(found):
    for rank in (0, 1):
        same, facts = found[rank]["a_probed_run_is_the_run_itself"]
        assert same
        assert len(facts) == 3
        for fact in facts:
            unchanged = {name: kept for name, kept in fact.items() if name != "sharpness"}
            assert unchanged == {"kinds": True, "sharded": True, "grads": True, "modes": True}


def test_adams_metric_is_put_together_from_the_shards(found):
    sharpness = [fact["sharpness"] for fact in found[1]["a_probed_run_is_the_run_itself"][1]]
    assert sharpness == pytest.approx(found[1]["mean_rows_alone"], rel=1e-9)


def test_hooks_of_the_user_run_in_the_copy(found):
    estimate, expected, called = found[0]["hooks_of_the_user_still_run"]
    assert called
    assert_same_estimate(estimate, expected)
