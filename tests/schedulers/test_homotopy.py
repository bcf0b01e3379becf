"""HomotopyLR on problems whose curvature is known exactly."""

import itertools
import math

import pytest
import torch
from setups import DUMMY, Quadratic, batches, network, quadratic_loss, train
from torch import nn

from homotopy_cli.records import LR_REASONS
from homotopy_cli.schedulers import layer_watch
from homotopy_cli.schedulers.baselines import build_schedule
from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.per_layer import PerLayerHomotopyLR


def quadratic_run(optimizer_class, lr, eigenvalues=(100.0, 1.0), *, steps=1, **settings):
    """Train on a quadratic under HomotopyLR; the scheduler, and the rates used."""
    options = settings.pop("optimizer", {})
    model = Quadratic(list(eigenvalues))
    optimizer = optimizer_class(model.parameters(), lr=lr, **options)
    settings.setdefault("budget", math.inf)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, **settings)
    used = []
    for _ in range(steps):
        optimizer.zero_grad()
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return scheduler, used, model


def test_the_first_probe_puts_sgd_at_target_times_two_over_lambda():
    scheduler, used, _ = quadratic_run(torch.optim.SGD, 1.0, target=0.5)
    assert used[0] == pytest.approx(0.5 * 2.0 / 100.0, rel=1e-6)
    assert scheduler.ceiling == pytest.approx(used[0], rel=1e-9)
    assert scheduler.last_probe["lambda_max"] == pytest.approx(100.0, rel=1e-6)
    assert scheduler.last_probe["edge_ratio"] == pytest.approx(0.5, rel=1e-6)


def test_momentum_gets_its_own_threshold():
    _, used, _ = quadratic_run(torch.optim.SGD, 1.0, target=0.5, optimizer={"momentum": 0.9})
    assert used[0] == pytest.approx(0.5 * 3.8 / 100.0, rel=1e-6)


def test_adam_is_measured_in_its_own_metric_at_its_first_step():
    """P = |g| at the first step (bias-corrected v = g²), so λ(P⁻¹H) = λᵢ/(λᵢ|xᵢ|) = 1/|xᵢ|."""
    scheduler, used, _ = quadratic_run(
        torch.optim.AdamW, 10.0, target=0.5, optimizer={"eps": 1e-12, "weight_decay": 0.0}
    )
    assert scheduler.signal == "preconditioned_sharpness"
    assert scheduler.last_probe["preconditioned_sharpness"] == pytest.approx(1.0, rel=1e-6)
    assert used[0] == pytest.approx(0.5 * 2 * 1.9 * (1 - 0.9) / 0.1 / 1.0, rel=1e-6)


def test_a_schedule_below_the_ceiling_is_left_alone():
    scheduler, used, _ = quadratic_run(torch.optim.SGD, 1e-3, steps=5)
    assert used == [1e-3] * 5
    assert LR_REASONS[scheduler.lr_reason] == "schedule"
    assert scheduler.last_probe["edge_ratio"] == pytest.approx(1e-3 * 100 / 2, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_alpha_enters_as_in_the_founding_formula(alpha):
    _, used, _ = quadratic_run(torch.optim.SGD, 0.1, target=1.0, alpha=alpha)
    ratio = 0.1 * 100.0 / 2.0
    assert used[0] == pytest.approx(0.1 / (1 + alpha * (ratio - 1)), rel=1e-6)


def test_what_steers_is_lambda_plus_its_residual_and_what_is_logged_is_lambda():
    """An unconverged λ errs on the low side: 40 spread eigenvalues, one Lanczos step."""
    model = Quadratic([float(i) for i in range(1, 41)])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"target": 0.5, "burst_lanczos_steps": 1, "budget": math.inf}
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, **settings)
    model(DUMMY).backward()
    estimate = scheduler.update_curvature(batch=DUMMY)
    pair = estimate.lambda_max
    assert pair.value < 39.0 and pair.residual > 1.0
    assert scheduler.last_probe["lambda_max"] == pair.value
    rate = optimizer.param_groups[0]["lr"]
    assert rate == pytest.approx(0.5 * 2.0 / (pair.value + pair.residual))
    assert scheduler.last_probe["edge_ratio"] == pytest.approx(rate * pair.value / 2.0)


