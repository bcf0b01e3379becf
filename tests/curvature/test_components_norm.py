"""What each normalisation divides by, against variances summed by hand. float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.problems.problem import Problem


def outputs_squared(model, x):
    return model(x).square().mean()


def measured(model, x, mode="eval"):
    found = measure_components(Problem.from_module(model, outputs_squared, [x], mode=mode))
    assert found.notes == ()
    return found.norm


def spread(values, *, about_mean=True, unbiased=False):
    """Σ(y - m)²/n of a list, by math.fsum; m = 0 for a mean square."""
    values = values.reshape(-1).tolist()
    mean = math.fsum(values) / len(values) if about_mean else 0.0
    return math.fsum((v - mean) ** 2 for v in values) / (len(values) - unbiased)


def agrees(norm, kind, variances, eps):
    smallest = min(variances)
    assert norm.kind == kind
    assert norm.sigma_min == pytest.approx(math.sqrt(smallest), rel=1e-12)
    assert norm.eps_over_var == pytest.approx(eps / smallest, rel=1e-12)
    assert norm.seed_kappa == pytest.approx(1 / smallest, rel=1e-12)


@pytest.fixture
def rows():
    return torch.randn(3, 4, 6, dtype=torch.float64) * torch.tensor([0.01, 1, 30])[:, None, None]


@pytest.fixture
def images():
    return (
        torch.randn(3, 4, 5, 5, dtype=torch.float64)
        * torch.tensor([0.1, 1, 3])[:, None, None, None]
    )


TORCH = {
    "LayerNorm": (nn.LayerNorm(6, eps=1e-3), 1e-3, True),
    "LayerNorm of two axes": (nn.LayerNorm((4, 6)), 1e-5, True),
    "RMSNorm": (nn.RMSNorm(6, eps=1e-4), 1e-4, False),
    "RMSNorm without eps": (nn.RMSNorm(6), torch.finfo(torch.float64).eps, False),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_row_norms(name, rows):
    layer, eps, about_mean = TORCH[name]
    (norm,) = measured(nn.Sequential(layer, nn.Linear(6, 1)).double(), rows)
    kept = 1 if "two axes" in name else 2
    variances = [spread(row, about_mean=about_mean) for row in rows.flatten(0, kept - 1)]
    agrees(norm, name.split()[0], variances, eps)
    assert norm.name == "0"
    assert norm.sigma_p01 >= norm.sigma_min


def test_group_norm(images):
    (norm,) = measured(nn.Sequential(nn.GroupNorm(2, 4), nn.Conv2d(4, 1, 1)).double(), images)
    groups = [spread(image[i : i + 2]) for image in images for i in (0, 2)]
    agrees(norm, "GroupNorm", groups, 1e-5)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_instance_norm(images, mode):
    """Without running statistics each image is its own in both modes."""
    model = nn.Sequential(nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 1)).double()
    (norm,) = measured(model, images, mode)
    agrees(norm, "InstanceNorm2d", [spread(c) for c in images.flatten(0, 1)], 1e-5)


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_batch_norm(axes, running, mode, images, rows):
    """Batch statistics in train mode, or where there are no others; else the running ones."""
    x = images if axes == 2 else rows
    make = nn.BatchNorm2d if axes == 2 else nn.BatchNorm1d
    layer = make(4, track_running_stats=running)
    if running:
        layer.running_var.copy_(torch.tensor([2.0, 0.25, 3.0, 4.0]))
    (norm,) = measured(nn.Sequential(layer, nn.Linear(x.shape[-1], 1)).double(), x, mode)
    if mode == "eval" and running:
        agrees(norm, make.__name__, [0.25], 1e-5)
    else:
        agrees(norm, make.__name__, [spread(c) for c in x.transpose(0, 1)], 1e-5)


class Norm(nn.Module):
    """A row norm written by hand."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.scale = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.way(x, self.scale)


def in_place_eps(x, w):
    variance = x.var(-1, keepdim=True, correction=0)
    variance += 1e-3
    x = x - x.mean(-1, keepdim=True)
    x /= torch.sqrt(variance)
    return x * w


def from_var_mean(x, w):
    variance, mean = torch.var_mean(x, dim=-1, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(variance + 1e-3) * w


def without_kept_axes(x, w):
    return x * (x.square().mean(-1) + 1e-3).rsqrt().unsqueeze(-1) * w


def in_single_precision(x, w):
    y = x.float()
    return w * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-3)).type_as(x)


CENTRED = {
    "squares of differences": lambda x, w: (
        (c := x - x.mean(-1, keepdim=True)) / torch.sqrt((c**2).mean(-1, keepdim=True) + 1e-3) * w
    ),
    "var": lambda x, w: (
        w * (x - x.mean(-1, True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-3).sqrt()
    ),
    "half power": lambda x, w: (
        w * (x - x.mean(-1, True)) / (x.var(-1, keepdim=True, unbiased=False) + 1e-3) ** 0.5
    ),
    "in place": in_place_eps,
    "var_mean": from_var_mean,
}
MEAN_SQUARES = {
    "rsqrt": lambda x, w: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-3) * w,
    "sqrt": lambda x, w: w * x / torch.sqrt(torch.mean(x**2, dim=-1, keepdim=True) + 1e-3),
    "reciprocal": lambda x, w: x * (1.0 / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-3)) * w,
    "power": lambda x, w: w * (x * torch.pow(x.square().mean(-1, keepdim=True) + 1e-3, -0.5)),
    "added by name": lambda x, w: w * x.div(x.square().mean(-1, True).add(1e-3).sqrt()),
    "without kept axes": without_kept_axes,
    "float32": in_single_precision,
}


