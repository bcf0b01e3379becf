"""Models whose forward pass writes to weights: a probe writes to copies, and measures one function.

Oracle: a deep copy of the model, called once by plain torch, for the loss and the gradient.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from homotopy_cli import probe
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.chunks import total
from homotopy_cli.problems.problem import Problem


class Clamped(nn.Module):
    """`.data` has a version counter of its own: only the operation itself shows the write."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x):
        self.a.weight.data.clamp_(-0.2, 0.2)
        return self.a(x)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(5, 4, max_norm=0.3)

    def forward(self, x):
        return self.e((x[:, 0] > 0).long()) * x


class Followed(nn.Module):
    """A frozen encoder that follows a trained one, as momentum contrast does."""

    def __init__(self):
        super().__init__()
        self.q, self.k = nn.Linear(4, 4), nn.Linear(4, 4)
        self.k.requires_grad_(False)

    def forward(self, x):
        with torch.no_grad():
            for mine, other in zip(self.k.parameters(), self.q.parameters(), strict=True):
                mine.mul_(0.9).add_(other, alpha=0.1)
        return self.q(x) * self.k(x)


class Averaging(nn.Module):
    """A running mean in a plain attribute, and one written by a foreach operation."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.mean, self.other = torch.zeros(4), torch.ones(4)

    def forward(self, x):
        hidden = self.a(x)
        self.mean.mul_(0.9).add_(hidden.detach().mean(0))
        torch._foreach_add_([self.other], 1.0)
        return hidden * (1 + self.mean) * self.other


WRITING = (Clamped, Normalised, Followed, Averaging)


def made(kind):
    torch.manual_seed(0)
    model, x = kind(), torch.randn(16, 4)
    return model, (x, torch.randint(0, 4, (16,)))


def held(model):
    """Name -> (the tensor, a copy): parameters, and what modules keep beside them."""
    found = dict(model.named_parameters())
    for path, module in model.named_modules():
        found |= {f"{path}.{k}": v for k, v in vars(module).items() if isinstance(v, torch.Tensor)}
    return {name: (tensor, tensor.detach().clone()) for name, tensor in found.items()}


def assert_untouched(model, before):
    after = held(model)
    assert after.keys() == before.keys()
    for name, (tensor, value) in before.items():
        assert after[name][0] is tensor, name
        assert torch.equal(tensor, value), name


@pytest.mark.parametrize("kind", WRITING)
@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
def test_a_probe_of_a_model_that_writes_leaves_no_trace(kind, mode):
    model, batch = made(kind)
    before = held(model)
    probe(Problem.from_module(model, "cross_entropy", [batch], mode=mode))
    assert_untouched(model, before)


@pytest.mark.parametrize("kind", WRITING)
@pytest.mark.parametrize("dtype", [None, torch.float64])
def test_every_evaluation_is_the_first(kind, dtype):
    """Loss and gradient of one call of a copy, again and again, and within one measurement."""
    model, (x, y) = made(kind)
    other = copy.deepcopy(model).to(dtype or torch.float32)
    loss = F.cross_entropy(other(x.to(dtype or torch.float32)), y)
    trained = [p for p in other.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(loss, trained)
    problem = Problem.from_module(model, "cross_entropy", [(x, y)], dtype=dtype)
    rtol = 1e-12 if dtype else 1e-6
    assert total(problem) == pytest.approx(loss.item(), rel=rtol)
    with problem.measuring():
        for _ in range(3):
            found = problem.batch_loss(0)
            assert found.item() == pytest.approx(loss.item(), rel=rtol)
            grads = torch.autograd.grad(found, list(problem.params.values()))
            for left, right in zip(grads, wanted, strict=True):
                torch.testing.assert_close(left, right, rtol=10 * rtol, atol=10 * rtol)


def test_guessing_a_loss_leaves_no_trace():
    model, batch = made(Clamped)
    before = held(model)
    problem = Problem.from_module(model, None, [batch])
    assert problem.criterion_name == "cross_entropy"
    assert_untouched(model, before)


def test_leaves_of_models_that_write_nothing_share_the_weights_storage():
    class Plain(nn.Sequential):
        pass

    model = Plain(nn.Linear(4, 4))
    problem = Problem.from_module(model, "cross_entropy", [made(Clamped)[1]])
    total(problem)
    for name, leaf in problem.params.items():
        assert leaf.data_ptr() == problem.model_params[name].data_ptr()


def test_one_pass_more_for_each_model_and_none_for_torchs_own_modules():
    """The pass that looks for writes: once for a model of the user's, not once for a probe."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        return F.cross_entropy(model(batch[0]), batch[1])

    class Mine(nn.Sequential):
        pass

    batch = made(Clamped)[1]
    for model, more in ((nn.Sequential(nn.Linear(4, 4)), 0), (Mine(nn.Linear(4, 4)), 1)):
        calls.clear()
        for _ in range(3):
            total(Problem.from_module(model, loss, [batch]))
        assert len(calls) == 3 + more


