"""Every kind of checkpoint that others write is recognised by content and read to the same bits."""

import os

import pytest
import torch
from foreign_checkpoints import (
    adam_state,
    compiled,
    lightning,
    mlp,
    namespaced,
    save,
    sharded,
    state,
    torchscript,
    trained,
    whole_module,
)
from safetensors.torch import save_file
from torch import nn

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.checkpoint import load_into, read_checkpoint


def loaded(path, model=None, **options):
    model = model or mlp()
    return model, load_into(model, read_checkpoint(path, **options))


def assert_weights(model, wanted=None):
    for name, tensor in (wanted or trained().state_dict()).items():
        got = model.state_dict()[name].cpu()  # DataParallel moves a model to a GPU
        assert torch.equal(got, tensor), name


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("name", ["ckpt.pt", "weights.safetensors", "no_suffix"])
def test_a_state_dict_under_any_name(tmp_path, legacy, name):
    model, found = loaded(save(tmp_path / name, state(), legacy))
    assert_weights(model)
    assert (found.kind, found.entry, found.entries, found.prefix_removed) == (
        "state_dict",
        "",
        ("",),
        "",
    )
    assert found.optimizer_state is None
    assert found.recipe is None


def test_safetensors_under_any_name(tmp_path):
    for name in ("model.safetensors", "model.pt"):
        save_file(state(), tmp_path / name, metadata={"format": "pt"})
        model, found = loaded(tmp_path / name)
        assert_weights(model)
        assert found.kind == "safetensors"
        assert found.extra == {"format": "pt"}


def test_lightning_names_its_entry_and_prefix(tmp_path):
    model, found = loaded(lightning(tmp_path))
    assert_weights(model)
    assert (found.kind, found.entry, found.prefix_removed) == ("lightning", "state_dict", "model.")
    assert found.notes == (
        'took the weights in "state_dict"',
        'prefix "model." removed from the names',
    )
    assert found.extra["hyper_parameters"] == {"lr": 0.001, "hidden": 8}
    assert found.extra["epoch"] == 3
    assert set(found.optimizer_state) == {"state", "param_groups"}


def test_lightning_ignores_what_lies_outside_the_prefix_and_says_so(tmp_path):
    content = {
        "pytorch-lightning_version": "2.5.1",
        "state_dict": {**state("ema_model."), **state("net."), "criterion.weight": torch.ones(3)},
    }
    content["state_dict"]["ema_model.0.weight"] = torch.zeros(8, 5)
    model, found = loaded(save(tmp_path / "a.ckpt", content))
    assert_weights(model)
    assert found.prefix_removed == "net."
    assert found.notes[2].startswith('5 tensors outside that prefix not used: "ema_model.0.weight"')
    assert 'the prefix "ema_model." would fit as well' in found.notes[3]
    assert "only 4 of the file's 9 tensors are used" in found.notes[4]
    one = {
        "pytorch-lightning_version": "2.5.1",
        "state_dict": {**state("net."), "shift": torch.ones(())},
    }
    _, found = loaded(save(tmp_path / "one.ckpt", one))
    assert found.notes[2] == '1 tensor outside that prefix not used: "shift"'


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.model."]
)
def test_prefixes_of_wrappers_nested_in_any_order(tmp_path, prefix):
    content = {"model": state(prefix), "optimizer": adam_state(), "iter_num": 7}
    model, found = loaded(save(tmp_path / "ckpt.pt", content))
    assert_weights(model)
    assert (found.kind, found.entry, found.prefix_removed) == ("nested", "model", prefix)
    assert found.extra == {"iter_num": 7}


@pytest.mark.parametrize(
    "segment", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "module."]
)
def test_prefixes_in_the_middle_of_names(tmp_path, segment):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()
            self.head = nn.Linear(3, 2)

    source = Outer()
    content = {
        name.replace("body.", f"body.{segment}"): value
        for name, value in source.state_dict().items()
    }
    model, _ = loaded(save(tmp_path / "ckpt.pt", content), Outer())
    assert_weights(model, source.state_dict())


def test_a_model_that_owns_a_submodule_called_module_keeps_its_names(tmp_path):
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = mlp()

    source = Owner()
    for prefix in ("", "module."):
        content = {f"{prefix}{name}": value for name, value in source.state_dict().items()}
        model, _ = loaded(save(tmp_path / "ckpt.pt", content), Owner())
        assert_weights(model, source.state_dict())


