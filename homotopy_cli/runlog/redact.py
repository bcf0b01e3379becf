"""Keep secrets out of a file that people share: a command line's words after telling names."""

import re
from collections.abc import Sequence

_TELLING = re.compile(r"(?i)(token|secret|passw|api[-_]?key|access[-_]?key|credential|auth)")
_HIDDEN = "***"


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