def test_kappa_is_measured_every_kappa_freq_probes_and_kept_between():
    for freq, expected in ((4, [0, 4, 8]), (1, list(range(10)))):
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        settings = {"kappa_freq": freq, "burst": 10, "budget": math.inf}
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), **settings)
        seen = []
        for step, data in enumerate(batches(10)):
            train(model, optimizer, scheduler, [data], start=step)
            assert scheduler.current_curvature > 0.0
            if "kappa" in scheduler.last_probe:
                seen.append(step)
        assert seen == expected


def test_a_rise_on_old_evidence_slows_down():
    """After PATIENCE·freq = 20 steps without a probe the log of the rise falls as 1/age."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, floor=1e-6)
    model(DUMMY).backward()
    scheduler.update_curvature(batch=DUMMY)
    limit = scheduler._guard.ceiling
    limit.edge.curvature = 1e-3
    levels = [limit.level]
    for step in range(1, 101):
        limit.advance_to(step, 1.0)
        levels.append(limit.level)
    rises = [b / a for a, b in itertools.pairwise(levels)]
    assert rises[10] == pytest.approx(1.05)
    assert rises[39] == pytest.approx(1.05**0.5)
    assert rises[99] == pytest.approx(1.05**0.2)


def test_alpha_zero_measures_and_never_acts():
    scheduler, used, _ = quadratic_run(torch.optim.SGD, 0.5, alpha=0.0, steps=2)
    assert used == [0.5, 0.5]
    assert scheduler.last_probe["edge_ratio"] == pytest.approx(25.0, rel=1e-6)


def test_signal_kappa_is_the_founding_law():
    """κ = ‖H‖/‖g‖² = 100/(100² + 1) at x = 1."""
    kappa = 100.0 / (100.0**2 + 1.0)
    scheduler, used, _ = quadratic_run(
        torch.optim.SGD, 1e-3, signal="kappa", curvature_target=kappa / 4
    )
    assert scheduler.current_curvature == pytest.approx(kappa, rel=1e-6)
    assert used[0] == pytest.approx(1e-3 / 4, rel=1e-6)
    assert scheduler.ceiling == math.inf


def test_kappa_default_target_is_1e4_so_it_hardly_ever_bites():
    _, used, _ = quadratic_run(torch.optim.SGD, 1.0, signal="kappa")
    assert used == [1.0]


def test_a_curvature_target_adds_the_founding_law_to_the_edge():
    kappa = 100.0 / (100.0**2 + 1.0)
    _, used, _ = quadratic_run(torch.optim.SGD, 1e-3, curvature_target=kappa / 4)
    assert used[0] == pytest.approx(1e-3 / 4, rel=1e-6)  # κ bites, the edge does not
    _, used, _ = quadratic_run(torch.optim.SGD, 1.0, curvature_target=1e4, target=1.0)
    assert used[0] == pytest.approx(0.02, rel=1e-6)  # the edge bites, κ does not


def test_the_floor_is_a_share_of_the_schedule():
    scheduler, used, _ = quadratic_run(torch.optim.SGD, 1.0, (1e9, 1.0), floor=0.05)
    assert used[0] == pytest.approx(0.05)
    assert LR_REASONS[scheduler.lr_reason] == "floor"


def test_negative_curvature_has_no_edge():
    _, used, _ = quadratic_run(torch.optim.SGD, 1.0, (-50.0, -1.0))
    assert used[0] == 1.0


def test_directional_signal_is_the_curvature_along_the_step():
    """u = g: u'Hu/u'u = Σλ³x²/Σλ²x² at P = I."""
    scheduler, used, _ = quadratic_run(torch.optim.SGD, 1.0, signal="directional", target=1.0)
    expected = (100.0**3 + 1.0) / (100.0**2 + 1.0)
    assert scheduler.last_probe["directional_sharpness"] == pytest.approx(expected, rel=1e-6)
    assert used[0] == pytest.approx(2.0 / expected, rel=1e-6)


def test_release_is_bounded_per_step_and_attack_is_not():
    """Drop the curvature by 1e4: the rate climbs by 1.05 a step; raise it: down in two probes."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"target": 1.0, "budget": math.inf, "floor": 1e-6}
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, **settings)
    used = []
    for step in range(60):
        if step == 5:
            model.eigenvalues.fill_(0.01)
        if step == 40:
            model.eigenvalues.fill_(1000.0)
        optimizer.zero_grad()
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        used.append(optimizer.param_groups[0]["lr"])
        scheduler._guard.cadence.period = 1  # probe at every step: the release is at stake
        optimizer.step()
        scheduler.step()
    ratios = [b / a for a, b in itertools.pairwise(used)]
    assert max(ratios) <= 1.05 + 1e-12
    assert max(ratios[10:38]) == pytest.approx(1.05)
    assert used[40] == pytest.approx(0.5 * used[39] * 1.05, rel=1e-6)
    assert used[41] == pytest.approx(2.0 / 1000.0, rel=1e-6)


