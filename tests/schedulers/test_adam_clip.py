"""HomotopyAdam against torch's AdamW, and curvature_aware_clip against torch's clip."""

import copy
import io
import math

import pytest
import torch
from setups import DUMMY, Quadratic, batches, network, quadratic_loss
from torch import nn

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.schedulers.adam import HomotopyAdam
from homotopy_cli.schedulers.baselines import build_schedule
from homotopy_cli.schedulers.clip import curvature_aware_clip


def run_adam(optimizer, model, data, **arguments):
    criterion = nn.CrossEntropyLoss()
    for x, y in data:
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step(**({"inputs": x, "targets": y} if arguments.get("probe") else {}))


def test_without_a_model_it_is_torchs_adamw_bitwise():
    ours, theirs = network(), network()
    data = batches(8)
    for net, cls in ((ours, HomotopyAdam), (theirs, torch.optim.AdamW)):
        torch.manual_seed(2)
        run_adam(cls(net.parameters(), lr=1e-2), net, data)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def test_a_ceiling_that_does_not_bite_is_adamw_bitwise():
    ours, theirs = network(), network()
    data = batches(8)
    torch.manual_seed(2)
    optimizer = HomotopyAdam(ours.parameters(), 1e-6, model=ours, loss_fn=nn.CrossEntropyLoss())
    run_adam(optimizer, ours, data, probe=True)
    torch.manual_seed(2)
    run_adam(torch.optim.AdamW(theirs.parameters(), 1e-6), theirs, data)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert optimizer.guard.cadence.n_probes > 0
    assert optimizer.current_curvature > 0.0


def test_the_step_uses_the_ceiling_and_puts_the_groups_back():
    """First Adam step moves by η·sign(g): the distance is the rate that was used."""
    model = Quadratic([100.0, 1.0])
    optimizer = HomotopyAdam(
        model.parameters(), 10.0, eps=1e-12, weight_decay=0.0, model=model, loss_fn=quadratic_loss
    )
    model(DUMMY).backward()
    before = model.x.detach().clone()
    optimizer.step(batch=DUMMY)
    moved = (before - model.x.detach()).abs()
    expected = 0.9 * 2 * 1.9 * (1 - 0.9) / 0.1  # target·c at t = 1 over λ(P⁻¹H) = 1
    torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-6, atol=0)
    assert optimizer.param_groups[0]["lr"] == 10.0


def test_closure_loss_is_returned_and_evaluated_once():
    model = Quadratic([1.0])
    optimizer = HomotopyAdam(model.parameters(), 1e-3, model=model, loss_fn=quadratic_loss)
    calls = []

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = model(DUMMY)
        loss.backward()
        return loss

    expected = model(DUMMY).item()
    assert optimizer.step(closure, batch=DUMMY).item() == expected
    assert len(calls) == 1


def test_it_knows_of_clipping_as_the_schedulers_do():
    """λ of the clipped step is a tenth, so the rate that the edge allows is ten times as high."""
    rates = []
    for coefficient in (1.0, 0.1):
        model = Quadratic([100.0, 1.0])
        optimizer = HomotopyAdam(
            model.parameters(), 1e3, weight_decay=0.0, model=model, loss_fn=quadratic_loss
        )
        model(DUMMY).backward()
        optimizer.step(batch=DUMMY, loss=1.0, grad_norm=1.0, clip_coef=coefficient)
        rates.append(optimizer.guard.ceiling.level)
    assert rates[1] == pytest.approx(10.0 * rates[0])


def test_it_watches_the_loss_of_a_closure():
    model = Quadratic([1.0])
    optimizer = HomotopyAdam(model.parameters(), 1e-3, model=model, loss_fn=quadratic_loss)

    def closure():
        optimizer.zero_grad()
        loss = model(DUMMY)
        loss.backward()
        return loss

    first = model(DUMMY).item()
    for _ in range(3):
        optimizer.step(closure, batch=DUMMY)
    assert optimizer.guard.relapse.first == first


def test_it_measures_the_layers():
    model = network()
    optimizer = HomotopyAdam(
        model.parameters(), 1e-3, model=model, loss_fn=nn.CrossEntropyLoss(), layers_freq=1
    )
    run_adam(optimizer, model, batches(1), probe=True)
    assert len(optimizer.guard.last["layer_grad_norm"]) == 3


def test_the_founding_estimator_argument_names_model_and_loss():
    model = network()
    estimator = CurvatureEstimator(model, nn.CrossEntropyLoss())
    optimizer = HomotopyAdam(model.parameters(), lr=0.001, curvature_estimator=estimator)
    run_adam(optimizer, model, batches(2), probe=True)
    assert optimizer.guard.cadence.n_probes == 2


def test_a_scheduler_on_top_and_group_rates_are_respected():
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[4].parameters()}]
    optimizer = HomotopyAdam(groups, 0.01, model=model, loss_fn=nn.CrossEntropyLoss())
    build_schedule("linear", 10, optimizer=optimizer)
    run_adam(optimizer, model, batches(3), probe=True)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
    assert optimizer.guard.counter.n == 3


