"""Reducers in one process: one rank exchanges nothing, a group of one rank changes nothing."""

import pytest
import torch
import torch.distributed as dist

from homotopy_cli.errors import NonFiniteError, ProblemError
from homotopy_cli.linalg.vectors import (
    dot,
    gaussian,
    generator,
    norm,
    part_length,
    project,
    rademacher,
    spread_out,
    whole_length,
)
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import LOCAL, ProcessGroupReducer, _joint_error, each


@pytest.fixture(params=["local", "group"])
def reducer(request, tmp_path):
    if request.param == "local":
        yield LOCAL
        return
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        yield ProcessGroupReducer()
    finally:
        dist.destroy_process_group()


def raising(error):
    raise error


def test_one_rank_gets_back_what_it_gave(reducer):
    v = torch.tensor([1.0, 2.5, -3.0])
    assert (reducer.rank, reducer.size) == (0, 1)
    torch.testing.assert_close(reducer.sum(v.clone, v), v, rtol=0, atol=0)
    torch.testing.assert_close(reducer.first(v), v, rtol=0, atol=0)
    assert reducer.together(lambda: "mine") == ["mine"]
    assert reducer.any(True) and not reducer.any(False)
    assert each(reducer, lambda: v) is v


def test_a_sum_that_is_truly_nan_is_no_failure(reducer):
    nan = torch.full((2,), torch.nan)
    assert reducer.sum(nan.clone, nan).isnan().all()


@pytest.mark.parametrize("error", [ValueError("bad"), ProblemError("bad", hint="do this")])
def test_an_error_of_the_only_rank_keeps_its_class_and_words(reducer, error):
    like = torch.zeros(3)
    for act in (
        lambda: reducer.sum(lambda: raising(error), like),
        lambda: reducer.together(lambda: raising(error)),
        lambda: each(reducer, lambda: raising(error)),
    ):
        with pytest.raises(type(error)) as found:
            act()
        assert str(found.value) == "bad"
        assert getattr(found.value, "hint", "") == getattr(error, "hint", "")


@pytest.mark.parametrize(
    ("failures", "kind", "words"),
    [
        ({1: ("NonFiniteError", "NaN", "look")}, NonFiniteError, "rank 1: NaN"),
        ({0: ("ValueError", "v", ""), 1: ("TypeError", "t", "")}, ValueError, "rank 0: v"),
        ({0: ("KeyError", "k", ""), 1: ("KeyError", "k", "")}, KeyError, "'k'"),
        ({1: ("OutOfMemoryError", "oom", "")}, torch.OutOfMemoryError, "rank 1: oom"),
        ({1: ("TrainingDiverged", "d", "")}, RuntimeError, "rank 1: d"),
        ({1: ("SystemExit", "bye", "")}, RuntimeError, "rank 1: bye"),
    ],
)
def test_the_lowest_failing_rank_is_named_unless_all_say_the_same(failures, kind, words):
    error = _joint_error(failures, 2)
    assert type(error) is kind
    assert str(error) == words


def test_a_problem_is_local_unless_told_otherwise():
    problem = Problem.from_closure({"w": torch.ones(2)}, lambda p: (p["w"] ** 2).sum())
    assert problem.reducer is LOCAL
    assert problem.shards is None


def test_sharded_parameters_take_no_conversion():
    model = torch.nn.Linear(2, 1)
    with pytest.raises(TypeError, match="sharded=True takes parameters and batches as they are"):
        Problem.from_module(
            model, "mse", [(torch.ones(3, 2), torch.ones(3, 1))], sharded=True, microbatch=1
        )


def test_a_model_that_is_not_sharded_is_refused_as_such():
    model = torch.nn.Linear(2, 1)
    with pytest.raises(ProblemError, match='parameter "weight" is not sharded over one mesh'):
        Problem.from_module(model, "mse", [(torch.ones(3, 2), torch.ones(3, 1))], sharded=True)


class Halves:
    """Two ranks in one process: this one holds the first half, the other's sum is known."""

    def __init__(self, n, others):
        self.n, self.length, self.others = n, n // 2, others

    def part(self, whole):
        return whole[: self.length]

    def total(self, partial):
        return partial + self.others(partial)


def test_spread_out_vectors_add_over_ranks_and_draw_the_same_numbers():
    whole, other = gaussian(6, generator=generator(1)), gaussian(6, generator=generator(2))
    signs = rademacher(6, generator=generator(3))
    mine, theirs = (whole[:3], other[:3]), (whole[3:], other[3:])
    product, length = dot(whole, other), norm(whole)
    with spread_out(Halves(6, lambda partial: torch.dot(*theirs))):
        assert dot(*mine) == pytest.approx(product, rel=1e-14)
        assert part_length(6) == 3
        assert whole_length(mine[0]) == 6
        assert torch.equal(gaussian(6, generator=generator(1)), mine[0])
        assert torch.equal(rademacher(6, generator=generator(3)), signs[:3])
    with spread_out(Halves(6, lambda partial: torch.dot(whole[3:], whole[3:]))):
        assert norm(whole[:3]) == pytest.approx(length, rel=1e-14)
    rows = torch.stack([whole, other])
    with spread_out(Halves(6, lambda partial: rows[:, 3:] @ other[3:])):
        torch.testing.assert_close(project(rows[:, :3], other[:3]), rows @ other)


def test_vectors_are_whole_again_afterwards():
    with pytest.raises(RuntimeError, match="inside"), spread_out(Halves(4, torch.zeros_like)):
        raise RuntimeError("inside")
    assert part_length(4) == 4
    assert whole_length(torch.zeros(3)) == 3
