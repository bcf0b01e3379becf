"""Text from a log, made harmless for HTML."""

import re
from html import escape

# Control characters, and the marks that reverse the direction of text around them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: object) -> str:
    """The text with control characters and direction overrides as replacement characters."""
    return _CONTROL.sub("\ufffd", str(text))


def safe(text: object) -> str:
    """`visible`, escaped for HTML text and quoted attributes; also for plotly's pseudo-HTML."""
    return escape(visible(text))
