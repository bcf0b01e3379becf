"""The edge ηλ = c against what torch.optim really does on a quadratic, in float64.

Each optimizer runs on L = x²/2 from a start so small (1e-150) that its preconditioner is its
eps, exactly 1 here, and the dynamics are linear; the onset of divergence is bisected over the
learning rate. Nothing of thresholds.py is used to find it.
"""

import math

import pytest
import torch

from homotopy_cli.curvature.families import optimizer_family
from homotopy_cli.schedulers import thresholds
from homotopy_cli.schedulers.thresholds import stability_threshold

CASES = [
    (torch.optim.SGD, {}),
    (torch.optim.SGD, {"momentum": 0.9}),
    (torch.optim.SGD, {"momentum": 0.5, "dampening": 0.25}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.9}),
    (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.4}),
    (torch.optim.SGD, {"weight_decay": 0.3}),
    (torch.optim.Adam, {"eps": 1.0}),
    (torch.optim.Adam, {"eps": 1.0, "betas": (0.5, 0.99)}),
    (torch.optim.Adam, {"eps": 1.0, "amsgrad": True}),
    (torch.optim.AdamW, {"eps": 1.0, "weight_decay": 0.0}),
    (torch.optim.AdamW, {"eps": 1.0, "weight_decay": 0.02}),
    (torch.optim.NAdam, {"eps": 1.0, "momentum_decay": 0.0}),
    (torch.optim.NAdam, {"eps": 1.0, "momentum_decay": 1.0}),
    (torch.optim.RMSprop, {"eps": 1.0}),
    (torch.optim.RMSprop, {"eps": 1.0, "momentum": 0.8}),
    (torch.optim.Adagrad, {"eps": 1.0}),
]


def label(case):
    return f"{case[0].__name__}-" + ",".join(f"{k}={v}" for k, v in case[1].items())


def growth(optimizer_class, settings, lr, steps=1500):
    """log|x| gained over the second half of the run: its sign says diverging or not."""
    x = torch.nn.Parameter(torch.tensor([1e-150], dtype=torch.float64))
    optimizer = optimizer_class([x], lr=lr, foreach=False, **settings)
    half, size = 0.0, 1e-300
    for step in range(steps):
        x.grad = x.detach().clone()
        optimizer.step()
        size = max(abs(x.item()), 1e-300)
        if size > 1e-12:  # grown by 138 decades: no doubt left, and eps still dominates
            return math.inf
        if step == steps // 2:
            half = size
    return math.log(size / half) if half > 1e-290 else -math.inf


def onset(optimizer_class, settings, low, high):
    assert growth(optimizer_class, settings, low) < 0.0
    assert growth(optimizer_class, settings, high) > 0.0
    while high / low > 1.02:
        middle = math.sqrt(low * high)
        if growth(optimizer_class, settings, middle) < 0.0:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_threshold_predicts_the_onset_of_divergence(case):
    optimizer_class, settings = case
    group = optimizer_class([torch.nn.Parameter(torch.zeros(1))], lr=1.0, **settings)
    family = optimizer_family(group)
    law = thresholds.edge_law(family, group.param_groups[0], 10**6)
    edge = law.c0 / (1.0 + law.shift)  # η(λ + shift) = c₀ at λ = 1
    found = onset(optimizer_class, settings, 0.6 * edge, 1.6 * edge)
    assert found == pytest.approx(edge, rel=0.03)
    assert stability_threshold(group, lr=edge, step=10**6) == pytest.approx(edge, rel=1e-9)


@pytest.mark.parametrize(
    ("optimizer_class", "settings", "expected"),
    [  # Cohen et al. 2021, 2022, in numbers
        (torch.optim.SGD, {}, 2.0),
        (torch.optim.SGD, {"momentum": 0.9}, 3.8),
        (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.9}, 38.0),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, 3.8 / 2.8),
        (torch.optim.Adam, {}, 38.0),
    ],
)
def test_published_thresholds(optimizer_class, settings, expected):
    optimizer = optimizer_class([torch.nn.Parameter(torch.zeros(1))], lr=0.1, **settings)
    assert stability_threshold(optimizer, 10**6) == pytest.approx(expected)


@pytest.mark.parametrize("step", [1, 2, 10, 100])
def test_adam_bias_correction_lowers_the_early_edge(step):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    assert stability_threshold(optimizer, step) == pytest.approx(38.0 * (1 - 0.9**step))


@pytest.mark.parametrize("step", [1, 2, 3, 10, 500])
def test_nadam_coefficients_are_those_torch_uses(step):
    """Oracle: torch's own first-order coefficients, read off one step with unit gradients."""
    b, decay, lr = 0.9, 0.004, 1e-3
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.NAdam([x], lr=lr, eps=1e30, momentum_decay=decay, foreach=False)
    for _ in range(step - 1):
        x.grad = torch.zeros_like(x)
        optimizer.step()
    before = x.item()
    x.grad = torch.ones_like(x)
    optimizer.step()
    moved = (before - x.item()) * 1e30 / lr  # A + B·(1 - β₁), the buffer being zero before
    c = stability_threshold(optimizer, step)
    # c = 2(1+b)/(A(1+b) + B·G) and A + B·G = moved; A from the paper's formula
    mu = [b * (1 - 0.5 * 0.96 ** (i * decay)) for i in range(1, step + 1)]
    gradient = (1 - mu[-1]) / (1 - math.prod(mu))
    assert c == pytest.approx(2 * (1 + b) / (moved + b * gradient), rel=1e-6)  # μ product: float32


def test_adagrad_lr_decay_raises_the_edge():
    optimizer = torch.optim.Adagrad([torch.nn.Parameter(torch.zeros(1))], lr=1.0, lr_decay=0.1)
    assert stability_threshold(optimizer, 11) == pytest.approx(4.0)


def test_the_smallest_threshold_of_all_groups_counts():
    a, b = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([{"params": [a], "momentum": 0.9}, {"params": [b]}], lr=0.1)
    assert stability_threshold(optimizer) == 2.0


def test_step_is_read_from_the_optimizer_state():
    x = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([x])
    assert thresholds.next_step(optimizer) == 1
    for _ in range(3):
        x.grad = torch.ones(1)
        optimizer.step()
    assert thresholds.next_step(optimizer) == 4
    assert stability_threshold(optimizer) == pytest.approx(38.0 * (1 - 0.9**4))


class Lion(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 1e-4})

    def step(self, closure=None):
        return None


class MyAdam(torch.optim.AdamW):
    pass


def test_families():
    x = [torch.nn.Parameter(torch.zeros(1))]
    assert optimizer_family(Lion(x)) == "unknown"
    assert optimizer_family(MyAdam(x)) == "adam"
    assert optimizer_family(torch.optim.NAdam(x)) == "nadam"
    assert optimizer_family(torch.optim.Adamax(x)) == "unknown"


def test_a_bare_group_needs_its_family():
    with pytest.raises(ValueError, match="family"):
        stability_threshold({"lr": 0.1})


def test_weight_decay_never_makes_the_threshold_negative():
    x = [torch.nn.Parameter(torch.zeros(1))]
    optimizer = torch.optim.SGD(x, lr=100.0, weight_decay=1.0)
    assert stability_threshold(optimizer) == pytest.approx(2e-3)
