"""Measuring leaves no trace, changes no value, holds little memory; what is hidden it says."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as hooks
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import TorchDispatchMode

from homotopy_cli.curvature.components import measure_components
from homotopy_cli.curvature.components_attention import PIECE, AttentionSite, dot_product_logits
from homotopy_cli.errors import HomotopyError, NonFiniteError
from homotopy_cli.problems.problem import Problem


class Net(nn.Module):
    """Something of everything: attention with dropout, a norm with buffers, random noise."""

    def __init__(self):
        super().__init__()
        self.bend = nn.Linear(4, 6)
        self.batch_norm = nn.BatchNorm1d(5)
        self.attend = nn.MultiheadAttention(6, 2, dropout=0.2, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 3)
        self.calls = 0

    def forward(self, x):
        x = self.drop(self.batch_norm(self.bend(x)))
        x = x + self.attend(x, x, x)[0] + 0.1 * torch.randn_like(x)
        scores = torch.einsum("bqd,bkd->bqk", x, x).softmax(-1)
        return self.head(scores @ x * (1 + 0.1 * random.random() + 0.1 * np.random.rand()))


def loss(model, batch):
    return F.cross_entropy(model(batch[0]).mean(1), batch[1])


@pytest.fixture
def batch():
    return torch.randn(7, 5, 4), torch.randint(3, (7,))


def hook_counts():
    """Hooks that are registered for all modules."""
    return tuple(len(value) for name, value in sorted(vars(hooks).items()) if "_hooks" in name)


def everything(model):
    """Every number and flag that a measurement could have moved."""
    return (
        {name: value.clone() for name, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [id(p) for p in model.parameters()] + [id(b) for b in model.buffers()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        hook_counts(),
        len(_get_current_function_mode_stack()),
        torch.get_rng_state(),
        list(random.getstate()[1]),
        [np.random.get_state()[1], *np.random.get_state()[2:]],
        torch.is_grad_enabled(),
        id(F.multi_head_attention_forward),
    )


@pytest.mark.parametrize("mode", ["eval", "train", "keep"])
def test_nothing_moves(mode, batch):
    model = Net()
    model.drop.eval()
    loss(model, batch).backward()
    before = everything(model)
    found = measure_components(Problem.from_module(model, loss, [batch], mode=mode))
    torch.testing.assert_close(everything(model), before, rtol=0, atol=0)
    assert len(found.attention) == 2 and len(found.norm) == 1 and found.cross_entropy is not None


class Failing(Net):
    """Breaks off in the middle of its forward pass, inside of an attention layer's hooks."""

    def forward(self, x):
        self.attend(self.bend(x), self.bend(x), self.bend(x))
        return self.head(x)  # sizes differ


def test_nothing_is_left_behind_by_a_model_that_fails(batch):
    model = Failing()
    before = everything(model)
    with pytest.raises(HomotopyError, match='module "head"'):
        measure_components(Problem.from_module(model, loss, [batch]))
    torch.testing.assert_close(everything(model), before, rtol=0, atol=0)


