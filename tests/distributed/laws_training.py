"""What two ranks make of recipes, by DDP and by FSDP2; run by distributed_launch.py."""

import os
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

from homotopy_cli.problems.checkpoint import read_checkpoint
from homotopy_cli.problems.sharded import is_sharded
from homotopy_cli.recipe.load import load_recipe
from homotopy_cli.runlog.reader import read_log
from homotopy_cli.training.build import build_run
from homotopy_cli.training.group import Group
from homotopy_cli.training.loop import train
from homotopy_cli.training.ranks import SOLO
from homotopy_cli.training.saving import load_run, save_run
from homotopy_cli.training.step import optimizer_step

STEPS = 20
KINDS = ("ddp", "fsdp")
GPT = """\
model: {name: gpt, layers: 2, heads: 2, width: 12}
data: {name: text, source: pydoc_topics, context: 8}
optimizer: {name: adamw, lr: 0.01}
scheduler: {name: cosine, warmup: 3}
clip: {max_norm: 0.5}
curvature: {freq: 7, layers_freq: 1}
steps: 20
batch_size: 5
eval_every: 10
eval_batches: 2
checkpoint_every: 8
seed: 3
threads: 1
dtype: float64
"""
CODE = """\
import os
import torch, torch.nn as nn, torch.nn.functional as F
from homotopy_cli.zoo.data import DataInfo

RANK = int(os.environ.get("RANK", "0"))


class Ignoring:
    info = DataInfo(kind="classes", description="half of the labels are ignored", n_classes=3,
                    input_shape=(4,))
    n_train, n_eval = 100, 0

    def batch(self, step, batch_size, seed):
        x = torch.randn(batch_size, 4, generator=torch.Generator().manual_seed(step))
        y = (x.double()[:, 0] > 0).long()
        y[: batch_size // 2] = -100
        return x.double(), y

    def eval_batches(self, batch_size, n):
        return []

    probe_batches = eval_batches


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))


def build():
    return Net()


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def loss_with_a_hole(model, batch):
    "NaN for slices, which only probes are, on rank 1."
    value = loss(model, batch)
    return value * float("nan") if RANK == 1 and len(batch[1]) < 8 else value


def loss_that_fails(model, batch):
    if RANK == 1:
        raise ValueError("no such column")
    return loss(model, batch)


def loss_that_is_nan(model, batch):
    return loss(model, batch) * (float("nan") if RANK == 1 else 1.0)


def loss_around(model, batch):
    "Not through the model's own forward."
    return F.cross_entropy(model.last(torch.tanh(model.first(batch[0]))), batch[1])
"""
TINY = """\
model: code.py:build
loss: code.py:{loss}
data: code.py:Ignoring
optimizer: {{name: sgd, lr: 0.5}}
scheduler: {scheduler}
curvature: {{freq: 3, layers_freq: 0, probe_fraction: {fraction}}}
steps: 20
batch_size: {rows}
seed: 1
threads: 1
dtype: float64
"""


def put(file, text):
    """Whole at any moment: the other rank, which writes the same, may be reading it."""
    own = file.with_name(f".{os.getpid()}-{file.name}")
    own.write_text(text)
    os.replace(own, file)
    return file


def gpt(folder, *changes):
    return load_recipe(put(Path(folder) / "gpt.yaml", GPT), changes)


def tiny(folder, *changes, loss="loss", scheduler="constant", fraction=1.0, rows=16):
    folder = Path(folder)
    put(folder / "code.py", CODE)
    text = TINY.format(loss=loss, scheduler=scheduler, fraction=fraction, rows=rows)
    return load_recipe(put(folder / f"{loss}-{rows}.yaml", text), changes)


