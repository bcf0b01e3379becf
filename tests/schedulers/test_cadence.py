"""When probes run, and that the budget holds, counted by hand."""

import itertools
import math

import pytest

from homotopy_cli.schedulers.cadence import GUARANTEED, Cadence, pass_cost, probe_cost


def simulate(cadence, steps, cost=1.0, log_change=0.2, load=0.3, alarms=()):
    """Steps at which a probe ran."""
    ran = []
    for step in range(steps):
        if step in alarms:
            cadence.hasten()
        if cadence.due(step, cost):
            cadence.record(step, cost, log_change=log_change, load=load)
            ran.append(step)
    return ran


def test_cost_is_the_graph_and_the_products_on_the_slice_plus_what_each_pass_costs():
    assert probe_cost(0.25, 4) == pytest.approx(0.25 * (1.2 + 2.8 * 4) + 0.1 * 6)
    assert probe_cost(1.0, 0) == pytest.approx(1.4)
    assert probe_cost(0.25, 4, 0.5) == pytest.approx(0.25 * (1.2 + 2.8 * 4) + 0.5 * 6)


@pytest.mark.parametrize(
    ("n_tensors", "n_params", "n_terms", "measured"),
    [(76, 311_936, 2048, 2.4), (76, 10_792_704, 16_384, 0.83)],
)
def test_on_a_gpu_launching_a_pass_costs_what_was_measured(n_tensors, n_params, n_terms, measured):
    """GPTs on an H200, seconds of probes with 1, 3 and 5 products on 1/16 and 1/8 of the rows."""
    sizes = {"n_tensors": n_tensors, "n_params": n_params, "n_terms": n_terms}
    assert pass_cost("cuda", **sizes) == pytest.approx(measured, rel=0.15)
    assert pass_cost("cpu", **sizes) == 0.1


def test_a_large_network_on_a_gpu_pays_as_on_a_cpu():
    assert pass_cost("cuda", n_tensors=300, n_params=10**9, n_terms=2**15) == 0.1


def test_without_a_budget_the_burst_is_dense_and_then_the_base_period_holds():
    ran = simulate(Cadence(base=10, burst=6, budget=math.inf), 100)
    assert ran[:6] == [0, 1, 2, 3, 4, 5]
    gaps = [b - a for a, b in itertools.pairwise(ran) if a >= 16]
    assert max(gaps) == 10
    assert sum(g == 10 for g in gaps) >= len(gaps) - 2  # it doubles up to the base first


def test_a_quiet_run_probes_ever_more_rarely():
    ran = simulate(Cadence(base=10, longest=80, budget=math.inf), 1000, log_change=0.01, load=0.1)
    assert ran[-1] - ran[-2] == 80


@pytest.mark.parametrize("total", [200, 1000, 20_000])
@pytest.mark.parametrize("cost", [0.3, 2.25])
def test_the_budget_holds_at_every_step_but_for_the_guaranteed_start(total, cost):
    cadence = Cadence(budget=0.05, total_steps=total)
    guaranteed = cost * len(GUARANTEED)
    for step in range(total):
        if cadence.due(step, cost):
            cadence.record(step, cost, log_change=9.9, load=0.9)
        assert cadence.spent <= cadence.allowance(step) + guaranteed + 1e-9
    assert cadence.spent <= max(cadence.allowance(16) + guaranteed, 0.05 * total) + 1e-9
    if 0.05 * total > 2 * guaranteed:
        assert cadence.spent > 0.8 * 0.05 * total  # and it is used where it is wanted


def test_an_unknown_length_spreads_the_start_over_a_thousand_steps():
    cadence = Cadence(budget=0.05)
    ran = simulate(cadence, 5000, cost=1.0, log_change=9.9, load=0.9)
    assert cadence.spent <= 0.05 * 5000
    assert len([step for step in ran if step < 1000]) <= 50


def test_the_guaranteed_steps_probe_whatever_they_cost():
    assert simulate(Cadence(budget=1e-9), 200) == sorted(GUARANTEED)


def test_denied_probes_are_counted():
    cadence = Cadence(budget=1e-9, base=10, burst=8)
    simulate(cadence, 40)
    assert cadence.n_denied > 10


def test_one_probe_per_optimizer_step():
    cadence = Cadence(budget=math.inf)
    assert cadence.due(0, 1.0)
    cadence.record(0, 1.0, log_change=0.0, load=0.0)
    assert not cadence.due(0, 1.0)  # another microbatch, or a skipped step


def test_an_alarm_quarters_the_period():
    quiet = {"log_change": 0.01, "load": 0.1}
    calm = simulate(Cadence(base=10, longest=160, budget=math.inf), 600, **quiet)
    alarmed = simulate(
        Cadence(base=10, longest=160, budget=math.inf), 600, alarms={calm[-2] + 45}, **quiet
    )
    assert alarmed[: len(calm) - 1] == calm[:-1]
    assert alarmed[len(calm) - 1] == calm[-2] + 45 < calm[-1]


def test_state_round_trip():
    one = Cadence(total_steps=100)
    simulate(one, 30)
    two = Cadence(total_steps=100)
    two.load_state_dict(one.state_dict())
    assert two == one


def test_an_alarm_never_puts_a_probe_off():
    cadence = Cadence(shortest=5, period=1)
    cadence.hasten()
    assert cadence.period == 1
    cadence.period = 40
    cadence.hasten()
    assert cadence.period == 10


def test_a_rise_has_its_share_spread_over_it():
    plain, rising = (Cadence(total_steps=1000, front=0.8, rise_steps=n) for n in (0, 250))
    assert plain.allowance(0) == pytest.approx(0.05 * 800)
    assert rising.allowance(0) == pytest.approx(0.05 * 800 * 0.4)
    steps = range(0, 1200, 10)
    assert all(rising.allowance(a) <= rising.allowance(a + 10) for a in steps)
    assert [rising.allowance(t) for t in (250, 900)] == [plain.allowance(t) for t in (250, 900)]


@pytest.mark.parametrize("rise_steps", [0, 200])
@pytest.mark.parametrize("spent", [0.0, 30.0, 49.9, 80.0])
def test_the_first_step_that_can_pay_is_the_first_one(rise_steps, spent):
    cadence = Cadence(budget=0.05, total_steps=1000, rise_steps=rise_steps, spent=spent)
    by_hand = [step for step in range(10, 1000) if cadence.left(step) >= 2.0]
    assert cadence.affords_from(10, 2.0) == (by_hand[0] if by_hand else None)
