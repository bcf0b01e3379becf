"""Gradient accumulation is the unaccumulated step, to rounding. float64."""

import numpy as np
import pytest
import torch
from training_runs import folder

from homotopy_cli.problems.criteria import NAMES
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.forward import Forward, backward
from homotopy_cli.training.loop import train


@pytest.mark.parametrize("parts", [2, 5, 16])
@pytest.mark.parametrize("loss", ["model.py:loss", "cross_entropy"])
def test_a_run_in_parts_is_the_run(tmp_path, loss, parts):
    """Twenty steps of 16 examples in parts of 8, of 4 and 3, of 1; probes see the whole batch."""
    recipe = folder(tmp_path, scheduler="homotopy", optimizer="{name: adamw, lr: 1e-2}")
    more = ["dtype=float64", f"loss={loss}"]
    logs = []
    for n in (1, parts):
        out = tmp_path / str(n) / "run.h5"
        train(load_recipe(recipe, [*more, f"accumulate={n}"]), out)
        logs.append((read_log(out), torch.load(out.with_suffix(".pt"), weights_only=True)))
    (whole, kept), (split, other) = logs
    for column in ("loss", "grad_norm", "update_norm", "lr"):
        np.testing.assert_allclose(
            split.steps[column], whole.steps[column], rtol=1e-9, err_msg=column
        )
    np.testing.assert_allclose(split.steps["loss"][:3], whole.steps["loss"][:3], rtol=1e-12)
    for name, tensor in kept["model"].items():
        torch.testing.assert_close(other["model"][name], tensor, rtol=1e-9, atol=1e-12)
    first = whole.probes["lambda_max"][0], split.probes["lambda_max"][0]
    assert first[0] == first[1]  # the same batch at the same weights


def problem(labels):
    torch.manual_seed(3)
    net = torch.nn.Linear(4, 3).double()
    return net, (torch.randn(len(labels), 4, dtype=torch.float64), torch.tensor(labels))


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
@pytest.mark.parametrize(
    "labels", [[0, 1, 2, 0, 1], [-100, -100, 1, 2, 0], [-100, 1, -100, -100, 2]]
)
def test_parts_weigh_by_their_terms(labels, parts):
    """Ignored labels make parts unequal, and a part without any label counts for nothing."""
    net, batch = problem(labels)
    found = backward(
        Forward(net, NAMES["cross_entropy"], torch.device("cpu")), batch, accumulate=parts
    )
    expected = torch.nn.functional.cross_entropy(net(batch[0]), batch[1])
    wanted = torch.autograd.grad(expected, list(net.parameters()))
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0)
    for parameter, grad in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-12, atol=1e-15)


def test_no_label_at_all_is_nan_as_without_parts():
    net, batch = problem([-100, -100, -100])
    forward = Forward(net, NAMES["cross_entropy"], torch.device("cpu"))
    assert torch.isnan(backward(forward, batch, accumulate=2))
    assert torch.isnan(backward(forward, batch))
