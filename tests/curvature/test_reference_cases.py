"""Stored cases with stored answers: to 1e-6 in float64, to 1e-4 in float32, per module too."""

import pytest
import torch
from oracles.reference_cases import MODELS, reference

from homotopy_cli.curvature.api import probe, validate
from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem

PRECISIONS = [(torch.float64, 1e-6), (torch.float32, 1e-4)]
SQUARED = ("P02", "P12", "P17")  # forward mode fails in mse_loss's backward in torch 2.13
both_precisions = pytest.mark.parametrize(
    "dtype, rtol", PRECISIONS, ids=["float64 to 1e-6", "float32 to 1e-4"]
)


def agrees(estimate, expected, rtol):
    """Every stored number, and every module's; zeros are zero to rtol of ‖H‖."""
    size = expected["spectral"]

    def close(found, wanted, scale=size):
        assert found == pytest.approx(wanted, rel=rtol, abs=rtol * scale if wanted == 0 else 0)

    assert estimate.n_params == expected["trainable"]
    assert estimate.converged
    close(estimate.loss, expected["loss"], 1.0)
    close(estimate.grad_norm**2, expected["grad_sq"], 1.0)
    close(estimate.lambda_max.value, expected["lambda_max"])
    close(estimate.lambda_min.value, expected["lambda_min"])
    close(estimate.hessian_norm, size)
    close(estimate.frobenius_norm.value, expected["frobenius"])
    close(estimate.trace.value, expected["trace"])
    if expected["kappa_spectral"] is None:
        assert estimate.kappa is None
        assert estimate.kappa_reason == "undefined: the gradient is exactly zero"
    else:
        close(estimate.kappa, expected["kappa_spectral"])
        close(
            estimate.frobenius_norm.value / estimate.grad_norm**2,
            expected["kappa_frobenius"],
        )
    rows = {row.name: row for row in estimate.blocks}
    assert rows.keys() == expected["per_module"].keys()
    for name, wanted in expected["per_module"].items():
        row = rows[name]
        if wanted["kappa"] is None:
            assert row.kappa is None and row.kappa_reason.startswith("undefined")
            continue
        assert row.converged
        close(row.kappa, wanted["kappa"])
        if "spectral" in wanted:
            close(row.hessian_norm, wanted["spectral"])
            close(row.grad_norm**2, wanted["grad_sq"])


@both_precisions
@pytest.mark.parametrize("name", MODELS)
def test_every_number_is_the_stored_one(name, dtype, rtol):
    case = reference(name)
    problem = case.problem(dtype)
    agrees(probe(problem, Partition.by_module(problem)), case.expected, rtol)


@both_precisions
@pytest.mark.parametrize("name", MODELS)
def test_validation_finds_every_number_inside_its_bound(name, dtype, rtol):
    table = validate(reference(name).problem(dtype))
    assert [row.quantity for row in table if not row.within_bound] == []
    assert max(row.relative_error for row in table) < rtol


@both_precisions
def test_train_mode_uses_the_batch_statistics_and_leaves_the_running_ones(dtype, rtol):
    case = reference("P06")
    before = {name: value.clone() for name, value in case.model.state_dict().items()}
    estimate = probe(case.problem(dtype, mode="train"))
    agrees(estimate, case.expected_train, rtol)
    assert estimate.mode == "train" and probe(case.problem(dtype)).mode == "eval"
    after = case.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["1.num_batches_tracked"] == 123


@both_precisions
def test_unequal_batches_weigh_by_their_size(dtype, rtol):
    case = reference("P17")
    assert [len(x) for x, _ in case.split] == [4, 4, 2]
    agrees(
        probe(Problem.from_module(case.model, case.loss, case.split, dtype=dtype)),
        case.expected,
        rtol,
    )


