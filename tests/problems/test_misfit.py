"""Batches that do not fit are explained: the file, what was given, what was wanted, where."""

import pytest
import torch
import torch.nn.functional as F
from foreign_checkpoints import mlp
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.chunks import total
from homotopy_cli.problems.misfit import explain_misfit
from homotopy_cli.problems.problem import Problem


def classes(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def message(model, batch, loss=classes, source="batch.pt", **options):
    with pytest.raises(ProblemError) as caught:
        Problem.from_module(model, loss, [batch], sources=[source], **options).batch_loss(0)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def labels(*values):
    return torch.tensor(values)


def test_features():
    batch = torch.randn(4, 6), labels(0, 1, 2, 0)
    assert message(mlp(), batch) == ('batch.pt: 6 features given, 5 wanted (module "0", Linear)')
    assert message(nn.Linear(5, 3), batch) == (
        "batch.pt: 6 features given, 5 wanted (the model, Linear)"
    )


@pytest.mark.parametrize("loss", [classes, "cross_entropy"])
@pytest.mark.parametrize("wrong", [3, -1])
def test_labels(loss, wrong):
    batch = torch.randn(4, 5), labels(0, 1, wrong, 0)
    assert message(mlp(), batch, loss) == f"batch.pt: label {wrong} out of range 0..2"


def test_channels_norms_and_indices():
    image = torch.randn(2, 3, 8, 8), labels(0, 1)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert message(conv, image) == ('batch.pt: 3 channels given, 1 wanted (module "0", Conv2d)')
    norm = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(6))
    assert message(norm, (torch.randn(2, 5), labels(0, 1))) == (
        'batch.pt: [4] given, [6] wanted (module "1", LayerNorm)'
    )
    batched = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(7))
    assert message(batched, (torch.randn(2, 5), labels(0, 1))) == (
        'batch.pt: 4 features given, 7 wanted (module "1", BatchNorm1d)'
    )
    words = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(6, 2))
    assert message(words, (torch.tensor([[1, 2], [3, 50]]), labels(0, 1))) == (
        "batch.pt: index 50 out of range 0..9 (embedding)"
    )
    floats = torch.ones(2, 2)
    assert message(words, (floats, labels(0, 1))) == (
        "batch.pt: float32 values given, integer indices wanted (embedding)"
    )
    recurrent = nn.LSTM(4, 3, batch_first=True)

    def last(model, batch):
        return model(batch[0])[0].mean()

    assert message(recurrent, (torch.randn(2, 3, 5), labels(0, 1)), last) == (
        "batch.pt: 5 features given, 4 wanted (the model, LSTM)"
    )


def test_rows_and_shapes_of_targets():
    batch = torch.randn(4, 5), labels(0, 1, 2)
    assert message(mlp(), batch) == "batch.pt: 4 outputs but 3 targets"

    def squared(model, batch):
        return F.mse_loss(model(batch[0]), batch[1])

    odd = torch.randn(4, 5), torch.randn(4, 2)
    with pytest.warns(UserWarning, match="target size"):
        words = message(mlp(), odd, squared)
    assert words == (
        "batch.pt: outputs float32 [4, 3] and targets float32 [4, 2] do not go together"
    )


def test_whole_containers_and_missing_arguments():
    def whole(model, batch):
        return model(batch).mean()

    words = message(mlp(), {"x": torch.randn(2, 5), "y": labels(0, 1)}, whole)
    assert words.startswith(
        'batch.pt: module "0", Linear cannot take this batch (x float32 [2, 5], y int64 [2]): '
        "TypeError: linear(): argument 'input'"
    )

    def wrong_key(model, batch):
        return model(batch["inputs"]).mean()

    words = message(mlp(), {"x": torch.randn(2, 5)}, wrong_key)
    assert words == (
        "batch.pt: the loss cannot take this batch (x float32 [2, 5]): KeyError: 'inputs'"
    )


