"""The reader that runs nothing: stand-ins are inert, tensors exact, bombs refused."""

import builtins
import collections
import datetime
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from foreign_checkpoints import Evil, save, state
from torch import nn

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.globals import is_acting, scan
from homotopy_cli.problems.legible import Inert, LegibleUnpickler
from homotopy_cli.problems.reading import read_legacy, read_zip


def legible(content, storages=None):
    reader = LegibleUnpickler(io.BytesIO(content), lambda key: storages[key])
    return reader.load(), reader


DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


class Marked:
    """Counts every time it is built or given a state."""

    built = 0

    def __init__(self):
        self.value = 3

    def __setstate__(self, state):
        Marked.built += 1


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_no_class_of_ours_is_ever_built(protocol):
    content = pickle.dumps({"a": Marked(), "when": datetime.date(2020, 1, 2)}, protocol)
    found, reader = legible(content)
    assert Marked.built == 0
    assert isinstance(found["a"], Inert)
    assert found["a"].attributes == {"value": 3}
    assert f"{Marked.__module__}.Marked" in reader.refused
    assert "datetime.date" in reader.refused


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_no_function_is_ever_called(protocol):
    called = []
    builtins.mark_for_test = lambda *a: called.append(a)
    builtins.mark_for_test.__module__ = "builtins"
    builtins.mark_for_test.__qualname__ = "mark_for_test"
    try:
        content = pickle.dumps(Evil(builtins.mark_for_test, 1), protocol)
        found, _ = legible(content)
    finally:
        del builtins.mark_for_test
    assert called == []
    assert isinstance(found, Inert)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_are_the_same_bits_as_torch_reads(tmp_path, dtype, legacy):
    kind = getattr(torch, dtype)
    tensor = (torch.arange(24).reshape(4, 6) % 2).to(kind)
    content = {
        "w": tensor,
        "view": tensor.t()[1:, 2],
        "parameter": nn.Parameter(torch.randn(3)),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "marked": Marked(),
    }
    path = save(tmp_path / "a.pt", content, legacy)
    found = (read_legacy if legacy else read_zip)(path)
    assert any(name.endswith("Marked") for name in found.stand_ins)
    for name, wanted in content.items():
        if name != "marked":
            assert found.value[name].dtype == wanted.dtype
            assert torch.equal(found.value[name], wanted.detach()), name


def test_shared_storage_stays_shared(tmp_path):
    base = torch.arange(6.0)
    found = read_zip(save(tmp_path / "a.pt", {"a": base[:4], "b": base[2:], "m": Marked()})).value
    found["a"][2] = 99
    assert found["b"][0] == 99


def test_containers_and_numpy_scalars(tmp_path):
    content = {
        "ordered": collections.OrderedDict(a=1),
        "default": collections.defaultdict(list, b=2),
        "counter": collections.Counter("aab"),
        "set": {1, 2},
        "size": torch.Size([2, 3]),
        "half": np.float32(0.5),
        "count": np.int64(7),
        "truth": np.bool_(True),
        "array": np.ones(3),
        "marked": Marked(),
    }
    found = read_zip(save(tmp_path / "a.pt", content)).value
    assert dict(found["ordered"]) == {"a": 1}
    assert dict(found["default"]) == {"b": 2}
    assert dict(found["counter"]) == {"a": 2, "b": 1}
    assert found["set"] == {1, 2}
    assert found["size"] == (2, 3)
    assert (found["half"], found["count"], found["truth"]) == (0.5, 7, True)
    assert isinstance(found["array"], Inert)


def test_a_container_that_holds_itself_ends(tmp_path):
    content = {"model": state(), "m": Marked()}
    content["again"] = content
    from homotopy_cli.problems.checkpoint import read_checkpoint

    found = read_checkpoint(save(tmp_path / "a.pt", content))
    assert found.entry == "model"


def crafted(tmp_path, pickled, storage=b"\0" * 16):
    """A torch zip around a hand-written pickle."""
    path = tmp_path / "crafted.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", storage)
        archive.writestr("a/version", "3")
        archive.writestr("a/byteorder", "little")
    return path


class Storage:
    """Pickled as a persistent id by `tensor`."""


def tensor(size, stride, offset=0, numel=4):
    """A pickle of {"w": tensor, "m": stand-in}; torch refuses it, so it is read legibly."""

    class Rebuild:
        def __reduce__(self):
            hooks = collections.OrderedDict()
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, hooks)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", numel)
            return None

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"w": Rebuild(), "m": Marked()})
    return buffer.getvalue()


def test_shapes_are_compared_with_their_storage(tmp_path):
    good = read_zip(crafted(tmp_path, tensor((2, 2), (2, 1)))).value["w"]
    assert torch.equal(good, torch.zeros(2, 2))
    for size, stride, offset, words in [
        ((8,), (1,), 0, r"a tensor of shape \[8\] reaches beyond its 4 numbers"),
        ((2, 2), (2, 1), 1, "reaches beyond its 4 numbers"),
        ((2,), (-1,), 1, "a tensor's shape is not a shape"),
        ((2**45,), (0,), 0, "a tensor's shape is not a shape"),
        ((2**20, 2**19), (0, 0), 0, "is stored in 4 numbers"),
    ]:
        with pytest.raises(CheckpointError, match=words) as error:
            read_zip(crafted(tmp_path, tensor(size, stride, offset)))
        assert error.value.message.startswith(f"{tmp_path / 'crafted.pt'}: ")


def test_a_memo_index_that_would_reserve_gigabytes_is_refused(tmp_path):
    bomb = b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b"."
    with pytest.raises(CheckpointError, match="damaged: its pickle cannot be parsed"):
        read_zip(crafted(tmp_path, bomb))


def test_bytes_that_are_no_pickle(tmp_path):
    for content in (b"", b"nonsense", b"\x80\x02", b"\x80\x02}q\x00(X\x05"):
        with pytest.raises(CheckpointError, match="damaged: its pickle cannot be"):
            read_zip(crafted(tmp_path, content))


def test_stand_ins_cannot_hand_a_state_to_a_shared_function(tmp_path):
    """BUILD on a rebuilder may set attributes: of that reader's own function only."""
    raw = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb."
    first, _ = legible(raw)
    second, _ = legible(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.")
    assert first.__dict__ == {"a": 1}
    assert second.__dict__ == {}
    assert not hasattr(torch._utils._rebuild_tensor_v2, "a")


def test_scan_lists_every_global_once():
    content = pickle.dumps([Marked(), Marked(), datetime.date(2020, 1, 1)], 4)
    found = scan(content, "a.pt")
    assert found.names == (f"{Marked.__module__}.Marked", "datetime.date")
    assert found.acting == ()


@pytest.mark.parametrize(
    ("module", "name", "acts"),
    [
        ("builtins", "exec", True),
        ("__builtin__", "eval", True),
        ("os", "system", True),
        ("posix", "system", True),
        ("subprocess", "Popen", True),
        ("importlib", "import_module", True),
        ("torch.hub", "load", True),
        ("urllib.request", "urlopen", True),
        ("builtins", "set", False),
        ("builtins", "ValueError", False),
        ("argparse", "Namespace", False),
        ("pathlib", "PosixPath", False),
        ("torch._utils", "_rebuild_tensor_v2", False),
        ("functools", "partial", False),
        ("omegaconf.dictconfig", "DictConfig", False),
    ],
)
def test_which_globals_act(module, name, acts):
    assert is_acting(module, name) is acts