@both_precisions
@pytest.mark.parametrize("name", ["P01", "P05", "P08", "P19"])
@pytest.mark.parametrize("keep_graph", [True, False], ids=["kept", "rebuilt"])
def test_microbatches_of_any_size_change_nothing(name, keep_graph, dtype, rtol):
    case = reference(name)
    problem = case.problem(dtype, microbatch=3)
    assert len(problem.batches) > 1
    agrees(probe(problem, keep_graph=keep_graph), case.expected, rtol)


@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"P08", "P10", "P16"}))
@pytest.mark.parametrize("method", ["forward_over_reverse", "central_difference"])
def test_every_engine_agrees_where_the_loss_is_smooth(name, method):
    """Differences certify to 1e-5 only: at their own steps the error is 1e-8 of ‖H‖."""
    case = reference(name)
    if method == "forward_over_reverse" and name in SQUARED:
        with pytest.raises(ProblemError, match="cannot be differentiated twice") as caught:
            probe(case.problem(torch.float64), hvp=method)
        assert "--hvp auto" in caught.value.hint
        return
    rtol = 1e-6 if method == "forward_over_reverse" else 1e-5
    found = probe(case.problem(torch.float64), hvp=method, frobenius=False, trace=False)
    assert found.lambda_max.value == pytest.approx(case.expected["lambda_max"], rel=rtol)
    assert found.lambda_min.value == pytest.approx(case.expected["lambda_min"], rel=rtol)
    for row in found.blocks:
        wanted = case.expected["per_module"][row.name]
        if wanted["kappa"] is not None:
            assert row.hessian_norm == pytest.approx(wanted["spectral"], rel=rtol)


def test_fused_attention_and_routing_are_exact_by_forward_over_reverse():
    for name in ("P08", "P16"):
        case = reference(name)
        found = probe(case.problem(torch.float64), hvp="forward_over_reverse")
        agrees(found, case.expected, 1e-6)


def test_what_the_loss_does_not_reach_is_said():
    head = probe(reference("P05").problem(torch.float64))
    assert head.warnings == ("not reached by the loss, κ undefined there: aux.weight, aux.bias",)
    expert = probe(reference("P16").problem(torch.float64))
    assert (
        "not reached by the loss, κ undefined there: experts.3.weight, experts.3.bias"
        in expert.warnings
    )
    states = {row.name: row.state for row in expert.blocks}
    assert states.pop("experts.3") == "not_reached" and set(states.values()) == {"reached"}


def test_zero_blocks_of_a_matrix_that_is_not_zero():
    found = probe(reference("P10").problem(torch.float64))
    assert [row.kappa for row in found.blocks] == [0.0, 0.0]
    assert found.kappa > 0.6 and found.trace.value == 0.0


def test_the_mean_of_batch_means_is_another_number():
    """So that the test of unequal batches could fail: the plain mean gives 2.56027."""
    case = reference("P17")

    def plain(params):
        outputs = [x @ params["w"].T + params["b"] for x, _ in case.split]
        losses = [(z - y).square().mean() for z, (_, y) in zip(outputs, case.split, strict=True)]
        return sum(losses) / len(losses)

    params = {"w": case.model.weight, "b": case.model.bias}
    found = probe(Problem.from_closure(params, plain))
    assert found.lambda_max.value == pytest.approx(2.56027, rel=1e-5)
    assert found.lambda_max.value > 1.05 * case.expected["lambda_max"]


def test_integers_of_a_dict_batch_stay_integers():
    case = reference("P18")
    problem = case.problem(torch.float64)
    kinds = {key: value.dtype for key, value in problem.batches[0].items()}
    assert kinds["input_ids"] == kinds["labels"] == torch.int64
    assert {value.dtype for value in case.batches[0].values()} >= {torch.int64}


def test_buffers_are_neither_counted_nor_differentiated():
    problem = reference("P19").problem(torch.float64)
    assert list(problem.numels) == ["scale", "lin.weight", "lin.bias"]
    assert problem.numels["scale"] == 1
