"""Every broken, foreign or hostile file is one line that says what it is, and one what to do."""

import builtins
import gzip
import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from foreign_checkpoints import Evil, mlp, namespaced, raw_pickle, save, sharded, state
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.checkpoint import load_into, read_checkpoint

MISSING_DIRECTORY = "and the zip directory that ends such a file is missing"


def refused(path, model=None, **options):
    """The error of reading, and of loading into a model; nothing else may come out."""
    with pytest.raises(CheckpointError) as caught:
        load_into(model or mlp(), read_checkpoint(path, **options))
    error = caught.value
    assert "\n" not in error.message
    assert "\n" not in error.hint
    assert error.hint
    assert error.exit_code == 2
    return error


@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
def test_truncated_zip(tmp_path, share):
    raw = save(tmp_path / "whole.pt", state()).read_bytes()
    path = tmp_path / "ckpt.pt"
    path.write_bytes(raw[: int(len(raw) * share)])
    size = path.stat().st_size
    message = f"{path}: truncated or incomplete: {size} bytes there, {MISSING_DIRECTORY}"
    assert refused(path).message == message
    assert refused(path, trust_pickle=True).message == message


def test_flipped_bit_in_the_weights_is_found_though_torch_reads_on(tmp_path):
    raw = bytearray(save(tmp_path / "a.pt", state()).read_bytes())
    at = raw.find(state()["0.weight"].numpy().tobytes())
    raw[at + 3] ^= 0xFF
    path = tmp_path / "ckpt.pt"
    path.write_bytes(raw)
    assert not torch.equal(torch.load(path)["0.weight"], state()["0.weight"])
    assert refused(path).message == (f"{path}: damaged: the checksum of a/data/0 does not match")


def test_files_written_without_checksums_are_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        path = save(tmp_path / "a.pt", state())
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(path).state["0.weight"], state()["0.weight"])


@pytest.mark.parametrize("keep", [30, 200, -40])
def test_truncated_legacy_file(tmp_path, keep):
    raw = save(tmp_path / "whole.pt", state(), legacy=True).read_bytes()
    path = tmp_path / "ckpt.pt"
    path.write_bytes(raw[:keep])
    assert "truncated or damaged (legacy torch format" in refused(path).message


@pytest.mark.parametrize("keep", [20, 300, -10])
def test_truncated_safetensors(tmp_path, keep):
    save_file(state(), tmp_path / "whole")
    raw = (tmp_path / "whole").read_bytes()
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw[:keep])
    size = path.stat().st_size
    assert f"{path}: truncated safetensors file: {size} bytes there" in refused(path).message


def test_damaged_safetensors_header(tmp_path):
    save_file(state(), tmp_path / "model.safetensors")
    raw = bytearray((tmp_path / "model.safetensors").read_bytes())
    raw[12] = 0x00
    (tmp_path / "model.safetensors").write_bytes(raw)
    assert "its header is not readable" in refused(tmp_path / "model.safetensors").message


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
TAR = io.BytesIO()
with tarfile.open(fileobj=TAR, mode="w", format=tarfile.USTAR_FORMAT) as archive:
    archive.addfile(tarfile.TarInfo("pickle"))


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        (b"", "is empty (0 bytes)", "copy or download"),
        (b"\0" * 3000, "holds only zero bytes (3000 bytes)", "copy or download"),
        (LFS, "is a git-lfs pointer, not the weights", "git lfs pull"),
        (b"<!DOCTYPE html><html><head>", "is an HTML page, not the weights", "copy or download"),
        (b"\n\n<html>404</html>", "is an HTML page, not the weights", "copy or download"),
        (gzip.compress(b"x" * 99, mtime=0), "is gzip-compressed", "gunzip it first"),
        (b"BZh91AY", "is bzip2-compressed", "bunzip2"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 90, "is an HDF5 file, not a checkpoint", "report"),
        (b"\x93NUMPY\x01\0v\0", "is a NumPy array, not a checkpoint", "--batch"),
        (b'{"epoch": 3}', "is JSON text, not a checkpoint", "name the folder"),
        (TAR.getvalue(), "is a tar archive, not a checkpoint", "tar tf"),
        (b"hello world", "is not a checkpoint: its first bytes are 68 65 6c 6c", "torch.save"),
    ],
)
def test_not_a_checkpoint_at_all(tmp_path, content, words, hint):
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content)
    error = refused(path)
    assert error.message.startswith(f"{path}: {words}")
    assert hint in error.hint


