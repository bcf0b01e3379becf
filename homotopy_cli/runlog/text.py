"""Text on its way into a file that people share: what HDF5 can hold, without secrets."""

import re
from collections.abc import Sequence
from dataclasses import replace

from homotopy_cli.records import RunInfo

_TELLING = re.compile(r"(?i)(token|secret|passw|api[-_]?key|access[-_]?key|credential|auth)")
_HIDDEN = "***"


def storable(text: str) -> str:
    """HDF5 strings hold neither NUL nor lone surrogates (undecodable bytes of a command line)."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def redacted(argv: Sequence[str]) -> tuple[str, ...]:
    """Replace the values of options whose name tells a secret, and passwords inside URLs.

    `--token abc` and `--token=abc` and `hub.token=abc` become `***` behind the name.
    """
    words, hide_next = [], False
    for word in argv:
        name, sign, _ = word.partition("=")
        if hide_next and not word.startswith("-"):
            words.append(_HIDDEN)
        elif sign and _TELLING.search(name):
            words.append(f"{name}={_HIDDEN}")
        else:
            words.append(re.sub(r"(://[^/@\s:]*:)[^/@\s]*@", rf"\1{_HIDDEN}@", word))
        hide_next = not sign and word.startswith("-") and bool(_TELLING.search(word))
    return tuple(words)


def storable_info(info: RunInfo) -> RunInfo:
    """The facts of a run as the file can hold them, its command line redacted.

    Raises:
        ValueError: The seed does not fit 64 bits, or the layers' facts differ in number.
    """
    if not len(info.layers) == len(info.layer_numel) == len(info.layer_kind):
        raise ValueError("layers, layer_numel and layer_kind differ in length")
    if not -(2**63) <= info.seed < 2**63:
        raise ValueError(f"seed {info.seed} does not fit 64 bits")
    return replace(
        info,
        run_id=storable(info.run_id),
        layers=tuple(storable(name) for name in info.layers),
        layer_kind=tuple(storable(kind) for kind in info.layer_kind),
        recipe_source=storable(info.recipe_source),
        argv=tuple(storable(word) for word in redacted(info.argv)),
    )