def test_a_model_that_fixes_a_dtype_by_itself():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(5, 3)

        def forward(self, x):
            return self.body(x.float())

    batch = torch.randn(2, 5), labels(0, 1)
    with pytest.raises(ProblemError) as caught:
        Problem.from_module(
            Fixed(), classes, [batch], dtype=torch.float64, sources=["b.pt"]
        ).batch_loss(0)
    assert caught.value.message == ('b.pt: float32 given, float64 wanted (module "body", Linear)')


def test_out_of_memory_points_to_chunks():
    error = explain_misfit(torch.OutOfMemoryError("CUDA"), mlp(), (torch.ones(8, 5),), "b.pt")
    assert error.message == "b.pt: out of memory on a batch of float32 [8, 5]"
    assert "--microbatch" in error.hint


def test_without_a_file_the_message_starts_with_the_fault():
    batch = torch.randn(4, 6), labels(0, 1, 2, 0)
    assert message(mlp(), batch, source="") == ('6 features given, 5 wanted (module "0", Linear)')


def test_a_dtype_that_the_model_fixes_by_itself_is_not_blamed_on_the_batch():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x.float())

    problem = Problem.from_module(
        Fixed().double(), lambda m, b: m(b).sum(), [torch.ones(2, 3).double()]
    )
    with pytest.raises(ProblemError, match="float32 given, float64 wanted") as error:
        total(problem)
    assert (
        error.value.hint
        == "the model fixes a dtype by itself: give it a batch, and weights, of that dtype"
    )


def hint_of(model, batch, loss=classes):
    with pytest.raises(ProblemError) as caught:
        Problem.from_module(model, loss, [batch], sources=["b.npz"]).batch_loss(0)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_images_with_channels_last(kind):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten())
    words, hint = hint_of(net, (torch.ones(2, 6, 6, 3).to(kind), labels(0, 1)))
    assert words.startswith("b.npz: 6 channels given, 3 wanted: here the last axis has them")
    assert "x.transpose(0, 3, 1, 2)" in hint
    assert ("x.astype('float32') / 255" in hint) == (kind == torch.uint8)


@pytest.mark.parametrize("net", [nn.Conv2d(3, 2, 3), nn.Linear(6, 2)])
def test_images_of_bytes(net):
    words, hint = hint_of(net, (torch.ones(2, 3, 6, 6).byte(), labels(0, 1)))
    assert words.startswith("b.npz: uint8 given, float wanted")
    assert "x.astype('float32') / 255" in hint and "transpose" not in hint


def test_forms_that_are_not_recognised():
    x, y = torch.randn(4, 5), labels(0, 1, 2, 0)
    _, hint = hint_of(mlp(), {"foo": x, "bar": y}, None)
    assert "targets as labels, label, targets, target or y; or give a function loss_fn(" in hint
    _, hint = hint_of(mlp(), (x, y, torch.ones(4)), None)
    assert hint.startswith("a tuple is (inputs, targets);") and "loss_fn(model, batch)" in hint
    _, hint = hint_of(mlp(), (x, y, torch.ones(4)), "cross_entropy")  # of a file
    assert hint.startswith("a tuple is (inputs, targets);") and "FILE.py:CALLABLE" in hint


def test_a_callers_own_batch_is_spoken_of_without_the_command_line():
    def wrong(model, batch):
        raise TypeError("no")

    for loss, batch in (
        (wrong, (torch.randn(4, 5), labels(0, 1, 2, 0))),
        (classes, (torch.randn(4, 6), labels(0, 1, 2, 0))),
        ("cross_entropy", (torch.randn(4, 5), labels(0, 1, 2, 0), torch.ones(4))),
    ):
        with pytest.raises(ProblemError) as caught:
            Problem.from_module(mlp(), loss, [batch]).batch_loss(0)
        assert caught.value.hint and "--" not in caught.value.hint
    memory = explain_misfit(torch.OutOfMemoryError("CUDA"), mlp(), (torch.ones(8, 5),))
    assert "microbatch=1" in memory.hint and "--" not in memory.hint
