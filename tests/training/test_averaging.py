"""Schedule-Free: evaluated on one set of weights, trained on the other; oracle: a plain loop."""

import schedulefree
import torch
from training_runs import assert_same_rows, folder

from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.recipe.targets import load_target
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.build import build_run
from homotopy_cli.training.evaluate import evaluate
from homotopy_cli.training.loop import train
from homotopy_cli.zoo.registry import build_data

OPTIMIZER = '{name: "schedulefree:AdamWScheduleFree", lr: 0.05}'


def run(tmp_path, name, **settings):
    recipe = folder(tmp_path / name, optimizer=OPTIMIZER, freq=0, **settings)
    train(load_recipe(recipe), tmp_path / name / "run.h5")
    saved = torch.load(tmp_path / name / "run.pt", weights_only=True)
    return saved["model"], read_log(tmp_path / name / "run.h5"), recipe


def by_hand(recipe, steps):
    """Weights to train on and losses, then the held-out loss on the weights to use."""
    data = build_data("data.npz", recipe.parent)
    torch.manual_seed(1)
    net = load_target("model.py:build", recipe.parent)()
    opt = schedulefree.AdamWScheduleFree(net.parameters(), lr=0.05)
    opt.train()
    losses = []
    for step in range(steps):
        x, y = data.batch(step, 16, 1)
        opt.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    opt.eval()
    with torch.no_grad():
        parts = [
            (torch.nn.functional.cross_entropy(net(x), y).item(), len(x))
            for x, y in data.eval_batches(16, 8)
        ]
    return weights, losses, sum(v * n for v, n in parts) / sum(n for _, n in parts)


def test_it_trains_on_one_set_and_is_evaluated_on_the_other(tmp_path):
    weights, log, recipe = run(tmp_path, "a")
    wanted, losses, held_out = by_hand(recipe, 20)
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert log.steps["loss"].tolist() == losses
    torch.testing.assert_close(log.evals["eval_loss"][-1], held_out, rtol=1e-6, atol=0)


def test_evaluations_leave_the_training_weights_bit_for_bit(tmp_path):
    with_evaluations, one, _ = run(tmp_path, "a", eval_every=3)
    without, other, _ = run(tmp_path, "b")
    assert all(torch.equal(with_evaluations[name], without[name]) for name in without)
    assert one.steps["loss"].tolist() == other.steps["loss"].tolist()


def test_it_resumes_bit_for_bit(tmp_path):
    whole, log, _ = run(tmp_path, "a", eval_every=4, checkpoint_every=4)
    recipe = folder(
        tmp_path / "b", optimizer=OPTIMIZER, freq=0, eval_every=4, checkpoint_every=4, steps=8
    )
    out = tmp_path / "b" / "run.h5"
    train(load_recipe(recipe), out)
    train(load_recipe(recipe, ("steps=20",)), out, resume=True)
    resumed = torch.load(out.with_suffix(".pt"), weights_only=True)["model"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert_same_rows(log, read_log(out))


def test_the_best_weights_are_those_that_were_evaluated(tmp_path):
    recipe = folder(tmp_path, optimizer=OPTIMIZER, freq=0, eval_every=5)
    loaded = load_recipe(recipe, ["keep_best=true"])
    result = train(loaded, tmp_path / "run.h5")
    built = build_run(loaded)
    built.model.load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True)["model"])
    found = evaluate(built.model, built.loss, built.eval_batches)["eval_loss"]
    assert result.best_eval == (20, found)