def test_missing_file_names_its_neighbours(tmp_path):
    save(tmp_path / "last.pt", state())
    error = refused(tmp_path / "best.pt")
    assert error.message == f"{tmp_path / 'best.pt'}: no such file; looked in {tmp_path}"
    assert error.hint == "there are: last.pt"


def test_hostile_pickles_run_nothing_in_any_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = Evil(builtins.exec, "open('PWNED.txt', 'w').write('x')")
    content = {"state_dict": state(), "callback": evil}
    paths = [
        save(tmp_path / "zip.pt", content),
        save(tmp_path / "legacy.pt", content, legacy=True),
        raw_pickle(tmp_path / "plain.pkl", {"callback": evil}),
    ]
    for path in paths:
        assert refused(path).message == (
            f"{path}: refused: the pickle calls builtins.exec, which would run code"
        )
    assert "PWNED.txt" not in os.listdir(tmp_path)


def test_hostile_global_is_named_though_it_hides_in_the_memo(tmp_path):
    """Protocol 4 pushes module and name as strings that a memo may repeat."""
    path = tmp_path / "a.pt"
    save(path, {"a": Evil(os.system, "touch PWNED.txt"), "b": Evil(os.system, "true")})
    assert "posix.system" in refused(path).message


def test_trust_is_what_lets_a_pickle_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = Evil(builtins.exec, "__import__('pathlib').Path('RAN.txt').touch()")
    path = save(tmp_path / "a.pt", {"state_dict": state(), "callback": evil})
    read_checkpoint(path, trust_pickle=True)
    assert "RAN.txt" in os.listdir(tmp_path)


def test_zero3_shard(tmp_path):
    empty = {k: v.new_empty(0) if k.endswith("weight") else v for k, v in state().items()}
    content = {"module": empty, "ds_version": "0.15.0", "param_shapes": []}
    path = save(tmp_path / "mp_rank_00_model_states.pt", content)
    error = refused(path)
    assert error.message == (
        f'{path}: "0.weight", "2.weight" are empty (shape [0]): probably one shard of a ZeRO-3 '
        "or FSDP run (sharding), not the whole weights"
    )
    assert "zero_to_fp32.py" in error.hint


def test_a_model_with_an_empty_parameter_is_lawful(tmp_path):
    model = nn.Linear(3, 2)
    model.register_parameter("unused", nn.Parameter(torch.empty(0)))
    load_into(model, read_checkpoint(save(tmp_path / "a.pt", model.state_dict())))


def test_wrong_architecture_shows_both_shapes(tmp_path):
    other = nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 3))
    path = save(tmp_path / "ckpt.pt", other.state_dict())
    error = refused(path)
    assert error.message == (
        f'{path}: shapes differ from the model\'s: "0.weight" (8x5 wanted, 9x5 found), '
        '"0.bias" (8 wanted, 9 found), "2.weight" (3x8 wanted, 3x9 found)'
    )
    assert "--model-arg" in error.hint


def test_missing_and_unexpected_names_stand_side_by_side(tmp_path):
    content = {k: v for k, v in state().items() if k != "2.bias"}
    content["extra.weight"] = torch.ones(2, 2)
    path = save(tmp_path / "ckpt.pt", content)
    assert refused(path).message == (
        f'{path}: names differ from the model\'s: 1 missing ("2.bias" 3); '
        '1 unexpected ("extra.weight" 2x2)'
    )


def test_a_renaming_is_proposed_where_shapes_leave_one(tmp_path):
    content = {k.replace("0.", "first."): v for k, v in state().items()}
    error = refused(save(tmp_path / "ckpt.pt", content))
    assert error.hint == (
        'by shape, "first.weight" would be "0.weight", and 1 more alike: rename and save again'
    )


def test_weights_are_never_left_random(tmp_path):
    """One name missing is an error, even when everything else fits."""
    model = mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    content = {k: v for k, v in state().items() if k != "0.weight"}
    assert '1 missing ("0.weight" 8x5)' in refused(save(tmp_path / "a.pt", content), model).message
    assert torch.equal(model.state_dict()["0.weight"], before["0.weight"])


def test_nan_and_inf_are_counted(tmp_path):
    content = state()
    content["0.weight"] = content["0.weight"].clone()
    content["0.weight"][0, 0] = torch.nan
    content["0.weight"][1, 1] = torch.inf
    content["2.bias"] = torch.full((3,), -torch.inf)
    path = save(tmp_path / "ckpt.pt", content)
    assert refused(path).message == (
        f'{path}: non-finite values in "0.weight" (1 NaN, 1 Inf), "2.bias" (3 Inf)'
    )


