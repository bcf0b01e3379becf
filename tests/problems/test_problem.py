"""Problem: weights of batches, dtypes, ties, frozen parameters, chunks, and its refusals."""

import pytest
import torch
import torch.nn.functional as F
from foreign_checkpoints import compiled
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.chunks import total
from homotopy_cli.problems.criteria import NAMES
from homotopy_cli.problems.problem import Problem

F64 = torch.float64


def squared(model, batch):
    return F.mse_loss(model(batch[0]), batch[1])


def classes(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def rows(n, inputs=2, outputs=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, inputs, generator=generator, dtype=F64),
        torch.randn(n, outputs, generator=generator, dtype=F64),
    )


def weighted(problem):
    return sum(w * problem.batch_loss(i) for i, w in enumerate(problem.weights))


def test_unequal_batches_equal_one_batch():
    """Oracle: the plain mean over the ten rows; the mean of batch means is another number."""
    x, y = rows(10)
    model = nn.Linear(2, 1).double()
    parts = [(x[:4], y[:4]), (x[4:8], y[4:8]), (x[8:], y[8:])]
    problem = Problem.from_module(model, squared, parts)
    assert problem.weights == (0.4, 0.4, 0.2)
    assert problem.n_terms == 10
    exact = ((model(x) - y) ** 2).mean()
    torch.testing.assert_close(weighted(problem), exact, rtol=1e-14, atol=0)
    unweighted = sum(problem.batch_loss(i) for i in range(3)) / 3
    assert abs(unweighted - exact) > 1e-3
    leaves = list(problem.params.values())
    grads = torch.autograd.grad(weighted(problem), leaves)
    exact_grads = torch.autograd.grad(exact, list(model.parameters()))
    torch.testing.assert_close(grads, exact_grads, rtol=1e-12, atol=1e-15)


def test_ignored_targets_do_not_count():
    logits = nn.Embedding(11, 5).double()
    tokens = [torch.randint(11, (3, 4)), torch.randint(11, (2, 6))]
    targets = [torch.randint(5, t.shape) for t in tokens]
    targets[0][0, :3] = -100
    targets[1][:, 1:] = -100
    batches = list(zip(tokens, targets, strict=True))
    problem = Problem.from_module(logits, "cross_entropy", batches)
    assert problem.n_terms == 9 + 2
    scores = torch.cat([logits(t).reshape(-1, 5) for t in tokens])
    flat = torch.cat([t.reshape(-1) for t in targets])
    kept = flat != -100
    exact = -scores.log_softmax(-1)[kept].gather(1, flat[kept, None]).mean()
    torch.testing.assert_close(weighted(problem), exact, rtol=1e-13, atol=0)


def test_a_batch_whose_targets_are_all_ignored_is_left_out():
    model = nn.Linear(2, 3).double()
    x = torch.randn(4, 2, dtype=F64)
    batches = [(x, torch.tensor([0, 1, 2, 0])), (x, torch.full((4,), -100))]
    problem = Problem.from_module(model, classes, batches)
    assert len(problem.batches) == 1
    assert problem.weights == (1.0,)
    with pytest.raises(ProblemError) as error:
        Problem.from_module(model, classes, batches[1:], sources=["b.pt"])
    assert error.value.message == (
        "b.pt: no loss term: the batch is empty or every target is ignored"
    )


def test_a_loss_may_count_for_itself():
    def halves(model, batch):
        return squared(model, batch)

    halves.count = lambda batch: 3 if len(batch[0]) == 4 else 1
    x, y = rows(6)
    problem = Problem.from_module(
        nn.Linear(2, 1), halves, [(x[:4], y[:4]), (x[4:], y[4:])], dtype=F64
    )
    assert problem.weights == (0.75, 0.25)


@pytest.mark.parametrize("size", [1, 3, 7, 50])
def test_microbatches_give_the_same_function(size):
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x, _ = rows(10)
    y = torch.randint(3, (10,))
    y[2:5] = -100
    whole = Problem.from_module(model, classes, [(x, y)])
    parts = Problem.from_module(model, classes, [(x, y)], microbatch=size)
    assert parts.n_terms == whole.n_terms == 7
    torch.testing.assert_close(weighted(parts), weighted(whole), rtol=1e-13, atol=0)
    for left, right in zip(
        torch.autograd.grad(weighted(parts), list(parts.params.values())),
        torch.autograd.grad(weighted(whole), list(whole.params.values())),
        strict=True,
    ):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-14)


