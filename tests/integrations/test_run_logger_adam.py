"""RunLogger of an optimizer that lowers its own rates for the length of a step."""

import pytest
import torch
from test_run_logger import STEPS, batches, network
from torch import nn

from homotopy_cli import HomotopyAdam, RunLogger, read_log


@pytest.mark.parametrize("scheduled", [False, True])
def test_homotopy_adam_logs_the_rates_that_its_steps_used(tmp_path, monkeypatch, scheduled):
    model, used = network(), []
    optimizer = HomotopyAdam(
        model.parameters(), lr=5.0, model=model, loss_fn=nn.CrossEntropyLoss(), budget=float("inf")
    )
    adam = torch.optim.Adam.step
    seen = lambda o: used.append(o.param_groups[0]["lr"]) or adam(o)  # noqa: E731
    monkeypatch.setattr(torch.optim.Adam, "step", seen)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * STEPS)
    source = {"scheduler": schedule} if scheduled else {"optimizer": optimizer}
    with RunLogger(tmp_path / "run.h5", **source) as log:
        for x, y in batches():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step(inputs=x, targets=y)
            if scheduled:
                schedule.step()
            log.step(loss)
    found = read_log(tmp_path / "run.h5")
    assert found.steps["lr"].tolist() == used and max(used[:5]) < 5.0
    assert found.steps["schedule_lr"][0] == 5.0
    assert (found.steps["lr_reason"] > 0).any()
    assert len(found.probe_step) == optimizer.guard.cadence.n_probes
    assert "SIGNAL" in {e.code for e in found.events} and found.layers
