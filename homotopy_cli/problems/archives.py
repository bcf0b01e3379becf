"""What a file is, by its bytes; and whether a zip archive is whole, before anything unpacks it."""

import json
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from homotopy_cli.errors import CheckpointError

MAX_PICKLE = 256 * 2**20  # bytes of data.pkl; a state_dict of 100,000 tensors takes 30 MiB
LEGACY_MAGIC = bytes.fromhex("8002 8a0a 6cfc9c46f920 6aa85019".replace(" ", ""))
_HEAD = 4096
_CHUNK = 2**24
_AGAIN = "copy or download the file again; its size and checksum should match the origin's"
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "is a git-lfs pointer, not the weights", "git lfs pull"),
    (b"\x1f\x8b", "is gzip-compressed", "gunzip it first"),
    (b"BZh", "is bzip2-compressed", "bunzip2 it first"),
    (b"\xfd7zXZ", "is xz-compressed", "unxz it first"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed", "unzstd it first"),
    (b"\x89HDF", "is an HDF5 file, not a checkpoint", "homotopy report reads logs"),
    (b"\x93NUMPY", "is a NumPy array, not a checkpoint", "as a batch: --batch FILE.npz"),
    (b"GGUF", "is a GGUF file (llama.cpp)", "probe the safetensors it was made from"),
    (b"#!", "is a script, not a checkpoint", "name the .pt or .safetensors file"),
    (b"%PDF", "is a PDF, not a checkpoint", "name the .pt or .safetensors file"),
)


def sniff(path: Path) -> str:
    """ "zip", "safetensors", "legacy" or "pickle", by content.

    Raises:
        CheckpointError: Missing, empty, unreadable, or none of these, in words.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: no such file; looked in {path.absolute().parent}", hint=_neighbours(path)
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror})", hint="check its permissions"
        ) from error
    if not head:
        raise CheckpointError(f"{path}: is empty (0 bytes)", hint=_AGAIN)
    if not head.strip(b"\0"):
        raise CheckpointError(f"{path}: holds only zero bytes ({size} bytes)", hint=_AGAIN)
    if head[:2] == b"PK":
        return "zip"
    if is_safetensors(head, size):
        return "safetensors"
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    for magic, words, hint in _NOT_WEIGHTS:
        if head.startswith(magic):
            raise CheckpointError(f"{path}: {words}", hint=hint)
    if head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path}: is a tar archive, not a checkpoint",
            hint=f"tar tf {path}, unpack it and name the checkpoint inside",
        )
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise CheckpointError(f"{path}: is an HTML page, not the weights", hint=_AGAIN)
    if head[0] == 0x80 or _is_old_pickle(head):
        return "pickle"
    if text[:1] in (b"{", b"["):
        raise CheckpointError(
            f"{path}: is JSON text, not a checkpoint", hint="name the folder, or its weights"
        )
    raise CheckpointError(
        f"{path}: is not a checkpoint: its first bytes are {head[:8].hex(' ')}",
        hint="torch.save files, safetensors and folders of safetensors are read",
    )


def is_safetensors(head: bytes, size: int) -> bool:
    """Eight bytes of header length, then a JSON object."""
    if len(head) < 9 or head[8:9] != b"{":
        return False
    return 2 <= struct.unpack("<Q", head[:8])[0] < 2**40 and size > 8


def check_safetensors(path: Path) -> dict[str, str]:
    """The file's metadata, after its header was compared with its size.

    Raises:
        CheckpointError: The header is broken, or promises more bytes than there are.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        if length + 8 > size:
            raise CheckpointError(
                f"{path}: truncated safetensors file: {size} bytes there, the header alone has "
                f"{length + 8}",
                hint=_AGAIN,
            )
        try:
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            metadata = header.get("__metadata__") or {}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"{path}: damaged safetensors file: its header is not readable", hint=_AGAIN
            ) from error
    promised = 8 + length + max(ends, default=0)
    if promised > size:
        raise CheckpointError(
            f"{path}: truncated safetensors file: {size} bytes there, {promised} promised",
            hint=_AGAIN,
        )
    return metadata


