"""A program whose rank 1 fails inside the forward pass of a sharded model (no collective told)."""

from datetime import timedelta

import torch
import torch.distributed as dist
from distributed_splits import own_rows
from laws_fsdp import sharded

from homotopy_cli.curvature.estimator import CurvatureEstimator
from homotopy_cli.problems.problem import Problem
from homotopy_cli.problems.reducer import ProcessGroupReducer

torch.set_num_threads(1)
dist.init_process_group("gloo", timeout=timedelta(seconds=500))  # longer than the test waits
rank = dist.get_rank()
model, loss, batches = sharded("mlp")
rows = own_rows(batches, rank)
if rank == 1:
    rows = [(rows[0][0][:, :4], rows[0][1])]  # a feature is missing
problem = Problem.from_module(model, loss, rows, reducer=ProcessGroupReducer(), sharded=True)
CurvatureEstimator().estimate(problem)