def test_microbatches_of_a_loss_that_couples_rows_are_refused():
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    batch = rows(12)
    with pytest.raises(ProblemError, match=r"--microbatch 4 changes the loss from .* to .*") as e:
        Problem.from_module(model, squared, [batch], mode="train", microbatch=4)
    assert "batch statistics couple the rows in train mode" in e.value.hint
    Problem.from_module(model, squared, [batch], microbatch=4)  # eval mode: running statistics


def test_dict_batches_are_split_along_rows_only():
    def loss(model, batch):
        return ((model(batch["x"]) * batch["scale"]) ** 2).mean()

    batch = {"x": torch.randn(6, 2, dtype=F64), "scale": torch.tensor([2.0], dtype=F64)}
    model = nn.Linear(2, 1).double()
    parts = Problem.from_module(model, loss, [batch], microbatch=4)
    assert [b["x"].shape[0] for b in parts.batches] == [4, 2]
    assert all(b["scale"].shape == (1,) for b in parts.batches)


def test_integers_keep_their_dtype_and_floats_follow_the_problem():
    class Batch(dict):
        """A dict that models read by attribute, as tokenizers return."""

    given = Batch(ids=torch.randint(5, (3, 2)), mask=torch.ones(3, 2).bool(), w=torch.ones(3))
    seen = {}

    def loss(model, batch):
        seen.update({key: value.dtype for key, value in batch.items()}, kind=type(batch))
        return (model(batch["ids"]).sum((1, 2)) * batch["w"]).mean()

    Problem.from_module(nn.Embedding(5, 2), loss, [given], dtype=F64).batch_loss(0)
    assert seen == {"ids": torch.int64, "mask": torch.bool, "w": F64, "kind": Batch}


@pytest.mark.parametrize(
    ("kinds", "wanted"),
    [
        (["float32", "float32"], "float32"),
        (["float64", "float64"], "float64"),
        (["bfloat16", "bfloat16"], "float32"),
        (["float16", "float32"], "float32"),
        (["float32", "float64"], "float32"),
    ],
)
def test_the_working_dtype(kinds, wanted):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    for layer, kind in zip(model, kinds, strict=True):
        layer.to(getattr(torch, kind))
    problem = Problem.from_module(model, squared, [rows(3)])
    assert problem.dtype == getattr(torch, wanted)
    assert problem.flat_params().dtype == problem.dtype
    assert problem.batch_loss(0).dtype == problem.dtype
    assert model[0].weight.dtype == getattr(torch, kinds[0])


def test_order_ties_frozen_and_scalar_parameters():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.5))
            self.register_buffer("window", torch.ones(6))
            self.emb = nn.Embedding(7, 4)
            self.frozen = nn.Linear(4, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.emb.weight
            self.frozen.requires_grad_(False)

        def forward(self, ids):
            return self.head(self.frozen(self.emb(ids))) * self.scale

    model = Model()
    batch = torch.randint(7, (5,)), torch.randint(7, (5,))
    problem = Problem.from_module(model, classes, [batch], dtype=F64)
    assert list(problem.params) == ["scale", "emb.weight"]
    assert problem.numels == {"scale": 1, "emb.weight": 28}
    assert problem.n_params == 29
    assert problem.aliases == {"emb.weight": ("head.weight",)}
    assert problem.frozen == ("frozen.weight", "frozen.bias")
    assert problem.module_kinds[""] == "Model"
    assert problem.module_kinds["emb"] == "Embedding"
    twin = Model().double()
    twin.load_state_dict(model.state_dict())
    wanted = torch.autograd.grad(
        classes(twin, batch), [twin.scale, twin.emb.weight]
    )  # both uses of the tied tensor
    found = torch.autograd.grad(problem.batch_loss(0), list(problem.params.values()))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    flat = torch.cat([model.scale.detach().reshape(1), model.emb.weight.detach().reshape(-1)])
    torch.testing.assert_close(problem.flat_params(), flat.double())


def test_closure():
    start = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3.0)}
    problem = Problem.from_closure(start, lambda p: (p["a"] ** 2).sum() * p["b"])
    assert (problem.n_params, problem.n_terms, problem.weights) == (3, 1, (1.0,))
    assert problem.batch_loss(0).item() == 15.0
    grads = torch.autograd.grad(problem.batch_loss(0), list(problem.params.values()))
    assert [g.tolist() for g in grads] == [[6.0, 12.0], 5.0]
    assert problem.params["a"].data_ptr() == start["a"].data_ptr()
    assert not start["a"].requires_grad
    with pytest.raises(TypeError, match="has no batches to replace"):
        problem.on([()])