def test_adam_resumes_bitwise_from_weights_only_state():
    data = batches(12)

    def fresh():
        model = network(dropout=0.0)
        return model, HomotopyAdam(
            model.parameters(), 0.05, model=model, loss_fn=nn.CrossEntropyLoss()
        )

    model, optimizer = fresh()
    run_adam(optimizer, model, data, probe=True)
    first, optimizer_1 = fresh()
    run_adam(optimizer_1, first, data[:5], probe=True)
    file = io.BytesIO()
    torch.save([first.state_dict(), optimizer_1.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    second, optimizer_2 = fresh()
    second.load_state_dict(weights)
    optimizer_2.load_state_dict(state)
    run_adam(optimizer_2, second, data[5:], probe=True)
    torch.testing.assert_close(second.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_plain_adamw_state_loads():
    model = network()
    plain = torch.optim.AdamW(model.parameters(), 0.01)
    run_adam(plain, model, batches(2))
    optimizer = HomotopyAdam(model.parameters(), 0.01, model=model, loss_fn=nn.CrossEntropyLoss())
    optimizer.load_state_dict(copy.deepcopy(plain.state_dict()))
    run_adam(optimizer, model, batches(1), probe=True)
    assert int(optimizer.state[model[0].weight]["step"]) == 3


def test_settings_without_a_model_are_refused():
    with pytest.raises(TypeError, match="needs the model"):
        HomotopyAdam(network().parameters(), target=0.5)


# ---------------------------------------------------------------------- clip


def gradients(seed=0, scale=10.0):
    torch.manual_seed(seed)
    params = [nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(3, 2))]
    for p in params:
        p.grad = scale * torch.randn_like(p)
    return params


@pytest.mark.parametrize("scale", [10.0, 1e-3])
def test_at_zero_curvature_it_is_torchs_clip(scale):
    ours, theirs = gradients(scale=scale), gradients(scale=scale)
    norm = curvature_aware_clip(ours, 0.0, max_norm=1.0)
    expected = nn.utils.clip_grad_norm_(theirs, 1.0)
    torch.testing.assert_close(norm, expected, rtol=0, atol=0)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("curvature", "limit"), [(1e4, 0.5), (3e4, 0.25), (math.nan, 1.0)])
def test_the_limit_falls_with_curvature_in_place(curvature, limit):
    params = gradients()
    held = [p.grad for p in params]
    curvature_aware_clip(params, curvature, max_norm=1.0)
    assert all(p.grad is g for p, g in zip(params, held, strict=True))
    total = torch.cat([g.reshape(-1) for g in held]).norm().item()
    assert total == pytest.approx(limit, rel=1e-4)


def test_gradients_themselves_and_missing_ones():
    params = gradients()
    grads = [p.grad for p in params]
    norm = curvature_aware_clip([grads[0], None, grads[1]], 1e4, max_norm=1.0)
    assert norm.item() > 1.0
    assert torch.cat([g.reshape(-1) for g in grads]).norm().item() == pytest.approx(0.5, rel=1e-4)
    assert curvature_aware_clip([nn.Parameter(torch.zeros(2))], 1.0).item() == 0.0
    alone = torch.full((4,), 3.0)
    curvature_aware_clip(alone, 0.0, max_norm=1.0)
    assert alone.norm().item() == pytest.approx(1.0, rel=1e-4)


def test_non_finite_norm_and_impossible_limits():
    params = gradients()
    params[0].grad[0] = math.inf
    with pytest.raises(RuntimeError, match="non-finite"):
        curvature_aware_clip(params, 0.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match=r"max_norm -1.0"):
        curvature_aware_clip(params, 0.0, max_norm=-1.0)


def test_a_loop_that_gives_no_batch_is_told():
    model = network()
    optimizer = HomotopyAdam(
        model.parameters(), lr=1e-2, model=model, loss_fn=nn.CrossEntropyLoss()
    )
    with pytest.warns(UserWarning, match="was given no batch, so it is plain AdamW"):
        run_adam(optimizer, model, batches(4))


def test_a_copy_that_is_given_batches_says_once_that_it_has_no_guard():
    model = network()
    optimizer = copy.deepcopy(HomotopyAdam(model.parameters(), model=model))
    data = batches(2)
    with pytest.warns(UserWarning, match="has no guard, so it is plain AdamW") as caught:
        run_adam(optimizer, model, data, probe=True)
    assert len(caught) == 1


@pytest.mark.parametrize("returned", [lambda loss: (loss.item(), 0.5), lambda loss: {"loss": loss}])
def test_what_a_closure_returns_beside_a_loss_is_passed_through(returned):
    model = network()
    optimizer = HomotopyAdam(model.parameters(), model=model, loss_fn=nn.CrossEntropyLoss())
    ((x, y),) = batches(1)
    found = []

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        found.append(returned(loss))
        return found[-1]

    assert optimizer.step(closure, inputs=x, targets=y) is found[0]
    assert optimizer.guard.cadence.n_probes == 1
