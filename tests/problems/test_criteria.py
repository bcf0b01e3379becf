"""Named losses against hand-written ones, their counts, and guesses with their evidence."""

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.criteria import NAMES, Loss, check_labels, from_criterion, resolve_loss
from homotopy_cli.problems.guess import guess_loss


class Table(nn.Module):
    """Scores by token: (rows, length) -> (rows, length, vocabulary)."""

    def __init__(self, vocabulary=5, keyword=False):
        super().__init__()
        self.table = nn.Embedding(vocabulary, vocabulary)
        self.keyword = keyword

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        scores = self.table(input_ids)
        if not self.keyword:
            return scores
        loss = None if labels is None else F.cross_entropy(scores.flatten(0, 1), labels.flatten())
        return SimpleNamespace(loss=loss, logits=scores)


def value(name, model, batch):
    return resolve_loss(name).function(model, batch)


def mean_nll(scores, targets):
    """By hand: the mean over targets that are not -100."""
    flat, wanted = scores.reshape(-1, scores.shape[-1]), targets.reshape(-1)
    kept = wanted != -100
    return -flat.log_softmax(-1)[kept].gather(1, wanted[kept, None]).mean()


def test_cross_entropy_in_every_layout():
    model = nn.Identity()
    scores, y = torch.randn(6, 4), torch.tensor([0, 3, -100, 1, 2, 0])
    loss = NAMES["cross_entropy"]
    torch.testing.assert_close(loss.function(model, (scores, y)), mean_nll(scores, y))
    assert loss.count((scores, y)) == 5
    column = y.reshape(6, 1).int()
    torch.testing.assert_close(loss.function(model, (scores, column)), mean_nll(scores, y))
    images, labels = torch.randn(2, 4, 3, 3), torch.randint(4, (2, 3, 3))
    wanted = mean_nll(images.permute(0, 2, 3, 1), labels)
    torch.testing.assert_close(loss.function(model, (images, labels)), wanted)
    assert loss.count((images, labels)) == 18
    tokens, following = torch.randn(2, 3, 7), torch.randint(7, (2, 3))
    torch.testing.assert_close(
        loss.function(model, (tokens, following)), mean_nll(tokens, following)
    )
    soft = torch.randn(6, 4).softmax(-1)
    wanted = -(soft * scores.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(loss.function(model, (scores, soft)), wanted)


def test_next_token_shifts_only_what_is_not_shifted():
    model = Table()
    tokens = torch.randint(5, (3, 6))
    wanted = mean_nll(model(tokens)[:, :-1], tokens[:, 1:])
    loss = NAMES["next_token"]
    torch.testing.assert_close(loss.function(model, tokens), wanted)
    torch.testing.assert_close(loss.function(model, {"input_ids": tokens}), wanted)
    torch.testing.assert_close(loss.function(model, (tokens[:, :-1], tokens[:, 1:])), wanted)
    named = {"input_ids": tokens, "labels": tokens.clone()}
    named["labels"][0, :3] = -100
    torch.testing.assert_close(
        loss.function(model, named), mean_nll(model(tokens)[:, :-1], named["labels"][:, 1:])
    )
    assert loss.count(tokens) == 15
    assert loss.count((tokens[:, :-1], tokens[:, 1:])) == 15
    assert loss.count(named) == 13


def test_mse_and_bce_never_broadcast():
    model = nn.Linear(3, 1)
    x, y = torch.randn(5, 3), torch.randn(5)
    wanted = ((model(x).squeeze(-1) - y) ** 2).mean()
    torch.testing.assert_close(value("mse", model, (x, y)), wanted)
    with pytest.raises(ProblemError) as error:
        value("mse", nn.Linear(3, 4), (x, y))
    assert error.value.message == ("loss mse: outputs [5, 4] and targets [5] differ in shape")
    zeros = torch.tensor([0, 1, 1, 0, 1])
    p = model(x).squeeze(-1).sigmoid()
    wanted = -(zeros * p.log() + (1 - zeros) * (1 - p).log()).mean()
    torch.testing.assert_close(value("bce", model, (x, zeros)), wanted)
    assert NAMES["bce"].count((x, zeros)) == 5


def test_output_takes_attribute_or_key():
    model = Table(keyword=True)
    tokens = torch.randint(5, (2, 3))
    batch = UserDict(input_ids=tokens, attention_mask=tokens, labels=tokens)
    wanted = mean_nll(model(tokens).logits, tokens)
    torch.testing.assert_close(value("output", model, batch), wanted)

    class Keyed(nn.Linear):
        def forward(self, x):
            return {"loss": super().forward(x).mean()}

    keyed = Keyed(3, 1)
    x = torch.randn(2, 3)
    assert torch.equal(value("output", keyed, (x,)), keyed(x)["loss"])
    with pytest.raises(ProblemError) as error:
        value("output", nn.Linear(3, 1), x)
    assert error.value.message == (
        "loss output: the model returns a float32 tensor of shape [2, 1], without a loss"
    )


@pytest.mark.parametrize(
    ("model", "batch", "name", "evidence"),
    [
        (
            nn.Linear(3, 4),
            (torch.randn(5, 3), torch.randint(4, (5,))),
            "cross_entropy",
            "targets are int64 class indices: cross_entropy",
        ),
        (
            nn.Linear(3, 1),
            (torch.randn(5, 3), torch.randn(5, 1)),
            "mse",
            "targets are float32 in the outputs' shape: mse",
        ),
        (
            nn.Linear(3, 1),
            (torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])),
            "bce",
            "targets are int64 zeros and ones, one per output: bce",
        ),
        (
            nn.Linear(3, 2),
            (torch.randn(5, 3), torch.ones(5, 2).bool()),
            "bce",
            "targets are bool, one per output: bce",
        ),
        (
            Table(),
            torch.randint(5, (2, 4)),
            "next_token",
            "the batch is only tokens, with scores for each: next_token",
        ),
        (
            Table(),
            (torch.randint(5, (2, 4)), torch.randint(5, (2, 4))),
            "cross_entropy",
            "targets are int64 class indices: cross_entropy",
        ),
        (
            Table(keyword=True),
            {"input_ids": torch.ones(2, 3).long(), "labels": torch.ones(2, 3).long()},
            "output",
            "the model's result has a loss: output",
        ),
    ],
)
def test_guesses_say_their_evidence(model, batch, name, evidence):
    found = resolve_loss(None, model=model, batch=batch)
    assert (found.name, found.reason) == (name, evidence)
    assert found.function(model, batch).ndim == 0