def test_weights_of_the_inner_model_load_into_a_wrapping_one(tmp_path):
    class Wrapping(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

    model, _ = loaded(save(tmp_path / "ckpt.pt", state()), Wrapping())
    assert_weights(model.net)


def test_compiled_and_parallel_models_take_plain_weights(tmp_path):
    path = save(tmp_path / "ckpt.pt", state())
    for wrap in (compiled, nn.DataParallel):
        inner = mlp()
        load_into(wrap(inner), read_checkpoint(path))
        assert_weights(inner)


def test_two_sets_of_weights_are_both_offered(tmp_path):
    average = {name: value + 1 for name, value in state().items()}
    content = {"ema": average, "model": state(), "optimizer": adam_state(), "epoch": 9}
    path = save(tmp_path / "ckpt.pt", content)
    model, found = loaded(path)
    assert_weights(model)
    assert (found.entry, found.entries) == ("model", ("model", "ema"))
    assert found.notes == ('took the weights in "model"; also there: "ema" (--entry NAME)',)
    model, found = loaded(path, entry="ema")
    assert_weights(model, average)
    assert found.entry == "ema"
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path, entry="emma")
    assert error.value.message == (
        f'{path}: has no entry "emma"; sets of weights in it: "model", "ema"'
    )
    assert error.value.hint == "--entry ema"


@pytest.mark.parametrize(
    "name", ["state_dict", "model_state_dict", "model_state", "module", "net", "params", "other"]
)
def test_sets_under_any_name_and_depth(tmp_path, name):
    model, found = loaded(save(tmp_path / "a.pt", {name: state(), "epoch": 1}))
    assert_weights(model)
    assert found.entry == name
    content = {"model": {name: state(), "config": {"x": 1}}, "optimizer": adam_state()}
    model, found = loaded(save(tmp_path / "b.pt", content))
    assert_weights(model)
    assert found.entry == f"model.{name}"
    assert loaded(tmp_path / "b.pt", entry=f"model/{name}")[1].entry == f"model.{name}"


def test_optimizer_moments_and_generators_are_not_weights(tmp_path):
    content = {"weights": state(), "optimizer": adam_state(), "rng": {"cpu": torch.ones(8)}}
    assert read_checkpoint(save(tmp_path / "a.pt", content)).entries == ("weights",)


def test_a_nest_of_tensors_alone_is_one_set(tmp_path):
    content = {
        "0": {"weight": state()["0.weight"], "bias": state()["0.bias"]},
        "2": {"weight": state()["2.weight"], "bias": state()["2.bias"]},
    }
    model, found = loaded(save(tmp_path / "a.pt", content))
    assert_weights(model)
    assert found.entry == ""


def test_the_entry_that_fits_is_named_when_the_chosen_does_not(tmp_path):
    content = {"generator": nn.Linear(2, 2).state_dict(), "discriminator": state()}
    path = save(tmp_path / "gan.pt", content)
    with pytest.raises(CheckpointError) as error:
        loaded(path)
    assert error.value.hint == "--entry discriminator fits this model"
    model, _ = loaded(path, entry="discriminator")
    assert_weights(model)


def test_sharded_folder(tmp_path):
    model, found = loaded(sharded(tmp_path))
    assert_weights(model)
    assert found.kind == "sharded"
    assert found.notes == ("read 2 shards by model.safetensors.index.json",)


def test_folder_with_one_file_of_weights(tmp_path):
    save_file(state(), tmp_path / "model.safetensors")
    model, found = loaded(tmp_path)
    assert_weights(model)
    assert found.notes == ("read model.safetensors of the folder",)


def test_torchscript_gives_its_tensors_without_its_code(tmp_path):
    model, found = loaded(torchscript(tmp_path))
    assert_weights(model)
    assert found.kind == "torchscript"
    assert found.notes[0] == "TorchScript archive: 4 tensors read, its code was not loaded"


@pytest.mark.parametrize("legacy", [False, True])
def test_foreign_objects_beside_the_weights_are_read_around(tmp_path, legacy):
    model, found = loaded(namespaced(tmp_path, legacy))
    assert_weights(model)
    note = "only tensors and plain values were read; not run: argparse.Namespace, numpy scalar"
    assert found.notes[1].startswith(note)
    assert found.extra == {"best_acc1": 0.71}


def test_a_whole_module_needs_trust_and_then_loads(tmp_path, monkeypatch):
    path = whole_module(tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path)
    assert error.value.message == (
        f"{path}: is a pickled module of class zoo_of_case.Net, not a state_dict: loading it "
        "would run code"
    )
    assert "--trust-pickle" in error.value.hint
    assert sorted(os.listdir(tmp_path)) == before
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    model, found = loaded(path, trust_pickle=True)  # zoo_of_case.py lies beside the file
    assert_weights(model)
    assert found.kind == "module"
    assert type(found.module).__name__ == "Net"