def test_compiled_and_parallel_wrappers_are_looked_through():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    batch = rows(4)
    wanted = Problem.from_module(model, squared, [batch]).batch_loss(0)
    for wrapped in (compiled(model), nn.DataParallel(model), nn.DataParallel(compiled(model))):
        problem = Problem.from_module(wrapped, squared, [batch])
        assert list(problem.params) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert torch.equal(problem.batch_loss(0), wanted)


def test_compiled_submodules_run_eagerly_and_keep_their_plain_names():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    batch = rows(4)
    wanted = Problem.from_module(model, squared, [batch], dtype=F64)
    inner = nn.Sequential(compiled(model[0]), model[1], model[2])
    problem = Problem.from_module(inner, squared, [batch], dtype=F64)
    assert list(problem.params) == list(wanted.params)
    assert problem.module_kinds["0"] == "Linear"
    for left, right in zip(second(problem), second(wanted), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)


def second(problem):
    """Derivatives of the squared gradient norm: they need a second derivative."""
    leaves = list(problem.params.values())
    with problem.measuring():
        grads = torch.autograd.grad(problem.batch_loss(0), leaves, create_graph=True)
        return torch.autograd.grad(sum((g * g).sum() for g in grads), leaves)


def test_distributed_data_parallel_is_looked_through(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model = nn.Linear(2, 1)
        wrapped = nn.parallel.DistributedDataParallel(model)
        problem = Problem.from_module(wrapped, squared, [rows(4)])
        assert list(problem.params) == ["weight", "bias"]
        assert len(second(problem)) == 2
    finally:
        torch.distributed.destroy_process_group()


def test_fused_attention_is_differentiated_twice():
    """The default kernel has no second derivative, on the CPU neither; finite differences agree."""

    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)

        def forward(self, x):
            return self.layer(x).mean(1)

    model = Attending()
    batch = torch.randn(3, 5, 8, dtype=F64), torch.randn(3, 8, dtype=F64)
    problem = Problem.from_module(model, squared, [batch], dtype=F64)
    leaves = list(problem.params.values())
    found = second(problem)
    step = 1e-5

    def squared_gradient_norm():
        grads = torch.autograd.grad(problem.batch_loss(0), leaves)
        return sum((g * g).sum() for g in grads)

    with torch.no_grad():
        leaves[0].view(-1)[3] += step
    above = squared_gradient_norm()
    with torch.no_grad():
        leaves[0].view(-1)[3] -= 2 * step
    below = squared_gradient_norm()
    slope = (above - below) / (2 * step)  # error step² f'''/6 ~ 1e-10, rounding 1e-16/step ~ 1e-11
    torch.testing.assert_close(slope, found[0].view(-1)[3], rtol=1e-6, atol=1e-8)


def test_the_seam_recomposes_the_loss():
    x = torch.randn(6, 2, dtype=F64)
    batch = x, torch.randint(3, (6,))
    problem = Problem.from_module(nn.Linear(2, 3).double(), "cross_entropy", [batch])
    outputs, criterion = problem.batch_outputs(0)
    assert outputs.shape == (6, 3)
    assert outputs.requires_grad
    assert torch.equal(criterion(outputs), problem.batch_loss(0))
    whole = Problem.from_module(nn.Linear(2, 3).double(), classes, [batch])
    with pytest.raises(ProblemError, match="loss classes cannot be split into outputs"):
        whole.batch_outputs(0)