@pytest.mark.parametrize("seen_again", [True, False])
def test_a_large_cut_by_one_probe_gets_a_second_one_whatever_the_budget(seen_again):
    """λ is 50 times as high: in one probe only, which the next one takes back, or in both."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"target": 1.0, "budget": math.inf, "floor": 1e-6}
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, **settings)
    cadence, used = scheduler._guard.cadence, []
    for step in range(60):
        sharp = step == 40 or (seen_again and step > 40)
        model.eigenvalues.fill_(5000.0 if sharp else 100.0)
        cadence.period = 1 if step == 40 else cadence.period
        cadence.budget = math.inf if step <= 40 else 1e-9
        optimizer.zero_grad()
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert used[39] == pytest.approx(0.02)
    assert used[40] == pytest.approx(0.01)
    assert used[41] == pytest.approx(0.02 / 50.0 if seen_again else 0.02)


def test_a_doubted_cut_counts_in_full_where_nobody_asks_again():
    """update_curvature at every tenth step only: the step after the cut has no second probe."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, target=1.0, budget=math.inf)
    for step in range(43):
        model.eigenvalues.fill_(300.0 if step == 40 else 100.0)
        optimizer.zero_grad()
        model(DUMMY).backward()
        if step % 10 == 0:
            scheduler._guard.cadence.period = 1
            scheduler.update_curvature(batch=DUMMY)
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 / 3.0, rel=1e-3)


def test_sharp_quadratic_converges_where_plain_sgd_diverges():
    eigenvalues, lr = (100.0, 30.0, 2.0), 0.1  # the edge is at 0.02
    plain = Quadratic(list(eigenvalues))
    optimizer = torch.optim.SGD(plain.parameters(), lr=lr)
    for _ in range(60):
        optimizer.zero_grad()
        plain(DUMMY).backward()
        optimizer.step()
    assert plain(DUMMY).item() > 1e10
    _, _, model = quadratic_run(torch.optim.SGD, lr, eigenvalues, steps=600, budget=0.05)
    assert model(DUMMY).item() < 1e-8


def test_one_factor_for_all_groups_and_the_edge_is_exact_with_unequal_rates():
    """Groups at 1 and 1/100 on λ = 4 and λ = 100: with D = η_g/η the largest D·λ is 4."""
    torch.manual_seed(0)
    a, b = Quadratic([4.0]), Quadratic([100.0])
    both = nn.ModuleList([a, b])
    optimizer = torch.optim.SGD(
        [{"params": a.parameters(), "lr": 1.0}, {"params": b.parameters(), "lr": 0.01}]
    )

    def loss(model, batch):
        return model[0](batch) + model[1](batch)

    scheduler = HomotopyLR(optimizer, both, loss, target=0.5, budget=math.inf)
    loss(both, DUMMY).backward()
    scheduler.update_curvature(batch=DUMMY)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] == pytest.approx(0.5 * 2.0 / 4.0, rel=1e-6)
    assert rates[1] / rates[0] == pytest.approx(0.01, rel=1e-12)


def test_min_of_ceiling_and_inner_schedule():
    inner = build_schedule("linear", 50)
    _, used, _ = quadratic_run(
        torch.optim.SGD, 0.05, steps=50, inner=inner, target=1.0, scale_decay=False
    )
    for step, rate in enumerate(used):
        assert rate == pytest.approx(min(0.05 * inner(step), 2.0 / 100.0), rel=1e-4, abs=1e-15)


def test_a_schedule_whose_peak_is_refused_decays_from_what_it_reached():
    inner = build_schedule("linear", 50)
    scheduler, used, _ = quadratic_run(torch.optim.SGD, 0.05, steps=50, inner=inner, target=1.0)
    for step, rate in enumerate(used):
        assert rate == pytest.approx(2.0 / 100.0 * inner(step), rel=1e-4, abs=1e-15)
    assert LR_REASONS[scheduler.lr_reason] == "scaled"