@pytest.mark.parametrize("name", CENTRED)
def test_layer_norm_written_by_hand(name, rows):
    (norm,) = measured(nn.Sequential(Norm(CENTRED[name])).double(), rows)
    agrees(norm, "Norm", [spread(row) for row in rows.flatten(0, 1)], 1e-3)


@pytest.mark.parametrize("name", MEAN_SQUARES)
def test_rms_norm_written_by_hand(name, rows):
    (norm,) = measured(nn.Sequential(Norm(MEAN_SQUARES[name])).double(), rows)
    if name == "float32":
        rows = rows.float().double()
        smallest = min(spread(row, about_mean=False) for row in rows.flatten(0, 1))
        assert norm.sigma_min == pytest.approx(math.sqrt(smallest), rel=1e-6)
    else:
        squares = [spread(row, about_mean=False) for row in rows.flatten(0, 1)]
        agrees(norm, "Norm", squares, 1e-3)


@pytest.mark.parametrize(("way", "kind"), [("var", "LayerNorm"), ("rsqrt", "RMSNorm")])
def test_kind_of_a_norm_in_a_module_that_is_called_something_else(way, kind, rows):
    class Block(Norm):
        pass

    (norm,) = measured(Block((CENTRED | MEAN_SQUARES)[way]).double(), rows)
    assert norm.kind == kind


@pytest.mark.parametrize("spelling", ["std", "std_mean"])
def test_eps_added_to_the_deviation(spelling, rows):
    """x / (σ + ε): by how much (σ + ε)² exceeds σ²."""

    def way(x, w):
        if spelling == "std":
            mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        else:
            std, mean = torch.std_mean(x, -1, keepdim=True)
        return w * (x - mean) / (std + 1e-3)

    (norm,) = measured(Norm(way).double(), rows)
    smallest = min(spread(row, unbiased=True) for row in rows.flatten(0, 1))
    sigma = math.sqrt(smallest)
    assert norm.sigma_min == pytest.approx(sigma, rel=1e-12)
    assert norm.eps_over_var == pytest.approx(((sigma + 1e-3) ** 2 - smallest) / smallest, rel=1e-9)


def test_every_norm_of_a_stack_is_seen_once(rows):
    """What one layer's scale multiplies is no weight for the next."""

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6))

        def forward(self, x):
            y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            return y * (1.0 + self.weight)

    layers = nn.ModuleList([Scaled() for _ in range(3)])

    class Stack(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = layers

        def forward(self, x):
            for layer in self.layers:
                x = x + layer(x)
            return x

    found = measured(Stack().double(), rows)
    assert [norm.name for norm in found] == [f"layers.{i}" for i in range(3)]
    assert {norm.kind for norm in found} == {"RMSNorm"}


def test_weights_that_are_standardised_are_no_layer(images):
    class Standardised(nn.Conv2d):
        def forward(self, x):
            w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
            w = w * torch.rsqrt(w.square().mean((1, 2, 3), keepdim=True) + 1e-5)
            return F.conv2d(x, w, self.bias)

    assert measured(Standardised(4, 2, 3).double(), images) == ()


def test_a_distance_in_the_loss_is_no_layer(rows):
    def relative(model, x):
        y = model(x)
        return (y / (x.square().mean() + 1e-3).sqrt()).square().mean()

    problem = Problem.from_module(nn.Linear(6, 6).double(), relative, [rows])
    assert measure_components(problem).norm == ()


def test_half_precision_rms_norm_has_the_eps_of_float32():
    """torch computes it in float32, so that step is the eps it takes."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return F.rms_norm(self.linear(x).bfloat16(), (4,)).float()

    model, x = Half(), torch.randn(5, 4)
    (norm,) = measured(model, x)
    halved = model.linear(x).detach().bfloat16()
    smallest = min(spread(row, about_mean=False) for row in halved.double())
    assert norm.eps_over_var == pytest.approx(2.0**-23 / smallest, rel=1e-5)
    row = torch.full((1, 4), 2.0**-12, dtype=torch.bfloat16)  # of torch itself: ε shows here
    assert F.rms_norm(row, (4,))[0, 0].item() == pytest.approx(
        2.0**-12 / math.sqrt(2.0**-24 + 2.0**-23), rel=2.0**-7
    )


def test_a_constant_row_divides_by_eps_alone():
    model = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 1)).double()
    (norm,) = measured(model, torch.ones(2, 4, dtype=torch.float64))
    assert norm.sigma_min == 0
    assert norm.eps_over_var == math.inf
    assert norm.seed_kappa is None
