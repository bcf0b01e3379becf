"""What rests on the core, on two ranks: the same numbers as in one process, on each rank."""

import pytest
from distributed_close import differences
from laws_around import OPTIMIZERS, STEPS, alone_components, alone_noise, law_one_process

pytestmark = pytest.mark.distributed


@pytest.fixture
def found(ranks):
    return ranks("laws_around")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_scheduler_sees_all_rows_through_each_ranks_shard(found, kind):
    """Every rank holds half of the probe batch: the rates are those of the whole batch."""
    expected, failed = law_one_process(0)[kind]
    rates, failures = found[0]["even_shards"][kind]
    assert found[1]["even_shards"][kind] == (rates, failures)
    assert failures == failed == 0
    assert rates == pytest.approx(expected, rel=1e-9)
    assert min(rates) < max(rates)


def test_a_scheduler_sees_through_fully_shard(found):
    expected, failed = law_one_process(0)["adamw"]
    for rank in (0, 1):
        rates, failures = found[rank]["fully_sharded"]
        assert failures == failed == 0
        assert rates == pytest.approx(expected, rel=1e-8)


def test_ranks_with_other_batch_sizes_decide_alike(found):
    rates = found[0]["uneven_shards"]
    assert rates == found[1]["uneven_shards"]
    assert len(rates) == STEPS
    assert len(set(rates)) > 3


def test_gradient_noise_pools_the_batches_of_all_ranks(found):
    expected = alone_noise()
    assert found[0]["noise"] == found[1]["noise"]
    assert found[0]["noise"].n_batches == 5
    assert not list(differences(found[0]["noise"], expected, rtol=1e-9, scale=1e-3))


@pytest.mark.parametrize("name", ["tied gpt", "conv bn", "ignored tokens"])
def test_components_pool_the_rows_of_all_ranks(found, name):
    components, told = found[0]["components"][name]
    assert told == found[1]["components"][name][1]
    assert not list(differences(components, alone_components(name), rtol=1e-12, scale=1e-6))