def test_a_schedule_whose_peak_is_allowed_is_not_scaled():
    inner = build_schedule("linear", 50)
    _, used, _ = quadratic_run(torch.optim.SGD, 0.01, steps=50, inner=inner, target=1.0)
    assert used == [0.01 * inner(step) for step in range(50)]


def adam_rates(asked, **settings):
    """Rates and ceiling reasons of a small net's run under a cosine with that peak."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=asked)
    settings |= {"inner": build_schedule("cosine", 200, warmup=20), "total_steps": 200}
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), **settings)
    rates, reasons = [], []
    for x, y in batches(200):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        rates.append(optimizer.param_groups[0]["lr"])
        reasons.append(LR_REASONS[scheduler.lr_reason])
        optimizer.step()
        scheduler.step()
    return rates, reasons


def test_a_rate_thirty_times_too_high_ends_as_one_too_high():
    """Rise, peak and decay are measured: what was asked for only has to be more than that."""
    high, reasons = adam_rates(3.0, floor=0.0)
    higher, _ = adam_rates(100.0, floor=0.0)
    assert higher == pytest.approx(high, rel=1e-3)
    assert "rise" in reasons[:30] and reasons[-1] == "scaled"
    later = high[9:]
    assert later.index(max(later)) > 20 and max(later) < 1.5
    assert high[-1] < 0.2 * max(later)


def test_accumulation_does_not_confirm_a_doubted_cut():
    """Two micro-batches a step: the second call is no second probe."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"target": 1.0, "budget": math.inf, "floor": 1e-6}
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, **settings)
    used = []
    for step in range(45):
        model.eigenvalues.fill_(5000.0 if step == 40 else 100.0)
        scheduler._guard.cadence.period = 1
        optimizer.zero_grad()
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        scheduler.update_curvature(batch=DUMMY)
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert used[39:42] == pytest.approx([0.02, 0.01, 0.02])


def test_a_first_probe_long_after_the_start_holds_the_rate_at_once():
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, target=1.0)
    with pytest.warns(UserWarning, match="never called"):
        for _ in range(20):
            optimizer.step()
            scheduler.step()
    scheduler.update_curvature(batch=DUMMY)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


