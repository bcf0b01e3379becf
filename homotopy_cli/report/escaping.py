"""Text from a log, made harmless for HTML."""

import re
from html import escape

# Control characters, the marks that reverse the direction of text around them, and halves of
# surrogate pairs (bytes that were no UTF-8), which no file can hold.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    """The text with control characters and direction overrides as replacement characters."""
    return _CONTROL.sub("\ufffd", str(text))


def encodable(text: str) -> str:
    """The text with `?` for what UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def safe(text: object) -> str:
    """`visible`, escaped for HTML text and quoted attributes; also for plotly's pseudo-HTML."""
    return escape(visible(text))