def test_an_interrupt_inside_the_model_passes_and_leaves_nothing(batch):
    class Interrupted(Net):
        def forward(self, x):
            raise KeyboardInterrupt

    model = Interrupted()
    before = everything(model)
    with pytest.raises(KeyboardInterrupt):
        measure_components(Problem.from_module(model, loss, [batch]))
    torch.testing.assert_close(everything(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_model_computes_bitwise_what_it_computes_unwatched(mode, batch):
    model = Net()
    seen = []

    def noted(model, batch):
        value = loss(model, batch)
        seen.append(value.detach().clone())
        return value

    problem = Problem.from_module(model, noted, [batch], mode=mode)
    with problem.measuring():  # the first also looks for weights that the forward pass writes
        seen.clear()
    with torch.no_grad():
        problem.batch_loss(0)
    measure_components(problem)
    assert len(seen) == 2  # one forward pass each
    assert torch.equal(seen[0], seen[1])


def test_a_model_that_breaks_on_nan_names_where(batch):
    model = Net()
    with torch.no_grad():
        model.bend.weight[0, 0] = float("nan")
    before = hook_counts()
    with pytest.raises(NonFiniteError, match='the norm "batch_norm" holds the first NaN'):
        measure_components(Problem.from_module(model, loss, [batch], mode="train"))
    assert hook_counts() == before


@pytest.mark.parametrize("how", ["whole", "in place", "submodule"])
def test_compiled_modules_are_seen_under_their_own_names(how, batch):
    model = Net()
    want = measure_components(Problem.from_module(model, loss, [batch]))
    if how == "in place":
        model.compile(backend="eager")
    elif how == "whole":
        model = torch.compile(model, backend="eager")
    else:
        model.attend = torch.compile(model.attend, backend="eager")
    assert measure_components(Problem.from_module(model, loss, [batch])) == want


def test_compiled_functions_are_seen(batch):
    def attend(q):
        return F.softmax(q @ q.mT, dim=-1) @ q

    class Calling(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function, self.head = function, nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.function(x))

    torch.manual_seed(0)
    want = measure_components(Problem.from_module(Calling(attend), loss, [batch]))
    torch.manual_seed(0)
    compiled = Calling(torch.compile(attend, backend="eager"))
    assert measure_components(Problem.from_module(compiled, loss, [batch])) == want
    assert len(want.attention) == 1


def scripted(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against scripting
        return torch.jit.script(module)


def test_a_scripted_loss_is_said_to_be_hidden(batch):
    """A scripted module inside the model is refused already when the problem is made."""
    criterion = scripted(nn.Sequential(nn.LogSoftmax(1), nn.LayerNorm(3)))

    def hidden_loss(model, batch):
        return criterion(model(batch[0]).mean(1)).square().mean()

    found = measure_components(Problem.from_module(Net(), hidden_loss, [batch]))
    (note,) = found.notes
    assert note == "(RecursiveScriptModule) is scripted: what happens inside it cannot be seen"
    assert len(found.attention) == 2 and found.cross_entropy is None


def test_a_call_that_cannot_be_read_is_left_out_and_said(batch):
    """A fault of the reader is no fault of the model."""

    class Odd(torch.Tensor):
        @property
        def ndim(self):
            raise ValueError("no axes")

    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x.as_subclass(Odd).softmax(-1).as_subclass(torch.Tensor))

    found = measure_components(Problem.from_module(Wrapping(), loss, [batch]))
    assert found.notes == ("(root): a call of softmax is left out: no axes",)


class Largest(TorchDispatchMode):
    """The most numbers in one tensor that any operation makes, views of its arguments aside."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {a.untyped_storage().data_ptr() for a in args if isinstance(a, torch.Tensor)}
        for value in result if isinstance(result, list | tuple) else (result,):
            if isinstance(value, torch.Tensor) and (
                value.untyped_storage().data_ptr() not in given
            ):
                size = value.untyped_storage().nbytes() // value.element_size()
                self.numel = max(self.numel, size)
        return result


@pytest.mark.parametrize("masked", [False, True])
def test_no_whole_matrix_of_scores_is_made_for_long_sequences(masked):
    """4 heads of 1500 x 1500 would be 9 million numbers; 2^19 are held at a time."""
    q, k = torch.randn(1, 4, 1500, 2), torch.randn(1, 2, 1500, 2)
    mask = torch.ones(1500, 1500, dtype=torch.bool).tril() if masked else None
    with Largest() as largest:
        site = AttentionSite(4)
        site.add(*dot_product_logits(q, k, mask, is_causal=not masked, scale=None, grouped=True))
    assert site.n_rows == 4 * 1500
    assert PIECE / 2 < largest.numel <= PIECE * 1.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_numbers_of_the_cpu(batch):
    model = nn.Sequential(
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Flatten(), nn.Linear(20, 3)
    ).double()
    x, targets = batch
    there = Problem.from_module(copy.deepcopy(model).cuda(), None, [(x.cuda(), targets.cuda())])
    here = measure_components(Problem.from_module(model, None, [batch]))
    assert measure_components(there).attention[0].head_entropy == pytest.approx(
        here.attention[0].head_entropy, rel=1e-9
    )
    found = measure_components(there).cross_entropy
    assert found.p_min == pytest.approx(here.cross_entropy.p_min, rel=1e-9)