class Resettable(nn.Module):
    """A state that the loop may set to None, as recurrent models do between sequences."""

    def __init__(self):
        super().__init__()
        self.a, self.h = nn.Linear(4, 4), None

    def forward(self, x):
        if self.h is None:
            self.h = torch.zeros(4)
        hidden = self.a(x) + 0.1 * self.h
        self.h.mul_(0.9).add_(0.1 * hidden.detach().mean(0))
        return hidden


def test_what_was_written_to_may_be_gone_at_the_next_probe():
    model, (x, y) = made(Resettable)
    model(x)
    total(Problem.from_module(model, "cross_entropy", [(x, y)]))
    model.h = None
    wanted = F.cross_entropy(copy.deepcopy(model)(x), y).item()
    assert total(Problem.from_module(model, "cross_entropy", [(x, y)])) == pytest.approx(wanted)
    assert model.h is None


@pytest.mark.parametrize("kind", [Clamped, Normalised, Followed, Averaging])
def test_a_replaced_module_is_looked_at_anew(kind):
    first, batch = made(Clamped)
    model = nn.Sequential(nn.Linear(4, 4), first)
    total(Problem.from_module(model, "cross_entropy", [batch]))
    model[1] = made(kind)[0]
    before = held(model)
    total(Problem.from_module(model, "cross_entropy", [batch]))
    assert_untouched(model, before)


class Unwatchable(Followed):
    """Code that no dispatch mode can look through."""

    def forward(self, x):
        if _get_current_dispatch_mode() is not None:
            raise NotImplementedError("no rule for this operator")
        return super().forward(x)


def test_a_model_that_cannot_be_watched_is_told_by_what_it_changes_and_only_once(monkeypatch):
    model, batch = made(Unwatchable)
    calls, forward = [], Unwatchable.forward
    monkeypatch.setattr(Unwatchable, "forward", lambda m, x: calls.append(1) or forward(m, x))
    before = held(model)
    for _ in range(3):
        total(Problem.from_module(model, "cross_entropy", [batch]))
    assert_untouched(model, before)
    assert len(calls) == 3 + 2  # one that fails, one that is compared


def test_a_batch_that_does_not_fit_decides_nothing():
    model, (x, y) = made(Followed)
    before = held(model)
    with pytest.raises(ProblemError):
        total(Problem.from_module(model, "cross_entropy", [(x[:, :3], y)]))
    total(Problem.from_module(model, "cross_entropy", [(x, y)]))
    assert_untouched(model, before)


@pytest.mark.parametrize("kind", WRITING)
def test_a_problem_that_is_kept_follows_the_training(kind):
    model, (x, y) = made(kind)
    problem = Problem.from_module(model, "cross_entropy", [(x, y)])
    total(problem)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(3):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        wanted = F.cross_entropy(copy.deepcopy(model)(x), y).item()
        assert total(problem) == pytest.approx(wanted, rel=1e-6)
