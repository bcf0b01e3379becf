"""Which rows a probe measures, and when a slice stands for its batch."""

import pytest
import torch
from setups import DUMMY, Quadratic, batches, network, quadratic_loss, train
from torch import nn

from homotopy_cli.schedulers.homotopy import HomotopyLR
from homotopy_cli.schedulers.ranks import gradient_is_finite
from homotopy_cli.schedulers.slices import NORMED, least_rows, slice_size, why_not_sliced


def plain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def first_probe(loss_fn, *, model=None, rows=128, **settings):
    model = model or plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, loss_fn, **settings)
    x, y = batches(1, rows=rows)[0]
    loss_fn(model(x), y).backward()
    scheduler.update_curvature(x, y)
    return scheduler, [event.code for event in scheduler.drain_events()]


def test_a_mean_over_rows_is_measured_on_a_slice():
    scheduler, codes = first_probe(nn.CrossEntropyLoss())
    assert "WHOLE_BATCH" not in codes and scheduler._guard.probe.whole is False


def test_a_sum_over_rows_is_measured_on_all_of_them():
    """A slice of 8 rows of 128 would see a sixteenth of the curvature."""
    scheduler, codes = first_probe(nn.CrossEntropyLoss(reduction="sum"))
    mean, _ = first_probe(nn.CrossEntropyLoss(), probe_fraction=1.0)
    assert "WHOLE_BATCH" in codes
    expected = 128 * mean.last_probe["lambda_max"]
    assert scheduler.last_probe["lambda_max"] == pytest.approx(expected, rel=0.02)


def test_a_loss_that_compares_rows_is_measured_on_all_of_them():
    """Its labels are row numbers, which a slice does not have."""

    def contrastive(features, _):
        features = nn.functional.normalize(features, dim=1)
        scores = 10.0 * features @ features.T
        return nn.functional.cross_entropy(scores, torch.arange(len(features)) ^ 1)

    scheduler, codes = first_probe(contrastive)
    assert "WHOLE_BATCH" in codes and scheduler._guard.n_failed == 0


def test_what_was_learned_of_the_loss_survives_a_checkpoint():
    scheduler, _ = first_probe(nn.CrossEntropyLoss(reduction="sum"))
    other, _ = first_probe(nn.CrossEntropyLoss())
    other.load_state_dict(scheduler.state_dict())
    assert other._guard.probe.whole is True


def test_batch_norm_wants_more_rows_only_while_it_normalises_over_them():
    model = network()
    assert least_rows(model) == NORMED and least_rows(plain()) == 2
    assert least_rows(model.eval()) == 2
    assert slice_size(128, 1 / 16, NORMED) == 32
    assert slice_size(16, 1 / 16, NORMED) == 16
    assert slice_size(128, 1 / 16) == 8


def test_a_slice_under_batch_norm_reads_about_what_the_batch_does():
    part, _ = first_probe(nn.CrossEntropyLoss(), model=network(dropout=0.0))
    whole, _ = first_probe(nn.CrossEntropyLoss(), model=network(dropout=0.0), probe_fraction=1.0)
    ratio = part.last_probe["lambda_max"] / whole.last_probe["lambda_max"]
    assert 0.5 < ratio < 3.0


def why(losses):
    return why_not_sliced(losses, torch.ones(8, 1), 2)


def test_what_the_losses_of_slices_tell():
    nan, one = [float("nan")], [1.0]
    assert why(lambda found: nan * len(found)) == ""  # a slice without any target
    assert why(lambda found: one * len(found)) == ""
    summed = why(lambda found: [float(len(f)) for f in found])
    assert summed == "the mean loss of slices is 2, that of the batch 8"

    def refuses(found):
        if len(found[0]) < 8:
            raise IndexError("row 7")
        return one

    assert why(refuses) == "a slice cannot be measured alone (row 7)"

    def never(found):
        raise RuntimeError("out of memory")

    assert why(never) == ""  # the probe itself says it


def test_no_slice_is_a_short_rest():
    """Batch norm refuses one row: 65 rows are two slices, not two and a rest."""
    seen = []
    why_not_sliced(lambda found: [seen.append(len(f)) or 1.0 for f in found], torch.ones(65, 1), 32)
    assert seen == [65, 33, 32]


def test_a_model_that_differentiates_in_its_forward_pass_is_sliced():
    class Force(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain()

        def forward(self, x):
            x = x.detach().requires_grad_()
            (force,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
            return force

    def squared(forces, _):
        return (forces**2).mean()

    scheduler, codes = first_probe(squared, model=Force())
    assert "WHOLE_BATCH" not in codes and scheduler._guard.probe.whole is False


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_overflowed_is_no_probe(bad):
    """A GradScaler finds its scale by overflowing: the first steps are skipped, not measured."""
    model = Quadratic([100.0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    scheduler = HomotopyLR(optimizer, model, quadratic_loss)
    model(DUMMY).backward()
    good = [p.grad.clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad.fill_(bad)
    assert scheduler.update_curvature(batch=DUMMY) is None
    assert scheduler.n_probes == 0 and scheduler._guard.n_failed == 0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-2)  # the floor, till it is measured
    for p, grad in zip(model.parameters(), good, strict=True):
        p.grad.copy_(grad)
    assert scheduler.update_curvature(batch=DUMMY) is not None  # the same step, tried again


def test_climbing_is_refused():
    model = Quadratic([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True)
    with pytest.raises(ValueError, match="maximize=True: the edge of stability is that of a desc"):
        HomotopyLR(optimizer, model, quadratic_loss)


def test_a_short_run_is_released_in_time():
    """Fifty steps from a constant rate: at 5 % a step the ceiling would be the whole run."""
    finals = []
    for settings in ({}, {"release": 1.05}):
        model = plain()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), total_steps=50, **settings)
        used = train(model, optimizer, scheduler, batches(50, rows=32))
        finals.append(used[12][0])
    assert finals[0] > 5 * finals[1]


def test_sparse_gradients_are_looked_at():
    table = nn.Embedding(5, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    table(torch.tensor([0, 3, 3])).sum().backward()
    assert gradient_is_finite(optimizer)
    table.weight.grad = None
    (table(torch.tensor([0, 3])) * torch.inf).sum().backward()
    assert not gradient_is_finite(optimizer)
