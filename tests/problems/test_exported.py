"""torch.export archives, written by the real library."""

import io
import zipfile

import pytest
import torch
from foreign_checkpoints import trained
from torch import nn

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.checkpoint import load_into, read_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:No complete tensor found")


class Net(nn.Module):
    """BatchNorm counters and a transposed weight: int64 and strides other than the plain ones."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(5, 4), nn.BatchNorm1d(4)
        self.turned = nn.Parameter(torch.arange(12.0).view(3, 4).T)
        self.gain = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

    def forward(self, x):
        return self.norm(self.first(x)) @ self.turned * self.gain


@pytest.fixture
def archive(tmp_path):
    torch.manual_seed(0)
    model = Net().eval()
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(model, (torch.randn(8, 5),)), path)
    return path, model


def test_weights_are_read_under_their_names(archive):
    path, model = archive
    read = read_checkpoint(path)
    assert read.kind == "torch_export"
    wanted = model.state_dict()
    assert read.state.keys() == wanted.keys()
    for name, value in wanted.items():
        assert read.state[name].dtype == value.dtype and torch.equal(read.state[name], value)
    assert read.notes[0].startswith("torch.export archive: 9 tensors read, its program was not run")
    load_into(Net(), read)


def test_its_name_does_not_matter(archive, tmp_path):
    path, _ = archive
    assert read_checkpoint(path.rename(tmp_path / "weights.pt")).kind == "torch_export"


def rewritten(path, change):
    """The archive with `change(name, content)` applied to each entry; None drops it."""
    with zipfile.ZipFile(path) as old:
        entries = [(i.filename, change(i.filename, old.read(i))) for i in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries:
            if content is not None:
                new.writestr(name, content)
    return path


def test_the_older_layout(tmp_path):
    content = io.BytesIO()
    torch.save(trained().state_dict(), content)
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("serialized_exported_program.json", "{}")
        made.writestr("serialized_state_dict.pt", content.getvalue())
        made.writestr("version", "8.1")
    read = read_checkpoint(path)
    assert torch.equal(read.state["0.weight"], trained()[0].weight)


def test_missing_and_short_weights_are_named(archive):
    path, _ = archive
    rewritten(path, lambda name, c: None if name.endswith("weight_0") else c)
    with pytest.raises(CheckpointError, match="incomplete: data/weights/weight_0 is missing"):
        read_checkpoint(path)


def test_a_table_that_promises_too_much_is_damage(archive):
    path, _ = archive
    rewritten(path, lambda name, c: c[:4] if name.endswith("weight_0") else c)
    with pytest.raises(CheckpointError, match=r"damaged: .* does not describe its weights"):
        read_checkpoint(path)


def test_a_flipped_bit_is_seen(archive):
    path, model = archive
    content = bytearray(path.read_bytes())
    content[content.find(model.first.weight.detach().numpy().tobytes()) + 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="damaged: the checksum of"):
        read_checkpoint(path)