def test_infinite_masks_in_buffers_are_lawful_but_nan_statistics_are_not(tmp_path):
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(3, 3)
            self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))

    load_into(Masked(), read_checkpoint(save(tmp_path / "a.pt", Masked().state_dict())))
    norm = nn.BatchNorm1d(2)
    norm.running_var[0] = torch.nan
    path = save(tmp_path / "b.pt", norm.state_dict())
    assert '"running_var" (1 NaN)' in refused(path, nn.BatchNorm1d(2)).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 3, "lr": 0.1}, "holds a dict with epoch, lr, but no set of weights"),
        (torch.ones(4, 6), "holds one tensor of shape [4, 6], but no set of weights"),
        ((torch.ones(2), torch.ones(2)), "holds a tuple of 2, but no set of weights"),
        ({}, "holds a dict with nothing, but no set of weights"),
    ],
)
def test_no_weights_inside(tmp_path, content, words):
    path = save(tmp_path / "a.pt", content)
    assert words in refused(path).message


def test_a_plain_pickle_says_what_it_names(tmp_path):
    path = raw_pickle(tmp_path / "a.pkl", {"x": np.ones(3)})
    message = refused(path).message
    assert "is a plain pickle, not written by torch.save" in message
    assert "_reconstruct" in message


def test_npz_is_named_as_a_batch(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones(3), y=np.ones(3))
    assert "is a NumPy archive (.npz), not a checkpoint" in refused(tmp_path / "a.npz").message


def rezipped(source, target, *, change=None, compression=zipfile.ZIP_STORED, extra=()):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, change(info.filename, content) if change else content)
        for name, content in extra:
            new.writestr(name, content)
    return target


def test_zip_bomb_is_refused(tmp_path):
    bomb = save(tmp_path / "a.pt", {"w": torch.zeros(2**20)})
    path = rezipped(bomb, tmp_path / "b.pt", compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**16
    assert "is compressed, which torch never does to data" in refused(path).message


def test_foreign_zips_are_named(tmp_path):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/a.txt", "x")
        archive.writestr("two/b.txt", "x")
    assert "not one that torch writes (2 entries, 2 folders)" in refused(path).message
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one/a.txt", "x")
    assert "is a zip archive without data.pkl (it holds a.txt)" in refused(path).message


def test_missing_storage_is_incomplete(tmp_path):
    source = namespaced(tmp_path)
    path = tmp_path / "b.pt"
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            if not info.filename.endswith("/data/2"):
                new.writestr(info.filename, old.read(info))
    assert f"{path}: incomplete: data/2 is missing" in refused(path).message


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimizer_s_state_alone_is_named(tmp_path, make):
    model = mlp()
    optimizer = make(model.parameters(), lr=0.1)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    path = save(tmp_path / "opt.pt", optimizer.state_dict())
    assert refused(path).message == f"{path}: is an optimizer's state, which holds no weights"


def test_folders_of_other_kinds_are_named(tmp_path):
    cases = {
        "zero": (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "is a DeepSpeed ZeRO folder"),
        "many": (["a.pt", "b.pt"], "is a folder with 2 files that may hold weights"),
        "none": (["readme.md"], "is a folder without weights (it holds readme.md)"),
    }
    for name, (files, words) in cases.items():
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).write_bytes(b"x")
        assert words in refused(folder).message


def test_missing_shard_is_named(tmp_path):
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    assert refused(tmp_path).message == (
        f"{tmp_path}: 1 of 2 shards missing: model-00002-of-00002.safetensors"
    )


def test_a_shard_outside_the_folder_is_refused(tmp_path):
    sharded(tmp_path)
    index = {"weight_map": {"0.weight": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lies outside the folder" in refused(tmp_path).message


def test_an_index_that_promises_too_much(tmp_path):
    sharded(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["9.weight"] = "model-00001-of-00002.safetensors"
    path.write_text(json.dumps(index))
    assert 'lacks "9.weight", which model.safetensors.index.json says is there' in (
        refused(tmp_path).message
    )
    path.write_text("[]")
    assert "is not an index of shards" in refused(tmp_path).message


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_gives_the_same_weights_or_one_line(tmp_path_factory, data):
    """Truncations and changed bytes of a zip file: never other numbers, never another error."""
    folder = tmp_path_factory.mktemp("damage")
    raw = bytearray(namespaced(folder).read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = folder / "damaged.pt"
    path.write_bytes(raw)
    try:
        found = read_checkpoint(path).state
    except CheckpointError as error:
        assert "\n" not in error.message
        assert error.hint
    else:
        for name, tensor in state().items():
            assert torch.equal(found[name], tensor)
