"""What batches weigh, and which axis holds the classes: against torch's own mean over all terms."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.problems.axes import axis_note
from homotopy_cli.problems.chunks import total
from homotopy_cli.problems.problem import Problem

F64 = torch.float64
VOCABULARY = 9


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, dtype=F64)


class Language(nn.Module):
    """Scores of the next token; with labels its own loss, shifted as transformers' models do."""

    def __init__(self, shifts=True):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 5, dtype=F64)
        self.out = nn.Linear(5, VOCABULARY, dtype=F64)
        self.shifts = shifts

    def forward(self, input_ids, attention_mask=None, labels=None):
        scores = self.out(self.embed(input_ids))
        if labels is None:
            return scores
        ahead = (scores[:, :-1], labels[:, 1:]) if self.shifts else (scores, labels)
        return {"loss": F.cross_entropy(ahead[0].flatten(0, 1), ahead[1].flatten())}


def tokens(rows, length):
    return torch.randint(1, VOCABULARY, (rows, length))


def next_token_mean(model, rows):
    """Mean of -log p over the (tokens, mask) pairs' targets, one by one."""
    terms = []
    for ids, mask in rows:
        log_p = model(ids).log_softmax(-1)
        terms += [
            -log_p[i, t - 1, ids[i, t]]
            for i in range(len(ids))
            for t in range(1, ids.shape[1])
            if mask[i, t]
        ]
    return torch.stack(terms).mean().item(), len(terms)


def test_padding_is_no_target_of_next_token():
    model, batches, rows = Language(), [], []
    for n, length, kept in ((4, 6, 3), (2, 9, 8)):
        ids, mask = tokens(n, length), torch.ones(n, length, dtype=torch.int64)
        mask[n // 2 :, kept:] = 0
        batches.append({"input_ids": ids, "attention_mask": mask})
        rows.append((ids, mask))
    wanted, n_terms = next_token_mean(model, rows)
    problem = Problem.from_module(model, "next_token", batches)
    assert problem.n_terms == n_terms
    assert total(problem) == pytest.approx(wanted, rel=1e-12)


def test_a_causal_models_own_loss_counts_what_it_predicts():
    model, batches, rows = Language(), [], []
    for n, length in ((8, 2), (8, 20)):
        ids = tokens(n, length)
        labels = ids.clone()
        labels[:2, -1] = -100
        batches.append({"input_ids": ids, "labels": labels})
        rows.append((ids, labels != -100))
    wanted, n_terms = next_token_mean(model, rows)
    problem = Problem.from_module(model, "output", batches)
    assert problem.n_terms == n_terms == 8 * 1 + 8 * 19 - 4
    assert total(problem) == pytest.approx(wanted, rel=1e-12)


def test_a_masked_models_own_loss_counts_all_its_labels():
    """Labels that differ from the tokens are filled in where they stand: nothing is shifted."""
    model = Language(shifts=False)
    batches = []
    for n, length in ((8, 2), (8, 20)):
        ids = tokens(n, length)
        labels = ids.where(torch.rand(n, length) < 0.5, -100)
        batches.append({"input_ids": ids.masked_fill(labels != -100, 0), "labels": labels})
    scores = torch.cat([model(b["input_ids"]).flatten(0, 1) for b in batches])
    labels = torch.cat([b["labels"].flatten() for b in batches])
    problem = Problem.from_module(model, "output", batches)
    assert problem.n_terms == int((labels != -100).sum())
    assert total(problem) == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-12)


OF_ELEMENTS = {
    "mse": ("mse", F.mse_loss),
    "bce": ("bce", F.binary_cross_entropy_with_logits),
    "MSELoss": (nn.MSELoss(), F.mse_loss),
    "l1_loss": (F.l1_loss, F.l1_loss),
}


@pytest.mark.parametrize(("loss", "reference"), OF_ELEMENTS.values(), ids=OF_ELEMENTS)
def test_means_over_elements_weigh_batches_by_elements(loss, reference):
    model = nn.Linear(3, 2, dtype=F64)
    batches = [(randn(4, n, 3), randn(4, n, 2).sigmoid() * n) for n in (2, 30)]
    outputs = torch.cat([model(x).flatten() for x, _ in batches])
    targets = torch.cat([y.flatten() for _, y in batches])
    problem = Problem.from_module(model, loss, batches)
    assert problem.n_terms == 8  # rows
    assert total(problem) == pytest.approx(reference(outputs, targets).item(), rel=1e-12)