def test_measuring_nests_over_two_problems_of_one_model():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    left = Problem.from_module(model, squared, [rows(5)])
    right = Problem.from_module(model, squared, [rows(5)], mode="train")
    alone = left.batch_loss(0), right.batch_loss(0)
    with left.measuring(), right.measuring(), left.measuring():
        inside = left.batch_loss(0), right.batch_loss(0)
    assert model.training
    assert not torch.equal(alone[0], alone[1])
    assert torch.equal(left.batch_loss(0), alone[0])
    assert torch.equal(inside[1], alone[1])


def refusal(model, loss=squared, batches=None, **options):
    with pytest.raises(ProblemError) as caught:
        problem = Problem.from_module(model, loss, batches or [rows(3)], **options)
        problem.batch_loss(0)
    assert caught.value.hint
    return caught.value.message


def test_models_that_cannot_be_measured():
    frozen = nn.Linear(2, 1).requires_grad_(False)
    assert refusal(frozen) == "no trainable parameter: 2 parameters, all frozen or none"
    assert 'parameter "weight" has no shape yet (lazy module)' in refusal(nn.LazyLinear(1))
    assert 'parameter "weight" has no values' in refusal(nn.Linear(2, 1, device="meta"))
    assert 'parameter "weight" is complex' in refusal(nn.Linear(2, 1, dtype=torch.complex64))


def test_scripted_models_are_named():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = nn.Sequential(torch.jit.script(nn.Linear(2, 1)))
    assert 'module "0" is TorchScript' in refusal(scripted)


def test_losses_that_are_no_scalar():
    model = nn.Linear(2, 1)
    assert refusal(model, lambda m, b: m(b[0])) == (
        "loss <lambda> returns a tensor of shape [3, 1], a scalar is wanted"
    )
    assert refusal(model, lambda m, b: m(b[0]).sum().item()) == (
        "loss <lambda> returns float, a scalar tensor is wanted"
    )
    problem = Problem.from_module(model, lambda m, b: m(b[0]).mean().reshape(1), [rows(3)])
    assert problem.batch_loss(0).shape == ()


def test_batches_must_be_a_sequence_of_some():
    model = nn.Linear(2, 1)
    with pytest.raises(ProblemError, match="no batch to measure on"):
        Problem.from_module(model, squared, [])
    with pytest.raises(TypeError, match=r"write \[batch\] for one"):
        Problem.from_module(model, squared, torch.ones(3, 2))
    with pytest.raises(ValueError, match="mode is 'test'"):
        Problem.from_module(model, squared, [rows(3)], mode="test")


def test_closures_want_one_kind_of_tensor():
    with pytest.raises(ProblemError, match="2 parameters of 2 kinds"):
        Problem.from_closure({"a": torch.ones(2), "b": torch.ones(2).double()}, lambda p: p["a"])
    with pytest.raises(ProblemError, match="the closure returns a tensor of shape"):
        Problem.from_closure({"a": torch.ones(2)}, lambda p: p["a"]).batch_loss(0)


def test_total_is_the_weighted_mean():
    x, y = rows(10)
    model = nn.Linear(2, 1).double()
    parts = Problem.from_module(model, NAMES["mse"], [(x[:7], y[:7]), (x[7:], y[7:])])
    exact = ((model(x) - y) ** 2).mean().item()
    assert abs(total(parts) - exact) <= 1e-14 * abs(exact) + 1e-16


def test_a_modules_own_generator_draws_alike_every_time_and_is_put_back():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.draws = torch.Generator().manual_seed(5)
            self.same = self.draws  # held twice

        def forward(self, x):
            return ((x + torch.randn(x.shape, generator=self.draws)) * self.weight).sum()

    model = Noisy()
    before = model.draws.get_state()
    problem = Problem.from_module(model, lambda m, b: m(b), [torch.zeros(4, 3)])
    losses = [problem.batch_loss(0).item() for _ in range(2)]
    with problem.measuring():
        losses += [problem.batch_loss(0).item() for _ in range(2)]
    assert len(set(losses)) == 1
    assert torch.equal(model.draws.get_state(), before)
