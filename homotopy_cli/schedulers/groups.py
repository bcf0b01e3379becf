"""Learning rates in an optimizer's groups: floats or tensors, several, and others' writes."""

import weakref
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer that takes the steps: accelerate's wrapper is an Optimizer only by its type."""
    while "defaults" not in vars(optimizer) and isinstance(
        found := getattr(optimizer, "optimizer", None), Optimizer
    ):
        optimizer = found
    return optimizer


def rates(optimizer: Optimizer) -> list[float]:
    """The learning rate of every group, as floats."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def write_rates(optimizer: Optimizer, values: Sequence[float]) -> None:
    """Set every group's rate; tensor rates (torch.compile) are filled in place, never replaced."""
    for group, value in zip(optimizer.param_groups, values, strict=True):
        write_rate(group, value)


def write_rate(group: dict[str, Any], value: float) -> None:
    """Set one group's rate: see write_rates."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(value)
    else:
        group["lr"] = value


def rescale(optimizer: Optimizer, base_lr: float) -> float:
    """Make the largest group's rate `base_lr`; the others keep their ratio to it.

    Returns:
        What the rates were multiplied with.
    """
    if not base_lr > 0.0:
        raise ValueError(f"base_lr is {base_lr}: it must be positive")
    top = max(rates(optimizer), default=0.0)
    wanted = [base_lr * (r / top) if top > 0.0 else base_lr for r in rates(optimizer)]
    write_rates(optimizer, wanted)
    for group in optimizer.param_groups:
        rate = group["lr"]
        group["initial_lr"] = rate.clone() if isinstance(rate, Tensor) else rate
    return base_lr / top if top > 0.0 else 1.0


def check_inner(inner: object, optimizer: Optimizer) -> None:
    """Refuse an inner schedule that cannot be one.

    Raises:
        TypeError: Neither None, nor callable, nor a torch LRScheduler.
        ValueError: A scheduler of another optimizer, or one that needs a metric.
    """
    if isinstance(inner, ReduceLROnPlateau):
        raise ValueError(
            "ReduceLROnPlateau needs a metric at every step, so it cannot be the inner schedule; "
            "step it yourself: the rates it writes are respected"
        )
    if isinstance(inner, LRScheduler):
        if unwrapped(inner.optimizer) is not optimizer:
            raise ValueError("the inner scheduler belongs to another optimizer")
    elif inner is not None and not callable(inner):
        raise TypeError(
            f"inner is a {type(inner).__name__}: give a callable step -> factor, "
            "a torch LRScheduler of the same optimizer, or None"
        )


def inner_parts(inner: object) -> list[LRScheduler]:
    """A torch scheduler and those that it is made of (SequentialLR, ChainedScheduler)."""
    if not isinstance(inner, LRScheduler):
        return []
    children = getattr(inner, "_schedulers", [])
    return [inner, *(part for child in children for part in inner_parts(child))]


def follow_split(inner: object, origins: Sequence[int], n_before: int) -> None:
    """Give an inner torch scheduler, made before its optimizer's groups were split, one entry each.

    Its lists with one entry for each of the old groups (base_lrs, lr_lambdas, _last_lr, max_lrs,
    ...) get one for each of the new ones.

    Args:
        inner: See check_inner; one without such lists is left as it is.
        origins: For each new group the index of the old one.
        n_before: Old groups.
    """
    for part in inner_parts(inner):
        for name, value in vars(part).items():
            by_group = name not in _NOT_BY_GROUP and "milestone" not in name
            if by_group and isinstance(value, list) and len(value) == n_before:
                entries = [value[i] for i in origins]
                copies = [e.clone() if isinstance(e, Tensor) else e for e in entries]
                setattr(part, name, copies)


_NOT_BY_GROUP = ("_schedulers", "_schedule_phases")  # lists of torch's schedulers


class GroupRates:
    """Schedule of each group before the ceiling: base · inner(step) · what others multiplied.

    Another scheduler (ChainedScheduler) or the user may change a group's rate between two of
    our writes. The change is read as a factor on the schedule and kept, which is how torch's
    chainable schedulers compose; the first rate of a group that was made with rate 0 is its base.
    What optimizer.load_state_dict brings is no such change: our own rates are written again.

    Args:
        optimizer: Whose groups; it holds only a weak reference back.
        inner: See check_inner.
        unit: What the rate of a group that is added later is multiplied with: where the groups'
            rates are relative ones, a new group's is relative to what they were at first.
    """

    def __init__(self, optimizer: Optimizer, inner: object, unit: float = 1.0) -> None:
        check_inner(inner, optimizer)
        self.optimizer = optimizer
        self.inner = inner
        self.unit = unit
        self.written = rates(optimizer)  # our last write, as read back
        self.others = [1.0] * len(self.written)  # product of foreign changes
        self.positive = list(self.written)  # the last rate that was no 0
        self.zeroed = [False] * len(self.written)  # by somebody else, until that writes again
        self.inner_rates = list(self.written)  # of an inner LRScheduler, unlimited
        self._watch()

    def _watch(self) -> None:
        ref = weakref.ref(self)
        self.optimizer.register_load_state_dict_post_hook(lambda _: _write_again(ref))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._watch()  # torch's optimizers drop their hooks when they are copied

    def has_warmup(self) -> bool:
        """Whether the inner schedule starts below half of the base rate."""
        if isinstance(self.inner, LRScheduler):
            return all(
                now < 0.5 * top for now, top in zip(self.inner_rates, self._tops(), strict=True)
            )
        return self.inner is not None and float(self.inner(0)) < 0.5

    def _tops(self) -> list[float]:
        """The rate that each group's inner torch scheduler rises to."""
        groups = self.optimizer.param_groups  # SequentialLR has no base_lrs of its own
        tops = [float(group["initial_lr"]) for group in groups]
        for part in inner_parts(self.inner):  # two whose initial_lr is far below their peak
            peaks = getattr(part, "max_lrs", [])  # of CyclicLR
            if isinstance(part, OneCycleLR):
                peaks = [group["max_lr"] for group in groups]
            tops = [max(top, float(peak)) for top, peak in zip(tops, peaks or tops, strict=True)]
        return tops

    def sync(self, base_lrs: list) -> None:
        """Take in groups added since (their present rate is their base), and foreign changes."""
        for group in self.optimizer.param_groups[len(base_lrs) :]:
            group.setdefault("initial_lr", self.unit * float(group["lr"]))
            base_lrs.append(group["initial_lr"])
            self.written.append(float(group["lr"]))
            self.inner_rates.append(float(group["lr"]))
            self.positive.append(float(group["lr"]))
            self.zeroed.append(False)
            self.others.append(1.0)
        for i, now in enumerate(rates(self.optimizer)):
            if now == self.written[i]:
                continue
            before = self.written[i] or self.positive[i] or float(base_lrs[i])
            self.zeroed[i] = now == 0.0
            if before == 0.0:
                self._begin(i, now, base_lrs)
            if now > 0.0 and before > 0.0:
                self.others[i] *= now / before
                self.positive[i] = now
            self.written[i] = now

    def _begin(self, i: int, rate: float, base_lrs: list) -> None:
        """Group i, made with rate 0, has got a rate: the base of its schedule from here on."""
        base_lrs[i] = self.optimizer.param_groups[i]["initial_lr"] = self.unit * rate
        self.positive[i] = self.inner_rates[i] = rate
        for part in inner_parts(self.inner):
            if len(bases := getattr(part, "base_lrs", [])) > i and float(bases[i]) == 0.0:
                bases[i] = rate

    def forget_others(self) -> None:
        """Drop the factors that others put on the schedule."""
        self.others, self.zeroed = [1.0] * len(self.others), [False] * len(self.others)

    def step_inner(self) -> None:
        """Advance an inner LRScheduler, on its own unlimited rates."""
        if isinstance(self.inner, LRScheduler):
            write_rates(self.optimizer, self.inner_rates)
            self.inner.step()
            self.inner_rates = rates(self.optimizer)
            write_rates(self.optimizer, self.written)

    def scheduled(self, base_lrs: Sequence, step: int) -> list[float]:
        """The rate of every group before any ceiling, for scheduler step `step`."""
        if isinstance(self.inner, LRScheduler):
            plain = list(self.inner_rates)
        elif self.inner is not None:
            factor = float(self.inner(step))
            plain = [float(base) * factor for base in base_lrs]
        else:
            plain = [float(base) for base in base_lrs]
        told = zip(plain, self.others, self.zeroed, strict=True)
        return [0.0 if zero else r if other == 1.0 else r * other for r, other, zero in told]

    def wrote(self) -> None:
        """Remember the present rates as ours."""
        self.written = rates(self.optimizer)
        self.positive = [w or p for w, p in zip(self.written, self.positive, strict=True)]

    def state_dict(self) -> dict:
        """Plain numbers, and the inner scheduler's own state."""
        inner = self.inner.state_dict() if isinstance(self.inner, LRScheduler) else None
        return {
            "written": list(self.written),
            "others": list(self.others),
            "positive": list(self.positive),
            "zeroed": list(self.zeroed),
            "inner_rates": list(self.inner_rates),
            "inner": inner,
        }

    def load_state_dict(self, state: dict) -> None:
        """Restore; the groups' rates become the saved ones where their number agrees."""
        self.written, self.others = list(state["written"]), list(state["others"])
        self.inner_rates = list(state["inner_rates"])
        self.positive = list(state.get("positive", self.written))
        self.zeroed = list(state.get("zeroed", [False] * len(self.written)))
        if isinstance(self.inner, LRScheduler) and state["inner"] is not None:
            self.inner.load_state_dict(state["inner"])
        if len(self.written) == len(self.optimizer.param_groups):
            write_rates(self.optimizer, self.written)


def _write_again(ref: "weakref.ref[GroupRates]") -> None:
    """The optimizer has loaded a state, with the rates of another moment in it."""
    found = ref()
    if found is not None:
        known = zip(found.optimizer.param_groups, found.written, strict=False)  # some may be new
        for group, rate in known:
            write_rate(group, rate)
