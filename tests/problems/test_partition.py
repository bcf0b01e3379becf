"""Partitions are disjoint and cover; names are those of the owning modules."""

import pytest
import torch
from torch import nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.partition import Partition
from homotopy_cli.problems.problem import Problem


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.emb = nn.Embedding(5, 3)
        self.h = nn.ModuleList([nn.Linear(3, 3) for _ in range(3)])
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.emb.weight
        self.shift = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.head(self.emb(x)) * self.scale


def problem():
    batch = torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    return Problem.from_module(Model(), "cross_entropy", [batch])


@pytest.mark.parametrize(
    "make",
    [Partition.by_module, Partition.by_parameter, lambda p: Partition.by_pattern(p, r"h\.(\d+)")],
)
def test_every_parameter_is_in_exactly_one_block(make):
    made = make(problem())
    names = [name for block in made.blocks for name in block.params]
    assert sorted(names) == sorted(problem().params)
    assert len({block.name for block in made.blocks}) == len(made.blocks)


def test_by_module_keeps_weight_and_bias_together():
    blocks = {b.name: (b.kind, b.params) for b in Partition.by_module(problem()).blocks}
    assert blocks == {
        "(root)": ("Model", ("scale", "shift")),
        "emb": ("Embedding", ("emb.weight",)),
        "h.0": ("Linear", ("h.0.weight", "h.0.bias")),
        "h.1": ("Linear", ("h.1.weight", "h.1.bias")),
        "h.2": ("Linear", ("h.2.weight", "h.2.bias")),
    }


def test_by_parameter():
    blocks = Partition.by_parameter(problem()).blocks
    assert [b.name for b in blocks] == list(problem().params)


def test_by_pattern_groups_by_what_it_finds():
    blocks = {b.name: b.params for b in Partition.by_pattern(problem(), r"^h\.(\d+)").blocks}
    assert list(blocks) == ["(rest)", "0", "1", "2"]
    assert blocks["(rest)"] == ("scale", "shift", "emb.weight")
    whole = {b.name for b in Partition.by_pattern(problem(), r"weight|bias").blocks}
    assert whole == {"weight", "bias", "(rest)"}


def test_patterns_that_cannot_be_used():
    with pytest.raises(ProblemError, match=r"layer pattern '\(' is not a regular expression"):
        Partition.by_pattern(problem(), "(")
    with pytest.raises(ProblemError, match="'conv' matches none of 9 parameter names") as error:
        Partition.by_pattern(problem(), "conv")
    assert error.value.hint == "names look like: scale, shift, emb.weight"


def test_a_closure_has_blocks_too():
    closed = Problem.from_closure({"a": torch.ones(2), "b.c": torch.ones(1)}, lambda p: p["a"][0])
    assert [(b.name, b.kind) for b in Partition.by_module(closed).blocks] == [
        ("(root)", "function"),
        ("b", "function"),
    ]
