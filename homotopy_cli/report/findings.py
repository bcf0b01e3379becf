"""What a verdict is made of: a headline, a tone, and labelled lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Tone = Literal["good", "watch", "bad", "plain"]
TONES: dict[Tone, str] = {
    "good": "healthy",
    "watch": "worth a look",
    "bad": "unhealthy",
    "plain": "measured",
}
UNFINISHED = "unfinished"  # the tag of a run whose numbers are good and whose end is unknown


@dataclass(frozen=True)
class Finding:
    """One line under the headline; `label` says what it is about."""

    label: str
    text: str
    tone: Tone = "plain"


@dataclass(frozen=True)
class Verdict:
    """What a reader should know before any chart."""

    headline: str
    tone: Tone
    findings: tuple[Finding, ...]
    state: str = ""  # the word on the tag, where it is not the tone's

    @property
    def tag(self) -> str:
        """One word or two on how the run did."""
        return self.state or TONES[self.tone]


def together(verdicts: Sequence[Verdict]) -> tuple[Tone, str]:
    """Tone and tag of several runs: one bad run is enough, and one whose end is unknown.

    One that is worth a look makes all of them so.
    """
    if any(one.tone == "bad" for one in verdicts):
        return "bad", ""
    if any(one.state == UNFINISHED for one in verdicts):
        return "plain", UNFINISHED
    if any(one.tone == "watch" for one in verdicts):
        return "watch", ""
    return "good", ""