def together():
    """A folder that all ranks know."""
    told = [tempfile.mkdtemp() if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(told)
    return Path(told[0])


def rows(path):
    """A log's numbers that come from no clock, its events and its environment."""
    log = read_log(path)
    steps = {k: v for k, v in log.steps.items() if "seconds" not in k and k != "wall_time"}
    told = [(e.code, e.message) for e in log.events]
    return {
        "step": log.step,
        "status": log.attrs["status"],
        "steps": steps,
        "evals": dict(log.evals),
        "layers": dict(log.layer_values),
        "probe_step": log.probe_step,
        "events": told,
        "environment": log.provenance["environment"],
    }


def law_curves(rank):
    found = {}
    for kind in KINDS:
        folder = together()
        result = train(gpt(folder), folder / "run.h5", ranks=Group(kind))
        dist.barrier()
        state = read_checkpoint(folder / "run.pt").state
        found[kind] = result.status, rows(folder / "run.h5"), state
    return found


def _stopped(signum):
    """A clock that stops the run at step 11, on rank 1 alone."""

    class Stop(Group):
        asked = 0

        def stopping(self, stop):
            self.asked += 1
            if self.asked == 12 and self.rank == 1:
                stop.signum = signum
            return super().stopping(stop)

    return Stop


def law_resumed(rank):
    """A signal on one rank ends both after the same step; what is resumed is the run itself."""
    found = {}
    for kind in KINDS:
        folder = together()
        first = train(gpt(folder), folder / "run.h5", ranks=_stopped(15)(kind))
        shards = sorted(p.name for p in folder.glob("*.dcp"))
        dist.barrier()
        train(gpt(folder), folder / "run.h5", resume=True, ranks=Group(kind))
        dist.barrier()
        state = read_checkpoint(folder / "run.pt").state
        found[kind] = (
            (first.status, first.step, first.exit_code, first.signal),
            shards,
            rows(folder / "run.h5"),
            state,
        )
        dist.barrier()
    return found


def law_other_ranks(rank):
    """FSDP's checkpoint into DDP, DDP's into FSDP, and each into one process."""
    folder = together()
    out = folder / "run.h5"
    train(gpt(folder, "steps=8", "parallel=fsdp"), out, ranks=Group("fsdp"))
    dist.barrier()
    whole = read_checkpoint(folder / "run.pt")
    header = read_checkpoint(folder / "run-8.dcp")
    alone = build_run(gpt(folder))
    load_run(alone, folder / "run.pt", torch.load(folder / "run.pt", weights_only=True))
    alone_state = {k: v.clone() for k, v in alone.model.state_dict().items()}
    dist.barrier()
    train(gpt(folder, "steps=12", "parallel=ddp"), out, resume=True, ranks=Group("ddp"))
    dist.barrier()
    shards = sorted(p.name for p in folder.glob("*.dcp"))
    train(gpt(folder, "parallel=fsdp"), out, resume=True, ranks=Group("fsdp"))
    dist.barrier()
    return {
        "whole": whole.state,
        "alone": alone_state,
        "kinds": (whole.kind, header.kind, header.recipe is not None),
        "moments": len(whole.optimizer_state["state"]),
        "shards": shards,
        "rows": rows(out),
    }


def law_rates(rank):
    """The rates that each rank used, under a ceiling and under rates that are measured."""
    found = {}
    plans = {
        "guard": "scheduler={name: homotopy}",
        "auto": "scheduler={name: homotopy, mode: auto}",
        "secant": "scheduler={name: homotopy, signal: secant}",
        "fraction": "scheduler={name: homotopy, signal_fraction: true}",
    }
    for kind in KINDS:
        for name, plan in plans.items():
            rate = "30" if name == "secant" else "0.3"  # the clipped step's edge is far along u
            loaded = gpt(together(), plan, f"optimizer.lr={rate}", "model.layers=1")
            found[kind, name] = rates(build_run(loaded, Group(kind)), 10)
    return found


def curve(run, steps=STEPS):
    return [optimizer_step(run, k).values["loss"] for k in range(steps)]


def law_whole_slices(rank):
    """Probes of all rows, under a ceiling that bites."""
    plan = "{name: homotopy}"
    return {
        kind: rates(build_run(tiny(together(), "optimizer.lr=5", scheduler=plan), Group(kind)))
        for kind in KINDS
    }


def rates(run, steps=12):
    return [optimizer_step(run, k).values["lr"] for k in range(steps)]


def law_terms(rank):
    """Rank 0's labels are all ignored; with 9 rows, and in parts, the ranks' terms differ."""
    found = {}
    for kind in KINDS:
        for n, parts in ((16, 1), (9, 1), (9, 2)):
            loaded = tiny(together(), f"accumulate={parts}", rows=n)
            found[kind, n, parts] = curve(build_run(loaded, Group(kind)))
    return found


def law_a_hole(rank):
    """Probes that fail on one rank: the ceiling stays, on both."""
    found = {}
    plan = "{name: homotopy, alpha: 1.0}"
    for kind in KINDS:
        loaded = tiny(together(), loss="loss_with_a_hole", scheduler=plan, fraction=0.5, rows=32)
        run = build_run(loaded, Group(kind))
        found[kind] = rates(run, 6), [(e.code, e.message) for e in run.probe.drain_events()]
    return found


def _told(action):
    try:
        action()
    except Exception as error:
        kind = type(error).__name__
        return kind, str(error), getattr(error, "hint", ""), getattr(error, "exit_code", None)
    return "", "", "", None


def law_errors(rank):
    """name -> (class, words, hint, code) on this rank."""
    folder = together()
    found = {
        name: _told(lambda loss=loss: curve(build_run(tiny(folder, loss=loss), Group("ddp")), 2))
        for name, loss in (("fails", "loss_that_fails"), ("around", "loss_around"))
    }
    found |= {
        "rows": _told(lambda: build_run(tiny(folder, rows=1), Group("ddp"))),
    }
    train(tiny(folder), folder / "a.h5", ranks=Group("ddp"))
    found["exists"] = _told(lambda: train(tiny(folder), folder / "a.h5", ranks=Group("ddp")))
    if rank == 0:
        (folder / "a.pt").write_bytes(b"nothing")
        (folder / "taken.pt" / "inside").mkdir(parents=True)
    dist.barrier()
    run = build_run(tiny(folder), Group("ddp"))
    found["unwritable"] = _told(lambda: save_run(run, folder / "taken.pt", run.state_dict()))
    plan = "optimizer={name: adafactor, lr: 0.01}"
    found["unshardable"] = _told(lambda: curve(build_run(tiny(folder, plan), Group("fsdp")), 2))
    run = build_run(tiny(folder, loss="loss_that_is_nan"), Group("ddp"))
    found["nan"] = ("", optimizer_step(run, 0).fault, "", None)
    found["damaged"] = _told(
        lambda: train(tiny(folder), folder / "a.h5", resume=True, ranks=Group("ddp"))
    )
    return found


def law_shards(rank):
    """Which modules FSDP gathers one at a time, and the names that stay."""
    folder = together()
    sharded = build_run(gpt(folder), Group("fsdp")).model
    alone = build_run(gpt(folder), SOLO).model
    from torch.distributed.fsdp import FSDPModule

    groups = [name for name, m in sharded.named_modules() if isinstance(m, FSDPModule)]
    return {
        "groups": groups,
        "names": list(sharded.state_dict()) == list(alone.state_dict()),
        "sharded": is_sharded(sharded) and not is_sharded(alone),
        "held": sum(p.to_local().numel() for p in sharded.parameters()),
        "all": sum(p.numel() for p in alone.parameters()),
    }
