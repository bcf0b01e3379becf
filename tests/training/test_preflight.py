"""What cannot be trained is said in one line, before a file is made or replaced."""

import numpy as np
import pytest
import torch
from training_runs import folder

from homotopy_cli.errors import ProblemError, RecipeError
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.training.build import build_run
from homotopy_cli.training.check import check
from homotopy_cli.training.loop import train
from homotopy_cli.training.preflight import preflight

MORE = """
def none(model, batch): return None
def rows(model, batch): return model(batch[0])
def constant(model, batch): return torch.tensor(1.0)
def cut(model, batch): return model(batch[0]).detach().pow(2).mean()
def keyed(model, batch): return model(batch["x"]).mean()
def paired(model, batch):
    if len(batch[0]) < 12:
        raise ValueError("a few rows are no batch")
    return F.cross_entropy(model(batch[0]), batch[1])
def late(model, batch):
    late.calls = getattr(late, "calls", 0) + 1
    if late.calls > 8:
        raise KeyError("row 17")
    return F.cross_entropy(model(batch[0]), batch[1])
"""


@pytest.fixture
def recipe(tmp_path):
    made = folder(tmp_path, steps=8)
    text = (tmp_path / "model.py").read_text()
    (tmp_path / "model.py").write_text("import torch\n" + text + MORE)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 5)).astype("float32")
    np.savez(tmp_path / "wide.npz", x=rng.normal(size=(120, 7)).astype("float32"), y=x[:, 0] > 0)
    np.savez(tmp_path / "classes.npz", x=x, y=rng.integers(0, 5, 120))
    np.savez(tmp_path / "floats.npz", x=x, y=x[:, 0])
    return made


CASES = [
    (("data=wide.npz",), "7 features given, 5 wanted"),
    (("data=classes.npz",), "out of range 0..2"),
    (("data=floats.npz",), r"targets float32 \[1\d\] do not go together"),
    (("loss=model.py:none",), "returns NoneType, a scalar tensor is wanted"),
    (("loss=model.py:rows",), r"returns a tensor of shape \[1\d, 3\], a scalar is wanted"),
    (("loss=model.py:constant",), "has no gradient"),
    (("loss=model.py:cut",), "has no gradient"),
    (("loss=model.py:keyed",), "the loss cannot take this batch"),
]


@pytest.mark.parametrize(("sets", "words"), CASES)
@pytest.mark.parametrize("eval_every", [0, 4])
def test_one_line_and_no_file(recipe, tmp_path, sets, words, eval_every):
    loaded = load_recipe(recipe, (*sets, f"eval_every={eval_every}"))
    with pytest.raises(ProblemError, match=words) as caught:
        train(loaded, tmp_path / "run.h5")
    assert caught.value.hint and "--model-arg" not in caught.value.hint
    assert not list(tmp_path.glob("run*"))
    with pytest.raises(ProblemError, match=words):
        check(loaded, tmp_path / "run.h5")


def test_overwrite_keeps_the_old_run_when_the_new_one_cannot_be(recipe, tmp_path):
    train(load_recipe(recipe), tmp_path / "run.h5")
    before = {path.name: path.read_bytes() for path in tmp_path.glob("run*")}
    with pytest.raises(ProblemError):
        train(load_recipe(recipe, ("data=wide.npz",)), tmp_path / "run.h5", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("run*")} == before


def test_a_failure_on_the_way_keeps_the_rows_so_far(recipe, tmp_path):
    """Two passes of the preflight, six steps, then the user's loss raises."""
    from homotopy_cli.runlog.reader import read_log

    loaded = load_recipe(recipe, ("loss=model.py:late", "curvature.freq=0"))
    with pytest.raises(ProblemError, match=r"the loss cannot take this batch.*KeyError: 'row 17'"):
        train(loaded, tmp_path / "run.h5")
    found = read_log(tmp_path / "run.h5")
    assert found.status == "interrupted" and len(found.step) == 6


@pytest.mark.parametrize("model", ["build", "build_with_state"])
def test_it_leaves_no_trace(tmp_path, model):
    run = build_run(load_recipe(folder(tmp_path, model=model)))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    rng = torch.get_rng_state()
    preflight(run, 0)
    torch.testing.assert_close(run.model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(p.grad is None for p in run.model.parameters())


def test_a_loss_that_wants_all_rows_trains(recipe, tmp_path):
    loaded = load_recipe(recipe, ("loss=model.py:paired", "curvature.freq=0"))
    assert train(loaded, tmp_path / "run.h5").status == "finished"


def test_an_accumulated_batch_is_tried_in_its_parts(recipe, monkeypatch):
    run = build_run(load_recipe(recipe, ("accumulate=4",)))
    seen = []
    run.model.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    preflight(run, 0)
    assert max(seen) == 4


def test_a_buffer_that_is_replaced_comes_back(recipe):
    run = build_run(load_recipe(recipe))
    run.model.register_buffer("n", torch.zeros(()))
    before = run.model.n

    def count(module, args):
        module.n = module.n + 1

    run.model.register_forward_pre_hook(count)
    preflight(run, 0)
    assert run.model.n is before and run.model.n.item() == 0.0


def test_climbing_trains_under_a_fixed_schedule_and_not_under_a_ceiling(recipe, tmp_path):
    climbs = ("optimizer={name: sgd, lr: 1e-3, maximize: true}",)
    done = train(load_recipe(recipe, climbs), tmp_path / "run.h5")
    assert done.status == "finished"
    held = load_recipe(recipe, (*climbs, "scheduler=homotopy"))
    with pytest.raises(RecipeError, match="maximize=True"):
        train(held, tmp_path / "held.h5")
