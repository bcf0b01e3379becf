"""What happens at the edges of a loop: failures, files loaded in part, strange set-ups."""

import pytest
import torch
from setups import batches, network
from torch import nn

from homotopy_cli import HomotopyLR
from homotopy_cli.records import LR_REASONS


def backward(model, batch, poison=False):
    model.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    if poison:
        next(model.parameters()).grad.fill_(torch.inf)


@pytest.mark.parametrize("fault", ["gradient", "probe"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_with_alpha_0_a_failure_lowers_nothing_and_else_it_says_why(fault, alpha):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = HomotopyLR(optimizer, model, nn.CrossEntropyLoss(), alpha=alpha)
    x, y = batches(1)[0]
    backward(model, (x, y), poison=fault == "gradient")
    scheduler.update_curvature(x if fault == "gradient" else x * torch.nan, y)
    messages = {e.code: e.message for e in scheduler.events}
    if alpha:
        assert scheduler.get_last_lr() == [pytest.approx(0.1 * 1e-2)]
        assert LR_REASONS[scheduler.lr_reason] == "held"
        assert messages["CEILING_ON"].endswith("0.1: no probe has succeeded yet")
    else:
        assert scheduler.get_last_lr() == [0.1]
        assert LR_REASONS[scheduler.lr_reason] == "schedule"
        assert "CEILING_ON" not in messages
    if fault == "probe":
        kept = "rates are held at the floor" if alpha else "there is no ceiling yet"
        assert messages["PROBE_FAILED"].endswith(kept)
