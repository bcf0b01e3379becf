"""How long a run is, where nobody says so but its schedule."""

from torch.optim import lr_scheduler as torch_schedulers
from torch.optim.lr_scheduler import LRScheduler

from homotopy_cli.schedulers.baselines import Schedule


def run_length(inner: object) -> tuple[int, str]:
    """Steps until the end of an inner schedule that ends with the run; (0, "") = not known.

    A CosineAnnealingLR, OneCycleLR or PolynomialLR, a LinearLR that falls, one of baselines.py,
    and a SequentialLR whose last part is one of these. A LinearLR that rises is a warmup, and one
    of the others may be anything. One that is under way says the same, so that a run whose inner
    schedule is restored before it is wrapped goes on as one whose is restored afterwards.

    Returns:
        The number of steps, and where it stands, in words.
    """
    if isinstance(inner, Schedule):
        known = inner.total_steps > 0
        return inner.total_steps, f"the schedule {inner.name}" if known else ""
    return _of_torch(inner) if isinstance(inner, LRScheduler) else (0, "")


def _of_torch(inner: LRScheduler) -> tuple[int, str]:
    kind = type(inner)  # a subclass may mean something else by the same number
    if kind is torch_schedulers.SequentialLR:
        length, where = _of_torch(inner._schedulers[-1])
        before = inner._milestones[-1]
        return (before + length, f"the last milestone and {where}") if length else (0, "")
    name = _ENDS.get(kind, "")
    if kind is torch_schedulers.LinearLR and inner.end_factor >= inner.start_factor:
        name = ""
    length = getattr(inner, name, 0)
    whole = isinstance(length, int | float) and length == int(length) > 0
    return (int(length), f"{name} of {kind.__name__}") if whole else (0, "")


_ENDS = {
    torch_schedulers.CosineAnnealingLR: "T_max",
    torch_schedulers.OneCycleLR: "total_steps",
    torch_schedulers.PolynomialLR: "total_iters",
    torch_schedulers.LinearLR: "total_iters",
}