def test_mode_auto_is_not_scaled_while_its_rate_still_falls():
    """λ read higher again within the start: the ramp falls, and no limit falls with it twice."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"mode": "auto", "total_steps": 200, "budget": math.inf}
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, **settings)
    for step in range(30):
        model.eigenvalues.fill_(10.0 if step == 5 else 100.0)
        optimizer.zero_grad()
        model(DUMMY).backward()
        scheduler.update_curvature(batch=DUMMY)
        assert LR_REASONS[scheduler.lr_reason] != "scaled"
        optimizer.step()
        scheduler.step()


def test_layers_whose_factors_fall_are_no_decay():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    scheduler = PerLayerHomotopyLR(
        optimizer, model, nn.CrossEntropyLoss(), layers_freq=5, budget=math.inf, total_steps=100
    )
    reasons = set()
    for x, y in batches(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        scheduler.update_curvature(x, y)
        reasons.add(LR_REASONS[scheduler.lr_reason])
        optimizer.step()
        scheduler.step()
    assert "scaled" not in reasons and len(set(scheduler.multipliers.values())) > 1


@pytest.mark.parametrize("peak", [1e-7, 1e-3])
def test_a_rate_that_the_edge_allows_is_left_alone(peak):
    """A line that is far gentler than the schedule is none of its business."""
    rates, reasons = adam_rates(peak)
    assert set(reasons) == {"schedule"}
    assert rates == [peak * build_schedule("cosine", 200, warmup=20)(k) for k in range(200)]


def test_without_a_warmup_rates_rise_as_fast_as_the_edge_allows():
    line, _ = adam_rates(3.0, scale_decay=False)
    free, reasons = adam_rates(3.0, scale_decay=False, warmup=0.0)
    assert max(free[9:30]) > 1.5 * max(line[9:30])
    assert "rise" not in reasons


def test_the_last_probe_has_the_columns_of_the_log():
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), layers_freq=1, budget=math.inf)
    train(model, optimizer, scheduler, batches(1))
    layers = {k: v for k, v in scheduler.last_probe.items() if k.startswith("layer_")}
    values = {k: v for k, v in scheduler.last_probe.items() if k not in layers}
    wanted = {"kappa", "lambda_max", "lambda_min", "hessian_norm", "preconditioned_sharpness"}
    wanted |= {"edge_ratio", "ceiling", "residual", "converged", "n_hvp", "gradient_equivalents"}
    wanted |= {"probe_seconds", "probe_loss", "probe_grad_norm"}
    assert wanted <= set(values)
    assert all(math.isfinite(v) for v in values.values())
    assert scheduler.layer_names == ("0", "1", "4")
    assert set(layers) == {"layer_kappa", "layer_lambda_max", "layer_grad_norm"}
    assert layers["layer_lambda_max"].shape == (3,)


def test_layer_traces_are_those_of_the_blocks(monkeypatch):
    """A diagonal Hessian: zᵀHz = tr H for every sign vector, so three probes are exact."""
    monkeypatch.setattr(layer_watch, "FIRST_COST", 0.0)  # eigenvalues are not affordable then
    model = nn.ModuleDict({"a": Quadratic([3.0, 4.0]), "b": Quadratic([50.0])})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def loss(net, batch):
        return net["a"](batch) + net["b"](batch)

    scheduler = HomotopyLR(optimizer, model, loss, layers_freq=5, total_steps=1)
    loss(model, DUMMY).backward()
    scheduler.update_curvature(batch=DUMMY)
    assert scheduler.layer_names == ("a", "b")
    assert scheduler.last_probe["layer_trace"].tolist() == pytest.approx([7.0, 50.0])
    norms = [math.hypot(3.0, 4.0), 50.0]
    assert scheduler.last_probe["layer_grad_norm"].tolist() == pytest.approx(norms)


def test_layers_have_an_account_of_their_own():
    data = batches(400, rows=256)
    spent = []
    for freq in (0, 10):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        settings = {"total_steps": 1200, "layers_freq": freq}
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), **settings)
        train(model, optimizer, scheduler, data)
        spent.append(scheduler._guard.spent)
    layers = scheduler._guard.layers
    assert layers.cadence.spent <= 0.2 * 0.05 * 1200 + 1e-9
    assert layers.last_step > 16
    assert spent[1] <= 0.05 * 1200 + 1e-9


def test_the_edge_is_that_of_the_clipped_step():
    """SGD whose gradient is scaled by 1/4 diverges at four times the rate."""
    model = Quadratic([100.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, target=1.0)
    model(DUMMY).backward()
    scheduler.update_curvature(batch=DUMMY, clip_coef=0.25)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(4.0 * 2.0 / 100.0, rel=1e-6)
    assert scheduler.last_probe["edge_ratio"] == pytest.approx(1.0, rel=1e-6)
    assert scheduler.last_probe["lambda_max"] == pytest.approx(100.0, rel=1e-6)
    for wrong in (-0.5, 1.5, math.inf):
        with pytest.raises(ValueError, match="clip_coef is"):
            scheduler.update_curvature(batch=DUMMY, clip_coef=wrong)


def test_adam_under_a_constant_clip_has_the_edge_of_adam_without():
    """P is made of clipped gradients, so λ(P⁻¹H) grows as the clip coefficient falls."""
    found = []
    for coefficient in (1.0, 0.01):
        model = Quadratic([100.0, 3.0])
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-12)
        scheduler = HomotopyLR(optimizer, model, quadratic_loss, budget=math.inf)
        for _ in range(5):
            optimizer.zero_grad()
            model(DUMMY).backward()
            for parameter in model.parameters():
                parameter.grad *= coefficient
            scheduler.update_curvature(batch=DUMMY, clip_coef=coefficient)
            optimizer.step()
            scheduler.step()
        found.append(scheduler.last_probe["edge_ratio"])
    assert found[1] == pytest.approx(found[0], rel=1e-3)


def test_the_signal_chosen_is_said():
    model = network()
    for optimizer, words in (
        (torch.optim.AdamW(model.parameters()), "preconditioned_sharpness for AdamW"),
        (torch.optim.SGD(model.parameters(), lr=0.1), "sharpness for SGD"),
    ):
        events = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), total_steps=9).drain_events()
        assert [e.code for e in events] == ["SIGNAL"]
        assert events[0].message == f"signal {words}"


@pytest.mark.parametrize(
    ("settings", "share"),
    [({}, 0.05), ({"mode": "auto"}, 0.03), ({"mode": "auto", "budget": 0.2}, 0.2)],
)
def test_mode_auto_probes_less_unless_told(settings, share):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), **settings)
    assert scheduler._guard.cadence.budget == share


def test_a_sharpness_without_a_known_edge_is_said():
    model = network()
    optimizer = torch.optim.Adamax(model.parameters())
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), signal="sharpness")
    (event,) = scheduler.drain_events()
    assert (event.code, event.level) == ("THRESHOLD_UNKNOWN", "warning")
    assert event.message == (
        "no linear edge is known for Adamax, which uses gradient descent's c = 2"
    )


def test_an_edge_that_was_asked_for_holds_any_optimizer():
    model = Quadratic([100.0])
    optimizer = torch.optim.Adamax(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, signal="sharpness")
    model(DUMMY).backward()
    scheduler.update_curvature(batch=DUMMY)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.9 * 2 / 100.0)


def test_events_mark_where_the_ceiling_begins_and_ends_to_decide():
    scheduler, _, _ = quadratic_run(
        torch.optim.SGD, 0.5, (1.0,), inner=lambda k: 10.0 / (k + 1), steps=9, scale_decay=False
    )
    codes = [event.code for event in scheduler.drain_events()]
    assert codes == ["SIGNAL", "CEILING_ON", "CEILING_OFF"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"signal": "gradient"}, "signal is 'gradient': one of auto, sharpness"),
        ({"target": 0.0}, "target is 0.0"),
        ({"target": math.nan}, "target is nan"),
        ({"alpha": -1.0}, r"alpha is -1.0: it must be in \[0, inf\)"),
        ({"release": 0.9}, r"release is 0.9: it must be in \[1, inf\)"),
        ({"budget": 0.0}, r"budget is 0.0: it must be in \(0, inf\]"),
        ({"probe_fraction": 1.5}, "probe_fraction is 1.5"),
        ({"floor": 1.5}, r"floor is 1.5: it must be in \[0, 1\]"),
        ({"smoothing": 1.0}, r"smoothing is 1.0: it must be in \[0, 1\)"),
        ({"warmup": 1.5}, "warmup is 1.5"),
        ({"start_ratio": 0.0}, "start_ratio is 0.0"),
        ({"mode": "auto", "warmup": 0.0}, "mode auto rises"),
        ({"curvature_target": -1.0}, "curvature_target is -1.0"),
        ({"estimation_freq": 0}, "estimation_freq is 0"),
        ({"base_lr": 0.0}, "base_lr is 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    model = Quadratic([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=words):
        HomotopyLR(optimizer, model, quadratic_loss, **settings)


@pytest.mark.parametrize("total", [0, 50])
def test_mode_auto_says_that_it_never_decays_where_the_length_is_unknown(total):
    model = Quadratic([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss, mode="auto", total_steps=total)
    told = [event for event in scheduler.drain_events() if event.code == "NO_DECAY"]
    assert len(told) == (total == 0)


@pytest.mark.parametrize(("burst", "looks"), [(50.0, True), (1.2, False)])
def test_a_burst_before_the_decay_is_looked_at_again_over_the_budget(burst, looks):
    """λ = 1 but for two readings: the rate comes back, with nothing left to pay for probes."""
    theta = nn.Parameter(torch.ones(4))
    model = nn.ParameterList([theta])
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(
        optimizer,
        model,
        lambda model, batch: 0.5 * (model[0] ** 2).sum(),
        inner=lambda step: 1.0 if step <= 60 else 1.0 - 0.005 * (step - 60),
        budget=1e-6,
        target=0.9,
    )
    probes, rates = [], []
    for step in range(200):
        optimizer.zero_grad()
        (0.5 * (theta**2).sum()).backward()
        if step in (59, 60):
            scheduler._guard.ceiling.advance_to(step, 1.0)
            scheduler._guard.ceiling.take(burst, math.nan, step=step, elapsed=1)
        before = scheduler.n_probes
        scheduler.update_curvature(batch=theta.detach())
        probes += [step] * (scheduler.n_probes - before)
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    late = [step for step in probes if step > 60]
    if looks:
        assert rates[61] < 0.05 and late[0] == 81
        assert rates[-1] == pytest.approx(1.0 - 0.005 * 139)
    else:
        assert not late and rates[61] > 0.9
