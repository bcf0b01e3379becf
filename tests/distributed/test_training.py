"""Two gloo ranks train recipes: the curve, the rates and the checkpoint of one process; float64."""

import numpy as np
import pytest
import torch
from laws_training import KINDS, STEPS, curve, gpt, rates, rows, tiny

from homotopy_cli.problems.checkpoint import read_checkpoint
from homotopy_cli.training.build import build_run
from homotopy_cli.training.loop import train

pytestmark = pytest.mark.distributed


@pytest.fixture
def found(ranks):
    return ranks("laws_training")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same recipe in this process: (rows, weights)."""
    folder = tmp_path_factory.mktemp("alone")
    train(gpt(folder), folder / "run.h5")
    return rows(folder / "run.h5"), read_checkpoint(folder / "run.pt").state


PLANS = ("guard", "auto", "secant", "fraction")


def close(a, b, rtol=1e-10):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_is_that_of_one_process(found, alone, kind):
    """5 rows over two ranks: 2 and 3, so that an unweighted mean would be another loss."""
    status, log, state = found[0]["curves"][kind]
    expected, weights = alone
    assert status == "finished" and log["step"].tolist() == list(range(STEPS))
    for name in ("loss", "grad_norm", "clip_coef", "lr", "update_norm"):
        close(log["steps"][name], expected["steps"][name])
    assert (expected["steps"]["clip_coef"] < 1.0).any()
    close(log["evals"]["eval_loss"], expected["evals"]["eval_loss"])
    close(log["evals"]["eval_metric"], expected["evals"]["eval_metric"])
    close(log["layers"]["layer_grad_norm"], expected["layers"]["layer_grad_norm"], rtol=1e-6)
    assert list(state) == list(weights)
    for name, value in weights.items():
        torch.testing.assert_close(state[name], value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_log_says_how_the_run_is_spread(found, kind):
    log = found[0]["curves"][kind][1]
    (words,) = [message for code, message in log["events"] if code == "PARALLEL"]
    assert words.startswith(f"2 ranks, {kind}: 2 or 3 of 5 rows each; curvature ")
    assert ("gathered copies of the sharded parameters" in words) == (kind == "fsdp")
    environment = log["environment"]
    assert (environment["ranks"], environment["parallel"]) == ("2", kind)
    assert environment["backend"] == "gloo"


@pytest.mark.parametrize("kind", KINDS)
def test_a_signal_on_one_rank_stops_both_and_a_resume_changes_no_bit(found, kind):
    stopped, shards, log, state = found[0]["resumed"][kind]
    assert stopped == found[1]["resumed"][kind][0] == ("interrupted", 11, 143, "SIGTERM")
    assert shards == (["run-11.dcp"] if kind == "fsdp" else [])
    _, whole, weights = found[0]["curves"][kind]
    for name, values in whole["steps"].items():
        np.testing.assert_array_equal(log["steps"][name], values, err_msg=name)
    assert all(torch.equal(state[name], value) for name, value in weights.items())


def test_any_number_of_ranks_resumes_what_any_other_saved(found, alone):
    seen = found[0]["other_ranks"]
    assert seen["kinds"] == ("homotopy", "dcp", True)
    assert seen["moments"] == len(seen["whole"]) - 1  # the head is the embedding
    assert all(torch.equal(seen["alone"][name], value) for name, value in seen["whole"].items())
    assert seen["shards"] == []  # DDP saves whole weights, and the folder is gone
    log = seen["rows"]
    assert log["step"].tolist() == list(range(STEPS))
    changes = [message for code, message in log["events"] if code == "ENVIRONMENT_CHANGED"]
    assert changes == ["parallel fsdp -> ddp", "parallel ddp -> fsdp"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("plan", PLANS)
def test_both_ranks_use_the_same_rates(found, kind, plan):
    first, second = (found[rank]["rates"][kind, plan] for rank in (0, 1))
    assert first == second
    assert len(set(first)) > 3


@pytest.mark.parametrize("plan", PLANS)
def test_shards_and_replicas_see_the_same_curvature(found, plan):
    seen = found[0]["rates"]
    close(seen["fsdp", plan], seen["ddp", plan], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_ceiling_from_all_rows_is_that_of_one_process(found, tmp_path, kind):
    """Which rows a slice has depends on the number of ranks; the whole batch does not."""
    expected = rates(build_run(tiny(tmp_path, "optimizer.lr=5", scheduler="{name: homotopy}")))
    close(found[0]["whole_slices"][kind], expected, rtol=1e-8)
    assert found[1]["whole_slices"][kind] == found[0]["whole_slices"][kind]
    assert len(set(expected)) > 3 and max(expected) < 5.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "parts"), [(16, 1), (9, 1), (9, 2)])
def test_ranks_weigh_by_their_terms(found, tmp_path, kind, n, parts):
    expected = curve(build_run(tiny(tmp_path, rows=n)))
    close(found[0]["terms"][kind, n, parts], expected)
    assert found[1]["terms"][kind, n, parts] == found[0]["terms"][kind, n, parts]


@pytest.mark.parametrize("kind", KINDS)
def test_probes_that_fail_on_one_rank_hold_the_rate_on_both(found, kind):
    rates, events = found[0]["a_hole"][kind]
    assert found[1]["a_hole"][kind] == (rates, events)
    failed = [message for code, message in events if code == "PROBE_FAILED"]
    assert failed and "rank 1: the loss is nan" in failed[0]
    assert max(rates) < 0.5  # before anything is measured, rates are held at the floor


ERRORS = {  # name -> (speaker, class, words, hint, exit code)
    "fails": (
        1,
        "ProblemError",
        "ValueError: no such column",
        "a loss of your own is loss(model, batch)",
        2,
    ),
    "around": (0, "ProblemError", "the loss does not go through the model's forward", "model(", 2),
    "rows": (0, "RecipeError", "batch_size: 1 rows are too few for 2 ranks", "batch_size=2", 2),
    "exists": (0, "LogError", "a.h5: exists", "--resume", 2),
    "unwritable": (0, "CheckpointError", "taken.pt: could not be written", "--resume", 2),
    "unshardable": (
        0,
        "ProblemError",
        "optimizer: Adafactor cannot work on sharded parameters: ",
        "--set parallel=ddp",
        2,
    ),
    "nan": (0, "", "loss is nan", "", None),
    "damaged": (0, "CheckpointError", "cannot be read as a checkpoint", "--overwrite", 2),
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_ends_both_ranks_and_one_of_them_says_it(found, name):
    speaker, kind, words, hint, code = ERRORS[name]
    said, other = found[speaker]["errors"][name], found[1 - speaker]["errors"][name]
    assert said[0] == kind and words in said[1] and hint in said[2] and said[3] == code
    if name == "unwritable":  # each rank goes on, or ends, as rank 0 does
        assert other[0] == "CheckpointError" and "rank 0 could not write it" in other[1]
        return
    same = name in ("around", "rows", "unshardable", "nan")  # every rank has these by itself
    assert other == (said if same else ("SaidElsewhere", "", "", code or 70))


def test_fsdp_gathers_block_by_block_and_keeps_the_names(found):
    first, second = (found[rank]["shards"] for rank in (0, 1))
    assert first["groups"] == ["", "blocks.0", "blocks.1"]
    assert first["names"] and first["sharded"]
    assert first["held"] + second["held"] == first["all"]
    assert first["held"] < 0.6 * first["all"]
