"""Evaluating a Problem changes nothing, bitwise: weights, .grad, buffers, modes, generators."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.problem import Problem


class Stateful(nn.Module):
    """Batch norm, dropout, a counter buffer, a plain tensor attribute, global randomness."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.5)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.state = torch.zeros(3)
        self.norm.eval()  # one submodule in another mode than its parent
        self.first.weight.grad = torch.ones_like(self.first.weight)

    def forward(self, x):
        self.calls += 1
        self.state = self.state + 1
        self.seen = x.shape
        noise = torch.randn(()) + random.random() + np.random.rand()
        return self.last(self.drop(self.norm(self.first(x)).tanh())) * (1 + 1e-3 * noise)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def snapshot(model):
    flags = {name: module.training for name, module in model.named_modules()}
    tensors = {
        name: (id(t), t.detach().clone())
        for name, t in [*model.named_parameters(), *model.named_buffers()]
    }
    grads = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state()
    return flags, tensors, grads, attributes, generators


def assert_same(before, after):
    flags, tensors, grads, attributes, (torch_state, python, numpy) = before
    assert after[0] == flags
    assert list(after[1]) == list(tensors)
    for name, (identity, value) in tensors.items():
        assert after[1][name][0] == identity, name
        assert torch.equal(after[1][name][1], value), name
    for name, grad in grads.items():
        assert (grad is None) == (after[2][name] is None)
        assert grad is None or torch.equal(grad, after[2][name])
    for name, entries in attributes.items():
        assert list(after[3][name]) == list(entries), name
        assert all(after[3][name][key] is value for key, value in entries.items()), name
    assert torch.equal(torch_state, after[4][0])
    assert python == after[4][1]
    assert numpy[2] == after[4][2][2]
    assert np.array_equal(numpy[1], after[4][2][1])


def batch(rows=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator)
    return x, torch.randint(3, (rows,), generator=generator)


@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_loss_and_products_leave_no_trace(mode, dtype):
    model = Stateful()
    before = snapshot(model)
    problem = Problem.from_module(model, loss, [batch(), batch(5, 1)], mode=mode, dtype=dtype)
    with problem.measuring():
        value = sum(w * problem.batch_loss(i) for i, w in enumerate(problem.weights))
        leaves = list(problem.params.values())
        grads = torch.autograd.grad(value, leaves, create_graph=True)
        torch.autograd.grad(sum((g * g).sum() for g in grads), leaves)
    assert_same(before, snapshot(model))


def test_a_failing_forward_leaves_no_trace():
    model = Stateful()
    before = snapshot(model)
    problem = Problem.from_module(model, loss, [(torch.randn(8, 5), torch.zeros(8).long())])
    state = torch.get_rng_state()
    with pytest.raises(ProblemError, match=r'5 features given, 4 wanted \(module "first", Linear'):
        problem.batch_loss(0)
    assert torch.equal(state, torch.get_rng_state())
    torch.set_rng_state(before[4][0])  # torch.randn above drew from it, in the test itself
    assert_same(before, snapshot(model))


def test_parameters_share_storage_and_follow_an_optimizer():
    model = nn.Linear(4, 3)
    problem = Problem.from_module(model, loss, [batch()])
    assert problem.params["weight"].data_ptr() == model.weight.data_ptr()
    assert problem.model_params["weight"] is model.weight
    first = problem.batch_loss(0).item()
    with torch.no_grad():
        model.weight.mul_(2.0)
    x, y = batch()
    expected = F.cross_entropy(model(x), y).item()
    assert problem.batch_loss(0).item() == expected != first
    assert problem.on([batch(6, 3)]).params["weight"].data_ptr() == model.weight.data_ptr()


def test_converted_copies_follow_on_new_batches():
    model = nn.Linear(4, 3)
    problem = Problem.from_module(model, loss, [batch()], dtype=torch.float64)
    with torch.no_grad():
        model.weight.mul_(2.0)
    again = problem.on([batch()])
    assert again.dtype == torch.float64
    torch.testing.assert_close(again.params["weight"].detach(), model.weight.double())


def test_train_mode_uses_batch_statistics_and_holds_one_dropout_mask():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    problem = Problem.from_module(model, loss, [batch()], mode="train", dtype=torch.float64)
    values = {problem.batch_loss(0).item() for _ in range(3)}
    assert len(values) == 1
    other = Problem.from_module(model, loss, [batch()], mode="train", dtype=torch.float64, seed=1)
    assert other.batch_loss(0).item() not in values
    x, y = batch()
    hidden = model[0].double()(x.double())
    centred = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    plain = nn.Sequential(*model[:2], model[3])
    by_hand = F.cross_entropy(model[3].double()(centred), y)
    quiet = Problem.from_module(plain, loss, [batch()], mode="train", dtype=torch.float64)
    torch.testing.assert_close(quiet.batch_loss(0), by_hand, rtol=1e-12, atol=0)
    assert model[1].num_batches_tracked.item() == 0


def test_every_submodule_is_switched_not_only_the_top():
    """A model that sets training=False on itself only still has its dropout switched off."""
    model = nn.Sequential(nn.Linear(4, 30), nn.Dropout(0.5), nn.Linear(30, 3))
    model.training = False
    assert model[1].training
    problem = Problem.from_module(model, loss, [batch()])
    model[1].eval()
    x, y = batch()
    assert problem.batch_loss(0).item() == F.cross_entropy(model(x), y).item()


def test_recomputed_activations_see_the_same_leaves_and_modes():
    """Non-reentrant checkpointing recomputes in backward: same values as without, float64."""
    from torch.utils.checkpoint import checkpoint

    class Recomputing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Tanh(), nn.Linear(5, 3))
            self.recompute = True

        def forward(self, x):
            if self.recompute:
                return checkpoint(self.body, x, use_reentrant=False)
            return self.body(x)

    model = Recomputing().eval()
    x, y = batch()

    def products(recompute):
        model.recompute = recompute
        problem = Problem.from_module(model, loss, [(x, y)], mode="train", dtype=torch.float64)
        leaves = list(problem.params.values())
        with problem.measuring():
            grads = torch.autograd.grad(problem.batch_loss(0), leaves, create_graph=True)
            return torch.autograd.grad(sum((g * g).sum() for g in grads), leaves)

    for found, expected in zip(products(True), products(False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_recurrent_layers_use_the_leaves():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(4, 5, batch_first=True)
            self.out = nn.Linear(5, 3)

        def forward(self, x):
            return self.out(self.rnn(x)[0][:, -1])

    model = Recurrent()
    flat = model.rnn._flat_weights
    problem = Problem.from_module(
        model, loss, [(torch.randn(2, 6, 4), torch.tensor([0, 2]))], dtype=torch.float64
    )
    grads = torch.autograd.grad(problem.batch_loss(0), list(problem.params.values()))
    assert all(float(g.abs().sum()) > 0 for g in grads)
    assert model.rnn._flat_weights is flat
    assert flat[0].dtype == torch.float32
