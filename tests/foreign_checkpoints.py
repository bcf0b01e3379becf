"""Builds what other people save: one small MLP, in every wrapping, and every kind of damage."""

import argparse
import json
import pickle
import sys
import textwrap
import types
import warnings
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


def mlp():
    """The model of most cases: 75 parameters."""
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))


def trained():
    torch.manual_seed(1)
    return mlp()


def state(prefix=""):
    return {f"{prefix}{name}": value for name, value in trained().state_dict().items()}


def adam_state(model=None):
    """A real optimizer's state after one step."""
    model = model or trained()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


class Evil:
    """Its pickle calls a function; the function leaves a mark."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def save(path, content, legacy=False):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def lightning(folder):
    content = {
        "epoch": 3,
        "global_step": 400,
        "pytorch-lightning_version": "2.5.1",
        "state_dict": state("model."),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [adam_state()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.001, "hidden": 8},
    }
    return save(folder / "epoch=3-step=400.ckpt", content)


def namespaced(folder, legacy=False):
    content = {
        "state_dict": state(),
        "args": argparse.Namespace(lr=0.1, arch="mlp"),
        "best_acc1": np.float64(0.71),
        "when": Path("somewhere"),
    }
    return save(folder / "checkpoint.pth.tar", content, legacy)


def compiled(model):
    """torch.compile, without the deprecations that its own import warns of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.compile(model)


def torchscript(folder):
    """A scripted model on disk; scripting itself warns that it is deprecated."""
    path = folder / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(trained()).save(str(path))
    return path


def whole_module(folder):
    """torch.save(model) of a class in a module zoo_of_case that lies beside the file."""
    source = textwrap.dedent(
        """
        import torch.nn as nn

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))

            def forward(self, x):
                return self.body(x)
        """
    )
    (folder / "zoo_of_case.py").write_text(source)
    module = types.ModuleType("zoo_of_case")
    exec(source, module.__dict__)
    sys.modules["zoo_of_case"] = module
    try:
        module.Net.__module__ = "zoo_of_case"
        net = module.Net()
        net.body.load_state_dict(state())
        return save(folder / "model_full.pt", net)
    finally:
        del sys.modules["zoo_of_case"]


def sharded(folder):
    """Two shards and their index."""
    tensors = state()
    names = list(tensors)
    places = {name: f"model-0000{1 + (i > 1)}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({n: tensors[n] for n in names if places[n] == shard}, folder / shard)
    index = {"metadata": {"total_size": 300}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def raw_pickle(path, content):
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=2)
    return path
