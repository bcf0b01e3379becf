"""What a file that is no log is instead, as far as its first bytes tell, and who reads it."""

from pathlib import Path

from homotopy_cli.errors import typed

HEAD = 4096  # bytes that are looked at
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def in_words(path: Path, head: bytes) -> tuple[str, str]:
    """(what it is, what to type next) for a file whose first bytes are not those of HDF5."""
    if _holds_weights(head):
        return "a checkpoint, not a log", f"homotopy probe {typed(path)} reads it"
    if head[:2] == b"PK" and b".npy" in head[:256]:
        return "a NumPy archive, not a log", "give a run.h5 written by homotopy train"
    if head.startswith(b"{") and b'"schema_version"' in head[:64]:
        if b'"runs"' in head[:128]:
            return "the JSON of a report, not a log", "give the run.h5 that it was made from"
        return (
            "the JSON of a probe, not a log",
            "homotopy probe CKPT --out FILE.h5 writes a log that report reads, --html FILE a page",
        )
    if path.suffix.lower() in (".yaml", ".yml"):
        return "a recipe, not a log", f"homotopy train {typed(path)} makes one"
    if head[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a page, not a log", "give the run.h5 that it was made from"
    return (
        f"not an HDF5 file (it starts with {head[:12]!r})",
        "give a run.h5 written by homotopy train",
    )


def _holds_weights(head: bytes) -> bool:
    """A torch zip or pickle, or safetensors: a header's length, then JSON."""
    zipped = head[:2] == b"PK" and b".npy" not in head[:256]
    return zipped or head.startswith(_PICKLES) or (head[3:8] == bytes(5) and head[8:9] == b"{")
