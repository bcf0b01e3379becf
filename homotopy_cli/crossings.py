"""What a spike of a series is: one rule, for training while it runs and for a finished log.

z_t = (x_t - mean) / sd over the last WINDOW healthy values before t. A spike *event* needs
z > THRESHOLD on PERSISTENCE consecutive steps, or one value beyond SEVERE; crossings closer than
MERGE steps belong to one event. Spiking values stay out of the window, unless a new level
persists. A spike is an event, never an exception.

Source: window 128 and 6 sd are OLMo-core's defaults for short runs; three consecutive steps are
the practice reported for K2-V2; 20 sd is our choice.
"""

from typing import NamedTuple

WINDOW = 128  # healthy values that are remembered
THRESHOLD = 6.0  # sd above their mean from which on a value crosses
SEVERE = 20.0  # sd at which one crossing is enough
PERSISTENCE = 3  # consecutive crossings that are an event
MERGE = 10  # steps within which crossings belong to the same event
WARMUP = 32  # values that must be known before one is judged


class Crossing(NamedTuple):
    """A value beyond the threshold, and where the series stands after it."""

    above: int  # consecutive crossings, this one included
    since: int  # steps since the last crossing that was an event or part of one
    begins: bool  # a new event starts here
    settles: bool  # a new level, not a spike: the window follows it


def crossed(
    score: float,
    *,
    above: int,
    since: int,
    severe: float = SEVERE,
    persistence: int = PERSISTENCE,
    merge: int = MERGE,
) -> Crossing:
    """What a value beyond the threshold is. One that is not sets `above` to 0 and `since` one on.

    Args:
        score: z of the value; inf where it is not finite.
        above: Crossings in a row just before it.
        since: Steps between it and the last crossing of an event, more than `merge` at first.
        severe, persistence, merge: See the module's constants.
    """
    above += 1
    fires = above >= persistence or score > severe
    settles = above >= 2 * persistence and since <= merge
    return Crossing(above, 0 if fires else since, fires and since > merge, settles)