@pytest.mark.parametrize("kind", [torch.int64, torch.float32])
def test_rows_that_sum_to_one_are_not_guessed(kind):
    """One-hot rows are classes as well as numbers: three losses would take them."""
    targets = F.one_hot(torch.tensor([0, 1, 1, 0, 1]), 2).to(kind)
    with pytest.raises(ProblemError, match="are rows that sum to 1") as error:
        resolve_loss(None, model=nn.Linear(3, 2), batch=(torch.randn(5, 3), targets))
    assert error.value.hint.startswith("as the model was trained: --loss bce, --loss mse, or ")
    assert ("argmax" in error.value.hint) == (kind == torch.int64)


def test_rows_that_differ_in_number_are_said_before_any_guess():
    with pytest.raises(ProblemError, match=r"^b\.pt: 5 outputs but 4 targets\n"):
        guess_loss(nn.Linear(3, 2), (torch.randn(5, 3), torch.zeros(4).long()), source="b.pt")


def test_guessing_leaves_no_trace():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    batch = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    state = torch.get_rng_state()
    resolve_loss(None, model=model, batch=batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert model[1].num_batches_tracked.item() == 0
    assert torch.equal(model[1].running_mean, torch.zeros(4))


def test_nothing_to_guess_from():
    with pytest.raises(ProblemError, match="the loss cannot be guessed: no targets") as error:
        resolve_loss(None, model=nn.Linear(3, 2), batch=torch.randn(4, 3))
    assert "--loss" in error.value.hint
    with pytest.raises(ProblemError, match=r"targets float32 \[4, 5\], and the model returns"):
        resolve_loss(None, model=nn.Linear(3, 2), batch=(torch.randn(4, 3), torch.randn(4, 5)))
    with pytest.raises(ProblemError, match="no loss is given and there is no batch"):
        resolve_loss(None)


def test_names_targets_and_callables(tmp_path):
    with pytest.raises(ProblemError, match="loss 'crossentropy' is not one of") as error:
        resolve_loss("crossentropy")
    assert error.value.hint == "did you mean 'cross_entropy'?"
    (tmp_path / "mine.py").write_text("def loss(model, batch):\n    return model(batch).sum()\n")
    found = resolve_loss("mine.py:loss", base_dir=tmp_path)
    assert found.name == "mine.py:loss"
    assert found.function(nn.Identity(), torch.ones(3)).item() == 3.0
    assert found.count((torch.ones(4, 2), torch.ones(4))) == 4
    assert isinstance(resolve_loss(found), Loss)
    with pytest.raises(ProblemError, match="the loss is a int, not a callable"):
        resolve_loss(3)


def test_torch_criteria_are_called_with_outputs_and_targets():
    model = nn.Linear(3, 4)
    batch = torch.randn(5, 3), torch.tensor([0, 1, 2, 3, 0])
    for criterion in (nn.CrossEntropyLoss(ignore_index=0), F.cross_entropy):
        found = resolve_loss(criterion)
        torch.testing.assert_close(
            found.function(model, batch), criterion(model(batch[0]), batch[1])
        )
    assert resolve_loss(nn.CrossEntropyLoss(ignore_index=0)).count(batch) == 3
    assert from_criterion(nn.MSELoss()).name == "MSELoss"
    with pytest.raises(ProblemError, match="loss MSELoss wants targets, and the batch has none"):
        from_criterion(nn.MSELoss()).function(model, torch.randn(5, 3))


def test_a_result_without_outputs_is_described():
    class Odd(nn.Linear):
        def forward(self, x):
            return "nothing"

    batch = torch.randn(2, 3), torch.randn(2, 1)
    with pytest.raises(ProblemError, match="the model returns a str, not a tensor of outputs"):
        value("mse", Odd(3, 1), batch)


@pytest.mark.parametrize(
    ("labels", "bad"),
    [([0, 4, -100], None), ([0, 5], 5), ([-1, 2], -1), ([-100], None), ([], None)],
)
def test_labels_are_checked_before_a_device_would_abort(labels, bad):
    target = torch.tensor(labels, dtype=torch.int64)
    if bad is None:
        check_labels(target, 5)
        return
    with pytest.raises(IndexError, match=rf"label {bad} out of range 0\.\.4"):
        check_labels(target, 5)


class Scaled(nn.Module):
    """A criterion that needs an argument."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale


@pytest.mark.parametrize("target", ["binary_cross_entropy", "BCELoss"])
def test_torchs_own_criteria_are_targets_of_outputs_and_targets(target):
    place = "torch.nn" if target == "BCELoss" else "torch.nn.functional"
    loss = resolve_loss(f"{place}:{target}")
    p, y = torch.rand(6, 2), torch.randint(2, (6, 2)).float()
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).mean()
    torch.testing.assert_close(loss.function(nn.Identity(), (p, y)), by_hand)
    assert loss.name == f"{place}:{target}"
    assert loss.count((p, y)) == NAMES["bce"].count((p, y))


def test_a_criterions_class_that_needs_arguments_is_refused(tmp_path):
    (tmp_path / "mine.py").write_text("from test_criteria import Scaled\n")
    with pytest.raises(ProblemError) as caught:
        resolve_loss("mine.py:Scaled", base_dir=tmp_path)
    assert caught.value.message.startswith(
        "loss mine.py:Scaled: cannot be made without arguments: TypeError: "
    )
    assert caught.value.hint == "name an object of it, or a function loss(model, batch)"
