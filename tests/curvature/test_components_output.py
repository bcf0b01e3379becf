"""Target probabilities and log Z against sums of exponentials by hand. float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.problems.problem import Problem

CLASSES = 5


def model():
    torch.manual_seed(1)
    net = nn.Linear(3, CLASSES).double()
    nn.init.normal_(net.weight, std=2.0)
    return net


@pytest.fixture
def x():
    return torch.randn(40, 3, dtype=torch.float64)


@pytest.fixture
def classes():
    return torch.randint(CLASSES, (40,))


def measured(net, loss, batch):
    found = measure_components(Problem.from_module(net, loss, [batch]))
    assert found.notes == ()
    return found.cross_entropy


def by_hand(logits, targets):
    """[(p of the target, log Z)] per row; targets are indices or rows of probabilities."""
    found = []
    for row, target in zip(logits.detach().tolist(), targets.tolist(), strict=True):
        z = math.fsum(math.exp(v) for v in row)
        if isinstance(target, list):
            p = math.prod((math.exp(v) / z) ** t for v, t in zip(row, target, strict=True))
        else:
            p = math.exp(row[target]) / z
        found.append((p, math.log(z)))
    return found


def quantile(values, q):
    """Linear between order statistics."""
    values = sorted(values)
    place = q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def agrees(found, rows):
    p = [value for value, _ in rows]
    assert found.p_min == pytest.approx(min(p), rel=1e-10)
    assert found.p_q001 == pytest.approx(quantile(p, 0.001), rel=1e-10)
    assert found.p_q01 == pytest.approx(quantile(p, 0.01), rel=1e-10)
    assert found.log_z_mean == pytest.approx(math.fsum(z for _, z in rows) / len(rows), rel=1e-10)
    assert found.seed_kappa == pytest.approx(1 / min(p), rel=1e-10)


def gathered_in_pieces(net, batch):
    """Scores of ten rows at a time, summed, as memory-saving losses do."""
    x, target = batch
    parts = zip(x.split(10), target.split(10), strict=True)
    return sum(F.cross_entropy(net(a), b, reduction="sum") for a, b in parts) / len(x)


def classes_on_axis_one(net, batch):
    x, target = batch
    scores = net(x).reshape(8, 5, CLASSES).transpose(1, 2)
    return F.cross_entropy(scores, target.reshape(8, 5))


def log_softmax_viewed(net, batch):
    x, target = batch
    log_p = net(x).reshape(8, 5, CLASSES).transpose(0, 1).log_softmax(dim=-1)
    return F.nll_loss(log_p.transpose(0, 1).reshape(-1, CLASSES), target)


SPELLINGS = {
    "function": lambda net, b: F.cross_entropy(net(b[0]), b[1]),
    "module": lambda net, b: nn.CrossEntropyLoss()(net(b[0]), b[1]),
    "by name": lambda net, b: F.cross_entropy(input=net(b[0]), target=b[1]),
    "nll of log_softmax": lambda net, b: F.nll_loss(F.log_softmax(net(b[0]), dim=1), b[1]),
    "modules of both": lambda net, b: nn.NLLLoss()(nn.LogSoftmax(-1)(net(b[0])), b[1]),
    "views between": log_softmax_viewed,
    "label smoothing": lambda net, b: F.cross_entropy(net(b[0]), b[1], label_smoothing=0.1),
    "class weights": lambda net, b: F.cross_entropy(
        net(b[0]), b[1], weight=torch.arange(1.0, 6.0).double()
    ),
    "in pieces": gathered_in_pieces,
    "one row at a time": lambda net, b: (
        sum(F.cross_entropy(net(a), t) for a, t in zip(*b, strict=True)) / len(b[0])
    ),
    "classes on axis 1": classes_on_axis_one,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_cross_entropy_however_it_is_written(name, x, classes):
    net = model()
    found = measured(net, SPELLINGS[name], (x, classes))
    agrees(found, by_hand(net(x), classes))
    assert found.max_logit == pytest.approx(net(x).abs().max().item(), rel=1e-12)


@pytest.mark.parametrize("spelling", ["cross_entropy", "nll_loss"])
def test_targets_that_are_ignored_do_not_count(spelling, x, classes):
    net = model()
    classes[::3] = 99

    def loss(net, batch):
        if spelling == "cross_entropy":
            return F.cross_entropy(net(batch[0]), batch[1], ignore_index=99)
        return F.nll_loss(net(batch[0]).log_softmax(-1), batch[1], None, None, 99)

    kept = classes != 99
    agrees(measured(net, loss, (x, classes)), by_hand(net(x)[kept], classes[kept]))


def test_classes_of_weight_0_do_not_count(x, classes):
    net = model()
    weight = torch.tensor([1.0, 0, 2, 3, 1]).double()
    found = measured(net, lambda n, b: F.cross_entropy(n(b[0]), b[1], weight), (x, classes))
    kept = classes != 1
    agrees(found, by_hand(net(x)[kept], classes[kept]))


def test_class_probabilities_as_targets(x):
    net, t = model(), torch.rand(40, CLASSES, dtype=torch.float64).softmax(-1)
    found = measured(net, lambda n, b: F.cross_entropy(n(b[0]), b[1]), (x, t))
    agrees(found, by_hand(net(x), t))
    mean = -math.fsum(math.log(p) for p, _ in by_hand(net(x), t)) / 40
    assert F.cross_entropy(net(x), t).item() == pytest.approx(mean, rel=1e-12)


def binary_with_logits(net, batch):
    return F.binary_cross_entropy_with_logits(net(batch[0]), batch[1])


def binary_of_a_sigmoid(net, batch):
    return F.binary_cross_entropy(torch.sigmoid(net(batch[0])).flatten(), batch[1].flatten())


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "loss",
    [
        binary_with_logits,
        binary_of_a_sigmoid,
        lambda n, b: nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))(n(b[0]), b[1]),
        lambda n, b: nn.BCELoss()(nn.Sigmoid()(n(b[0])), b[1]),
    ],
    ids=["with logits", "of a sigmoid", "module, positives weighted", "modules of both"],
)
def test_binary_cross_entropy_is_a_softmax_over_0_and_the_logit(loss, soft, x):
    net, t = model(), torch.rand(40, CLASSES, dtype=torch.float64)
    t = t if soft else t.round()
    z = net(x).detach().reshape(-1)
    both = torch.stack([torch.zeros_like(z), z], -1)
    targets = torch.stack([1 - t.reshape(-1), t.reshape(-1)], -1)
    agrees(measured(net, loss, (x, t)), by_hand(both, targets))


def test_elements_of_weight_0_do_not_count(x):
    net, t = model(), torch.rand(40, CLASSES, dtype=torch.float64).round()
    mask = (torch.arange(40) % 4 != 0).double()[:, None]
    found = measured(
        net, lambda n, b: F.binary_cross_entropy_with_logits(n(b[0]), b[1], weight=mask), (x, t)
    )
    z = net(x).detach()[mask[:, 0] > 0].reshape(-1)
    both = torch.stack([torch.zeros_like(z), z], -1)
    agrees(found, by_hand(both, t[mask[:, 0] > 0].reshape(-1).long()))


def test_half_precision_scores_are_read_in_float32():
    net = nn.Linear(3, CLASSES)
    x, classes = torch.randn(20, 3), torch.randint(CLASSES, (20,))
    found = measured(net, lambda n, b: F.cross_entropy(n(b[0]).bfloat16(), b[1]), (x, classes))
    rows = by_hand(net(x).bfloat16().double(), classes)
    assert found.p_min == pytest.approx(min(p for p, _ in rows), rel=1e-5)
    assert found.log_z_mean == pytest.approx(math.fsum(z for _, z in rows) / 20, rel=1e-5)


def test_classes_that_are_switched_off(x):
    """A logit of -inf is no class, and no fault."""
    net = model()
    off = torch.tensor([0, 0, -math.inf, 0, 0]).double()
    classes = torch.randint(2, (40,))
    found = measured(net, lambda n, b: F.cross_entropy(n(b[0]) + off, b[1]), (x, classes))
    agrees(found, by_hand(net(x)[:, [0, 1, 3, 4]], classes))


def test_a_log_softmax_over_another_axis_is_no_output(x, classes):
    found = measured(model(), lambda n, b: F.nll_loss(n(b[0]).log_softmax(0), b[1]), (x, classes))
    assert found is None


def test_a_mean_square_has_no_output_softmax(x):
    assert measured(model(), "mse", (x, torch.randn(40, CLASSES, dtype=torch.float64))) is None
