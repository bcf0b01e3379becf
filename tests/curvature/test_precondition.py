"""P against the step the optimizer really takes, and what cannot be read."""

import pytest
import torch

from homotopy_cli.curvature.operators import PreconditionedOperator, inverse_square_root
from homotopy_cli.curvature.precondition import preconditioner, saved_preconditioner
from homotopy_cli.errors import ProblemError
from homotopy_cli.linalg.operator import DenseOperator

FAMILIES = {
    "adam": (torch.optim.Adam, {}),
    "adam l2": (torch.optim.Adam, {"weight_decay": 0.3}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.3}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
    "rmsprop centered": (torch.optim.RMSprop, {"centered": True}),
    "adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    "nadam": (torch.optim.NAdam, {}),
}


def trained(kind, options, steps, lr=1e-2):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(3, 2)), torch.nn.Parameter(torch.randn(4))]
    params = [torch.nn.Parameter(p.detach().double()) for p in params]
    optimizer = kind(params, lr=lr, **options)
    for t in range(steps):
        set_grads(params, t)
        optimizer.step()
    set_grads(params, steps)
    return params, optimizer


def set_grads(params, t):
    g = torch.Generator().manual_seed(100 + t)
    for p in params:
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64) * (1.0 + t)


def flat(tensors):
    return torch.cat([t.detach().reshape(-1) for t in tensors])


@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("name", FAMILIES)
def test_p_is_the_divisor_of_the_coming_step(name, steps):
    """With momentum off the step is lr * g / P exactly, so P can be read off the step."""
    kind, options = FAMILIES[name]
    if "betas" in kind.__init__.__code__.co_varnames:
        options = options | {"betas": (0.0, 0.99)}
    lr = 1e-2
    params, optimizer = trained(kind, options, steps, lr)
    found = preconditioner(optimizer, params)
    before, grad = flat(params), flat([p.grad for p in params])
    if name == "adam l2":
        grad = grad + 0.3 * before
    optimizer.step()
    step = before - flat(params)
    if name == "adamw":
        step = step - lr * 0.3 * before
    if name == "nadam":  # its Nesterov factor is common to all entries
        ratio = step * found / grad
        torch.testing.assert_close(ratio / ratio[0], torch.ones_like(ratio))
    else:
        torch.testing.assert_close(lr * grad / step, found, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_state_gives_the_same_as_the_live_optimizer(name):
    kind, options = FAMILIES[name]
    params, optimizer = trained(kind, options, 4)
    live = preconditioner(optimizer, params, include_gradient=False)
    saved = saved_preconditioner(optimizer.state_dict(), params)
    torch.testing.assert_close(saved, live, rtol=0, atol=0)
    grads = [p.grad for p in params]
    with_grads = saved_preconditioner(optimizer.state_dict(), params, grads=grads)
    torch.testing.assert_close(with_grads, preconditioner(optimizer, params), rtol=0, atol=0)


def test_order_follows_the_asked_parameters_and_strangers_never_move():
    params, optimizer = trained(torch.optim.Adam, {}, 2)
    stranger = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    found = preconditioner(optimizer, [params[1], stranger, params[0]])
    usual = preconditioner(optimizer, params)
    torch.testing.assert_close(found[:4], usual[6:])
    torch.testing.assert_close(found[6:], usual[:6])
    assert found[4:6].isinf().all()
    assert inverse_square_root(found)[4:6].tolist() == [0.0, 0.0]


def test_sgd_is_the_identity():
    params, optimizer = trained(torch.optim.SGD, {"momentum": 0.9}, 2)
    assert preconditioner(optimizer, params) is None
    assert saved_preconditioner(optimizer.state_dict(), params) is None


def test_untouched_optimizer_without_gradient_is_refused():
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ProblemError, match="Adam has taken no step and there is no gradient"):
        preconditioner(torch.optim.Adam([p]), [p])


def test_unknown_optimizer_is_refused_by_name():
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ProblemError, match="Rprop has no known diagonal metric"):
        preconditioner(torch.optim.Rprop([p]), [p])
    with pytest.raises(ProblemError, match=r"no known diagonal metric \(its settings are"):
        saved_preconditioner(torch.optim.Rprop([p]).state_dict(), [p])


def test_state_of_another_model_is_refused():
    params, optimizer = trained(torch.optim.Adam, {}, 2)
    with pytest.raises(ProblemError, match="covers 2 parameters, the model has 1"):
        saved_preconditioner(optimizer.state_dict(), params[:1])
    with pytest.raises(ProblemError, match=r"exp_avg has shape \(3, 2\), its parameter \(4,\)"):
        saved_preconditioner(optimizer.state_dict(), params[::-1])


def test_subclass_is_known_by_its_base():
    class Mine(torch.optim.Adam):
        pass

    params, optimizer = trained(Mine, {}, 1)
    twin_params, twin = trained(torch.optim.Adam, {}, 1)
    torch.testing.assert_close(preconditioner(optimizer, params), preconditioner(twin, twin_params))


def test_preconditioned_operator_has_the_spectrum_of_the_generalised_problem():
    a = torch.randn(5, 5, dtype=torch.float64)
    a, p = a + a.T, torch.rand(5, dtype=torch.float64) + 0.1
    operator = PreconditionedOperator(DenseOperator(a), inverse_square_root(p))
    rows = torch.stack([operator.matvec(e) for e in torch.eye(5, dtype=torch.float64)])
    torch.testing.assert_close(rows, rows.T)
    wanted = torch.linalg.eigvals(a / p[:, None]).real.sort().values
    torch.testing.assert_close(torch.linalg.eigvalsh(rows), wanted)


def test_misfits_are_programming_errors():
    with pytest.raises(ValueError, match="must be positive; 1 entries are not"):
        inverse_square_root(torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"shape \(2,\), the operator needs \(3,\)"):
        PreconditionedOperator(DenseOperator(torch.eye(3)), torch.ones(2))


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("group", "betas", (0.9,)),
        ("group", "betas", (0.9, "0.999")),
        ("group", "eps", "tiny"),
        ("group", "lr", torch.ones(2)),
        ("state", "exp_avg_sq", 0.5),
        ("state", "step", torch.ones(2)),
    ],
)
def test_settings_and_moments_that_cannot_be_read_are_refused_by_name(place, name, value):
    params, optimizer = trained(torch.optim.Adam, {}, 1)
    saved = optimizer.state_dict()
    (saved["param_groups"][0] if place == "group" else saved["state"][1])[name] = value
    with pytest.raises(ProblemError) as caught:
        saved_preconditioner(saved, params)
    assert caught.value.message == f"the optimizer state's {name} cannot be read: {value!r}"