def test_a_whole_module_whose_class_is_gone_says_which(tmp_path):
    path = whole_module(tmp_path)
    (tmp_path / "zoo_of_case.py").unlink()
    import sys

    sys.modules.pop("zoo_of_case", None)
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(path, trust_pickle=True)
    assert "needs code that cannot be imported here" in error.value.message
    assert "zoo_of_case" in error.value.message
    assert "PYTHONPATH=" in error.value.hint


def test_trust_runs_nothing_where_safe_reading_is_enough(tmp_path):
    model, found = loaded(save(tmp_path / "a.pt", {"model": state()}), trust_pickle=True)
    assert_weights(model)
    assert found.kind == "nested"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.emb.weight


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_copies_of_a_tied_weight_must_agree(tmp_path, dtype):
    weight = torch.randn(7, 4).to(dtype)
    same = {"emb.weight": weight, "head.weight": weight.clone()}
    model, _ = loaded(save(tmp_path / "same.pt", same), Tied())
    assert torch.equal(model.head.weight, weight.float())
    other = weight.clone()
    other[3, 1] += 0.5
    path = save(tmp_path / "other.pt", {"emb.weight": weight, "head.weight": other})
    with pytest.raises(CheckpointError) as caught:
        loaded(path, Tied())
    assert caught.value.message == (
        f'{path}: "emb.weight" and "head.weight" are one parameter in the model but differ in '
        "the file"
    )
    assert "does not tie them" in caught.value.hint


def test_tied_weights_may_be_there_once(tmp_path):
    source = Tied()
    for kept in ("emb.weight", "head.weight"):
        save_file({kept: source.emb.weight.detach().clone()}, tmp_path / "m.safetensors")
        model, _ = loaded(tmp_path / "m.safetensors", Tied())
        assert torch.equal(model.head.weight, source.emb.weight)
        assert model.head.weight is model.emb.weight


def test_buffers_of_every_dtype_and_scalars_survive(tmp_path):
    class Buffers(nn.Module):
        def __init__(self, fill):
            super().__init__()
            self.register_buffer("window", torch.full((6,), fill))
            self.register_buffer("ids", torch.full((4,), int(fill)))
            self.register_buffer("flag", torch.tensor(fill > 1))
            self.scale = nn.Parameter(torch.tensor(fill))

    model, _ = loaded(save(tmp_path / "a.pt", Buffers(2.0).state_dict()), Buffers(0.0))
    assert_weights(model, Buffers(2.0).state_dict())


def test_half_precision_weights_are_converted_and_named(tmp_path):
    half = {name: value.bfloat16() for name, value in state().items()}
    model, found = loaded(save(tmp_path / "a.pt", half))
    assert_weights(model, {name: value.float() for name, value in half.items()})
    assert found.notes == ("weights are stored as bfloat16",)


def test_cuda_tensors_load_on_a_machine_without(tmp_path):
    """The location in the pickle is rewritten to cuda:7; the bytes and checksum with it."""
    import zipfile
    import zlib

    path = save(tmp_path / "a.pt", state())
    with zipfile.ZipFile(path) as archive:
        contents = {info.filename: archive.read(info) for info in archive.infolist()}
    changed = tmp_path / "cuda.pt"
    with zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in contents.items():
            if name.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:7")
            archive.writestr(name, content)
            assert zlib.crc32(content) == archive.getinfo(name).CRC
    model, _ = loaded(changed)
    assert_weights(model)


def test_old_batch_norm_without_counter_keeps_the_models_own(tmp_path):
    source = nn.BatchNorm1d(3)
    content = {k: v for k, v in source.state_dict().items() if k != "num_batches_tracked"}
    _, found = loaded(save(tmp_path / "a.pt", content), nn.BatchNorm1d(3))
    assert found.notes == ('"num_batches_tracked" is not in the file, the model\'s own was kept',)


def test_a_models_own_loading_hooks_may_rename(tmp_path):
    """parametrizations.weight_norm reads the names of the old weight_norm by a hook."""
    source = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    content = {
        "bias": source.bias.detach(),
        "weight_g": source.parametrizations.weight.original0.detach(),
        "weight_v": source.parametrizations.weight.original1.detach() + 1,
    }
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    _, found = loaded(save(tmp_path / "a.pt", content), model)
    assert torch.equal(model.parametrizations.weight.original1, content["weight_v"])
    assert found.notes == ("the model renamed the weights by its own loading hooks",)


def test_trust_does_not_run_what_can_be_read_around(tmp_path):
    """With a class that could not even be imported, trust must not make a readable file fail."""
    path = namespaced(tmp_path)
    model, found = loaded(path, trust_pickle=True)
    assert_weights(model)
    assert found.notes[1].startswith("only tensors and plain values were read")
