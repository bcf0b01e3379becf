"""Models that break other tools, from files to loss, gradient and Hessian, in float64.

Oracle: torch.func on `functional_call` of a double copy, attention on the math kernel; it
shares neither the parameter swapping nor the averaging over batches with Problem.
"""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from foreign_checkpoints import mlp, save
from torch import nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from homotopy_cli.problems.load import load_problem

GENERATOR = torch.Generator().manual_seed(11)


def randn(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def randint(high, *shape):
    return torch.randint(high, shape, generator=GENERATOR)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.mix = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight

    def forward(self, i):
        return self.head(self.mix(self.emb(i)).tanh())


class FrozenAndUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.frozen = nn.Linear(5, 6), nn.Linear(6, 6).requires_grad_(False)
        self.head, self.aux = nn.Linear(6, 2), nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.frozen(self.body(x).tanh()).tanh())


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.enc(x).mean(1))


class Saddle(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.tensor([0.3, -0.2, 0.5, 0.1]))

    def forward(self):
        p = self.p
        return -1.5 * p[0] ** 2 + 1.45 * p[1] ** 2 + 0.5 * p[2] ** 2 + 0.25 * p[3] ** 4


class Experts(nn.Module):
    """Top-1 routing; the last expert's gate is so low that no row reaches it."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(4, 4)
        self.experts = nn.ModuleList([nn.Linear(4, 3) for _ in range(4)])
        with torch.no_grad():
            self.gate.bias[3] = -50

    def forward(self, x):
        weight, chosen = self.gate(x).softmax(-1).max(-1)
        out = x.new_zeros(len(x), 3)
        for e in range(4):
            here = chosen == e
            if here.any():
                value = weight[here, None] * self.experts[e](x[here])
                out = out.index_put((here.nonzero()[:, 0],), value)
        return out


class Output(OrderedDict):
    """Attribute and key access, as model outputs of transformers."""

    __getattr__ = OrderedDict.__getitem__


class WithLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.out = nn.Embedding(11, 5), nn.Linear(5, 2)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        h = (self.emb(input_ids) * attention_mask[..., None]).sum(1)
        z = self.out((h / attention_mask.sum(1, keepdim=True)).tanh())
        return Output(loss=F.cross_entropy(z, labels), logits=z)


class Buffers(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(6))
        self.register_buffer("ids", torch.arange(4))
        self.register_buffer("flag", torch.tensor(True))
        self.lin, self.scale = nn.Linear(6, 2), nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.lin(x * self.window) * self.scale


def normed():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2))
    with torch.no_grad():
        model[1].running_mean.copy_(torch.linspace(-0.3, 0.4, 6))
        model[1].running_var.copy_(torch.linspace(0.5, 2.0, 6))
        model[1].num_batches_tracked.fill_(123)
    return model


def classes(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def squared(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


ids, mask = randint(11, 6, 4), torch.ones(6, 4, dtype=torch.int64)
mask[2, 2:] = 0
ten = randn(10, 2), randn(10, 1)
CASES = {
    # name: (build, loss, batch, trainable)
    "mlp": (mlp, classes, (randn(32, 5), randint(3, 32)), 75),
    "linear_regression": (lambda: nn.Linear(4, 1), squared, (randn(40, 4), randn(40, 1)), 5),
    "tied": (Tied, classes, (randint(7, 12), randint(7, 12)), 48),
    "frozen_and_unused": (FrozenAndUnused, classes, (randn(24, 5), randint(2, 24)), 78),
    "batch_norm": (normed, classes, (randn(16, 4), randint(2, 16)), 56),
    "attention": (Attending, classes, (randn(6, 5, 8), randint(3, 6)), 559),
    "linear_loss": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1)),
        lambda model, batch: model(batch[0]).mean(),
        (randn(20, 4),),
        37,
    ),
    "saddle": (Saddle, lambda model, batch: model(), (torch.zeros(1),), 4),
    "experts": (Experts, classes, (randn(24, 4), randint(3, 24)), 80),
    "unequal_batches": (lambda: nn.Linear(2, 1), squared, ten, 3),
    "model_output": (
        WithLoss,
        lambda model, batch: model(**batch).loss,
        {"input_ids": ids, "attention_mask": mask, "labels": randint(2, 6)},
        67,
    ),
    "buffers": (Buffers, classes, (randn(12, 6), randint(2, 12)), 15),
}
FILES = {"unequal_batches": [tuple(t[a:b] for t in ten) for a, b in ((0, 4), (4, 8), (8, 10))]}


def oracle(model, loss, batch, train):
    """(loss, gradient, Hessian) of a double copy."""
    model = model.double().train(train)
    named = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    sizes = [p.numel() for p in named.values()]

    class Evaluated(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return loss(self.model, batch)

    def function(theta):
        pieces = theta.split(sizes)
        tensors = {
            f"model.{n}": piece.view_as(named[n]) for n, piece in zip(named, pieces, strict=True)
        }
        fresh = {f"model.{n}": b.clone() for n, b in buffers.items()}
        return functional_call(Evaluated(), {**tensors, **fresh}, ())

    theta = torch.cat([p.reshape(-1) for p in named.values()]).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        hessian = torch.autograd.functional.hessian(function, theta)
        value = function(theta)
        return value, torch.autograd.grad(value, theta)[0], hessian


def measured(problem):
    """(loss, gradient, Hessian) through the Problem, a row of the Hessian per backward."""
    leaves = list(problem.params.values())

    def flat(tensors):
        full = [torch.zeros_like(p) if t is None else t for t, p in zip(tensors, leaves, strict=1)]
        return torch.cat([t.reshape(-1) for t in full])

    with problem.measuring():
        value = sum(w * problem.batch_loss(i) for i, w in enumerate(problem.weights))
        grads = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True)
        gradient = flat(grads)
        rows = []
        for entry in gradient:
            if entry.requires_grad:
                row = torch.autograd.grad(entry, leaves, retain_graph=True, allow_unused=True)
                rows.append(flat(row))
            else:
                rows.append(torch.zeros_like(gradient))
    return value, gradient, torch.stack(rows)


def doubled(batch):
    if isinstance(batch, dict):
        return batch
    return tuple(t.double() if t.is_floating_point() else t for t in batch)


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", CASES)
def test_loss_gradient_and_hessian(tmp_path, name, mode):
    build, loss, batch, n_params = CASES[name]
    torch.manual_seed(2)
    source = build()
    path = save(tmp_path / "ckpt.pt", source.state_dict())
    file = save(tmp_path / "batch.pt", FILES.get(name, batch))
    found = load_problem(path, model=build, loss=loss, batches=[file], mode=mode, dtype="float64")
    assert found.problem.n_params == n_params
    before = {n: b.clone() for n, b in found.model.named_buffers()}
    got = measured(found.problem)
    wanted = oracle(source, loss, doubled(batch), mode == "train")
    for left, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-12)
    for n, b in found.model.named_buffers():
        assert torch.equal(b, before[n]), n


def test_batch_norm_modes_differ():
    """Else the case above could not tell one mode from the other."""
    build, loss, batch, _ = CASES["batch_norm"]
    torch.manual_seed(2)
    model = build()
    values = [oracle(model, loss, doubled(batch), train)[0].item() for train in (False, True)]
    assert abs(values[0] - values[1]) > 1e-3


def test_an_exact_minimum_has_no_gradient_and_is_measured(tmp_path):
    source = nn.Linear(3, 2)
    x = randn(10, 3)
    path = save(tmp_path / "ckpt.pt", source.double().state_dict())
    with torch.no_grad():
        y = source(x.double())
    file = save(tmp_path / "batch.pt", (x, y))
    found = load_problem(path, model=lambda: nn.Linear(3, 2), loss="mse", batches=[file])
    value, gradient, hessian = measured(found.problem)
    assert value.item() == 0.0
    assert gradient.abs().max().item() == 0.0
    design = torch.cat([x.double(), torch.ones(10, 1, dtype=torch.float64)], 1)
    block = design.T @ design / 10  # closed form: (2/N) XᵀX over two outputs
    torch.testing.assert_close(
        torch.linalg.eigvalsh(hessian),
        torch.linalg.eigvalsh(torch.block_diag(block, block)),
        rtol=1e-12,
        atol=1e-14,
    )