class Archive:
    """A torch zip archive that is whole: its entries by the name inside its one top folder.

    `main` is the entry that makes it one of its kind.
    """

    def __init__(self, path: Path, file: BinaryIO, main: str = "data.pkl") -> None:
        self.path = path
        self._file = file
        self._size = size = file.seek(0, 2)
        try:
            infos = zipfile.ZipFile(file).infolist()
        except NotImplementedError as error:  # a version or flag that no torch file has
            raise CheckpointError(f"{path}: damaged: {error}", hint=_AGAIN) from error
        except (zipfile.BadZipFile, ValueError, struct.error, OSError) as error:
            raise CheckpointError(
                f"{path}: truncated or incomplete: {size} bytes there, and the zip directory "
                "that ends such a file is missing",
                hint=_AGAIN,
            ) from error
        self.entries = {info.filename.partition("/")[2]: info for info in infos}
        tops = {info.filename.partition("/")[0] for info in infos}
        code = {i.filename for n, i in self.entries.items() if n.startswith("code/")}
        data = [info for info in infos if info.filename not in code]  # code is never read here
        packed = next((i for i in data if i.compress_type != zipfile.ZIP_STORED), None)
        total = sum(info.file_size for info in data)
        if len({info.filename for info in infos}) != len(infos) or len(tops) > 1:
            if any(info.filename.endswith(".npy") for info in infos):
                raise CheckpointError(
                    f"{path}: is a NumPy archive (.npz), not a checkpoint",
                    hint="as a batch: --batch FILE.npz",
                )
            raise CheckpointError(
                f"{path}: is a zip archive, but not one that torch writes "
                f"({len(infos)} entries, {len(tops)} folders)",
                hint="unpack it and name the checkpoint inside",
            )
        if packed is not None:
            raise CheckpointError(
                f"{path}: refused: {packed.filename} is compressed, which torch never does to data "
                "(a small file could unpack to any size)",
                hint="unpack it and name the checkpoint inside, if it is a zip of checkpoints",
            )
        if total > size:
            raise CheckpointError(
                f"{path}: refused: its entries claim {total} bytes in a file of {size}",
                hint=_AGAIN,
            )
        if main not in self.entries:
            some = ", ".join(list(self.entries)[:4])
            raise CheckpointError(
                f"{path}: is a zip archive without {main} (it holds {some})",
                hint="unpack it and name the checkpoint inside",
            )
        if self.entries[main].file_size > MAX_PICKLE:
            raise CheckpointError(
                f"{path}: refused: {main} has {self.entries[main].file_size} bytes, "
                f"more than {MAX_PICKLE}",
                hint="save the state_dict alone: torch.save(model.state_dict(), PATH)",
            )

    @property
    def is_torchscript(self) -> bool:
        """It holds compiled code beside the data."""
        return "constants.pkl" in self.entries or any(n.startswith("code/") for n in self.entries)

    def read(self, name: str) -> bytes:
        """The bytes of one entry, compared with its checksum where it has one.

        Raises:
            CheckpointError: No such entry, cut short, or changed since it was written.
        """
        info = self.entries.get(name)
        if info is None:
            raise CheckpointError(f"{self.path}: incomplete: {name} is missing", hint=_AGAIN)
        return b"".join(self._chunks(info))

    def verify(self) -> None:
        """Read every entry once; torch itself does not look at the checksums."""
        for name, info in self.entries.items():
            for _ in () if name.startswith("code/") else self._chunks(info):
                pass

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        """The stored bytes, then the comparison; torch can write a checksum of 0 for none."""
        at, left, checksum = self._start(info), info.file_size, 0
        while left:
            self._file.seek(at)
            chunk = self._file.read(min(left, _CHUNK))
            if not chunk:
                raise CheckpointError(
                    f"{self.path}: truncated at {info.filename}: {left} bytes are missing",
                    hint=_AGAIN,
                )
            checksum = zlib.crc32(chunk, checksum)
            at, left = at + len(chunk), left - len(chunk)
            yield chunk
        if info.CRC and checksum != info.CRC:
            raise CheckpointError(
                f"{self.path}: damaged: the checksum of {info.filename} does not match",
                hint=_AGAIN,
            )

    def _start(self, info: zipfile.ZipInfo) -> int:
        """Where the entry's bytes begin: after its local header, whose lengths are its own."""
        header = b""
        if 0 <= info.header_offset < self._size:
            self._file.seek(info.header_offset)
            header = self._file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise CheckpointError(
                f"{self.path}: damaged: no header where {info.filename} should be", hint=_AGAIN
            )
        name, extra = struct.unpack("<HH", header[26:30])
        return info.header_offset + 30 + name + extra


def _is_old_pickle(head: bytes) -> bool:
    """Protocol 0 or 1: text opcodes."""
    return head[:2] in (b"(d", b"(l", b"(i", b"c_", b"cc", b"ct", b"cb", b"cp", b"co", b"}q", b"]q")


def _neighbours(path: Path) -> str:
    """Checkpoints that are there instead."""
    kinds = {".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".tar"}
    try:
        found = sorted(p.name for p in path.absolute().parent.iterdir() if p.suffix in kinds)
    except OSError:
        return "check the path"
    return f"there are: {', '.join(found[:4])}" if found else "check the path"
