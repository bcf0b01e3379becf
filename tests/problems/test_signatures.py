"""loss(outputs, targets) is recognised by both names, and by nothing less."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from homotopy_cli.problems.criteria import resolve_loss
from homotopy_cli.problems.signatures import takes_outputs

CASES = {
    "outputs, targets": True,
    "pred, y": True,
    "logits, labels, smoothing=0.1": True,
    "y_hat, y_true": True,
    "input, target, *, weight=None": True,
    "Output, Target": True,
    "model, batch": False,
    "net, data": False,
    "a, b": False,
    "output, batch": False,  # one name is not enough
    "model, y": False,
    "outputs": False,
    "outputs, targets, mask": False,
    "*args": False,
    "": False,
}


@pytest.mark.parametrize("arguments", CASES)
def test_by_names(arguments):
    scope = {}
    exec(f"def f({arguments}): pass", scope)
    assert takes_outputs(scope["f"]) == CASES[arguments]


def test_a_builtin_without_a_signature_is_none_of_them():
    assert not takes_outputs(max) and not takes_outputs(dict)


def test_it_is_the_criterion_and_keeps_its_count():
    def loss(logits, target):
        return F.cross_entropy(logits, target)

    model, batch = nn.Linear(4, 3), (torch.randn(6, 4), torch.arange(6) % 3)
    found = resolve_loss(loss)
    expected = F.cross_entropy(model(batch[0]), batch[1])
    assert torch.equal(found.function(model, batch), expected)
    assert found.count(batch) == 6 and found.predict is not None
    loss.count = lambda batch: 2
    assert resolve_loss(loss).count(batch) == 2