def test_weights_of_classes_weigh_the_batches_and_chunks():
    model = nn.Linear(3, 4, dtype=F64)
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([50.0, 1, 2, 3], dtype=F64))
    x, y = randn(8, 3), torch.tensor([0, 0, 0, 0, 1, 2, -100, 1])
    wanted = criterion(model(x), y).item()
    two = Problem.from_module(model, criterion, [(x[:4], y[:4]), (x[4:], y[4:])])
    assert total(two) == pytest.approx(wanted, rel=1e-12)
    cut = Problem.from_module(model, criterion, [(x, y)], microbatch=3)
    assert total(cut) == pytest.approx(wanted, rel=1e-12) and cut.n_terms == 7


def test_equal_batches_weigh_what_they_did():
    """Rows of one size: elements over elements are rows over rows, to the last bit."""
    model = nn.Linear(3, 7, dtype=F64)
    batches = [(randn(n, 3), randn(n, 7)) for n in (3, 11, 5)]
    assert Problem.from_module(model, "mse", batches).weights == (3 / 19, 11 / 19, 5 / 19)


def test_axis_1_holds_the_classes_where_two_would_fit():
    """As in torch: (rows, classes, positions), with as many classes as positions."""
    model, x, y = nn.Conv1d(3, 6, 1, dtype=F64), randn(8, 3, 6), torch.randint(0, 6, (8, 6))
    problem = Problem.from_module(model, "cross_entropy", [(x, y)])
    assert total(problem) == pytest.approx(F.cross_entropy(model(x), y).item(), rel=1e-12)
    assert axis_note(problem) == (
        "cross_entropy takes axis 1 of outputs [8, 6, 6] for classes: torch's convention"
    )


def test_tokens_as_inputs_put_the_classes_last():
    """As many positions as words: a language model's scores are (rows, positions, words)."""
    model, x = Language(), tokens(4, VOCABULARY)
    y = tokens(4, VOCABULARY)
    problem = Problem.from_module(model, "cross_entropy", [(x, y)])
    wanted = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
    assert total(problem) == pytest.approx(wanted, rel=1e-12)
    assert "axis 2 of outputs [4, 9, 9] for classes: inputs are tokens" in axis_note(problem)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("length", [6, 7])
def test_class_probabilities_say_by_their_sums_where_classes_are(axis, length):
    """Oracle: -Σ t log p over the axis on which t sums to 1, mean over the other two."""

    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=F64))

        def forward(self, x):
            return self.scale * x

    x, y = randn(8, 6, length), randn(8, 6, length).softmax(axis)
    problem = Problem.from_module(Scores(), "cross_entropy", [(x, y)])
    wanted = -(y * x.log_softmax(axis)).sum(axis).mean().item()
    assert total(problem) == pytest.approx(wanted, rel=1e-12)
    assert f"axis {axis} of outputs [8, 6, {length}]" in axis_note(problem)


def test_one_reading_needs_no_note():
    model, x = nn.Conv1d(3, 6, 1, dtype=F64), randn(8, 3, 7)
    problem = Problem.from_module(model, "cross_entropy", [(x, torch.randint(0, 6, (8, 7)))])
    assert axis_note(problem) == ""


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_criterions_weights_follow_the_dtype_of_the_probe(dtype):
    """Its own tensors stay as they are; the loss is torch's with weights in the probe's dtype."""
    model, x, y = nn.Linear(3, 4), torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 1, 0])
    weight = torch.tensor([2.0, 1, 3, 5])
    criterion = nn.CrossEntropyLoss(weight=weight)
    problem = Problem.from_module(model, criterion, [(x, y)], dtype=dtype)
    assert criterion.weight is weight and weight.dtype == torch.float32
    wanted = F.cross_entropy(model.to(dtype)(x.to(dtype)), y, weight=weight.to(dtype)).item()
    assert total(problem) == pytest.approx(wanted, rel=1e-12)
