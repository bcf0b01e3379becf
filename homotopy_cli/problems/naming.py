"""Names in a file against names in a model: prefixes, ties, and what does not fit in words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from homotopy_cli.errors import CheckpointError
from homotopy_cli.problems.mismatch import (
    misnamed,
    misshapen,
    refusal,
    refuse_nonfinite,
    refuse_untied,
)
from homotopy_cli.problems.wrappers import clean_name, unwrap

# torch.compile, FSDP1 and activation checkpointing put these segments anywhere in a name.
SEGMENTS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_LEADING = ("module", *SEGMENTS)
# Buffers that libraries once saved and no longer do; constant masks and counters.
_DROPPED = (
    "num_batches_tracked",
    "position_ids",
    "rotary_emb.inv_freq",
    "attn.masked_bias",
    "attn.bias",
)


@dataclass(frozen=True)
class Fitted:
    """Weights under the model's own names."""

    state: dict[str, Tensor]  # keys of model.state_dict(), tied ones included
    prefix: str
    notes: tuple[str, ...]
    path: Path

    def load(self, model: nn.Module) -> None:
        """Copy into the model, strictly; other dtypes are converted.

        Raises:
            CheckpointError: The model's own loading refuses, or a weight is not finite.
        """
        model = unwrap(model)
        refuse_nonfinite(self.path, model, self.state)
        own = {k: v for k, v in model.state_dict().items() if k not in self.state}
        try:
            model.load_state_dict({**own, **self.state}, strict=True)
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.path}: the model refuses the weights: {refusal(error)}",
                hint="--debug shows the whole message",
            ) from error


@dataclass(frozen=True)
class _Candidate:
    """One way to read the file's names."""

    state: dict[str, Tensor]  # by the model's (cleaned) names, where they match
    prefix: str
    outside: tuple[str, ...] = ()  # keys that the prefix leaves out


def strip_wrappers(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """(The state without what DDP, torch.compile, FSDP and checkpointing add, the prefix).

    "module." is removed only where every name begins with it.
    """
    names = {key: key for key in state}
    prefix = ""
    while names and all("." in name for name in names.values()):
        heads = {name.partition(".")[0] for name in names.values()}
        head = next(iter(heads))
        if len(heads) > 1 or head not in _LEADING:
            break
        names = {key: name.partition(".")[2] for key, name in names.items()}
        prefix += f"{head}."
    for segment in SEGMENTS:
        names = {k: f".{name}".replace(f".{segment}.", ".")[1:] for k, name in names.items()}
    if len(set(names.values())) < len(names):
        return dict(state), ""
    return {names[key]: tensor for key, tensor in state.items()}, prefix


def fit(
    model: nn.Module,
    path: Path,
    state: Mapping[str, Tensor],
    prefix: str = "",
    others: Mapping[str, Mapping[str, Tensor]] | None = None,
    *,
    lenient: bool = False,
) -> Fitted:
    """Find the reading of the names under which every weight of the model is there, and fits.

    Args:
        model: What is to be filled.
        path: For errors.
        state: Names as in the file, after `strip_wrappers` took `prefix` away.
        others: Further sets of the file, to say which of them would fit.
        lenient: Leave out what the model does not have (TorchScript keeps plain tensors too).

    Raises:
        CheckpointError: None fits; the closest reading is described.
    """
    model = unwrap(model)
    wanted = _Wanted(model)
    candidates = list(_readings(wanted, state, prefix))
    fitting = [c for c in candidates if wanted.fits(c, lenient)]
    if fitting:
        best = fitting[0]
        refuse_untied(path, wanted.untied(best.state))
        return Fitted(
            wanted.filled(best.state), best.prefix, wanted.notes(best, fitting, lenient), path
        )
    best = max(candidates, key=wanted.score)
    missing = wanted.missing(best.state)
    if missing and _loads_by_itself(model, state):
        note = "the model renamed the weights by its own loading hooks"
        loaded = {name: t.detach().clone() for name, t in model.state_dict().items()}
        return Fitted(loaded, prefix, (note,), path)
    better = ""
    for name, other in (others or {}).items():
        renamed, removed = strip_wrappers(other)
        if any(wanted.fits(c, lenient) for c in _readings(wanted, renamed, removed)):
            better = name
            break
    unexpected = wanted.unexpected(best)
    if missing or (unexpected and not wanted.misshapen(best.state)):
        raise misnamed(path, wanted.shapes, missing, unexpected, best.state, better)
    raise misshapen(path, wanted.misshapen(best.state), best.state, wanted.shapes, better)


class _Wanted:
    """What a model's state_dict wants: names, shapes, ties."""

    def __init__(self, model: nn.Module) -> None:
        tensors = {
            key: value
            for key, value in model.state_dict(keep_vars=True).items()
            if isinstance(value, Tensor)
        }
        self.actual = {clean_name(key): key for key in tensors}
        self.shapes = {clean_name(key): tuple(t.shape) for key, t in tensors.items()}
        groups: dict[int, list[str]] = {}
        for key, tensor in tensors.items():
            groups.setdefault(id(tensor), []).append(clean_name(key))
        self.ties = {name: group for group in groups.values() for name in group}

    def missing(self, state: Mapping[str, Tensor]) -> list[str]:
        """Names that neither they nor a tied name give; dropped counters excepted."""
        return [
            name
            for name in self.shapes
            if not any(tied in state for tied in self.ties[name]) and not name.endswith(_DROPPED)
        ]

    def unexpected(self, candidate: _Candidate) -> list[str]:
        return [
            name
            for name in candidate.state
            if name not in self.shapes and not name.endswith(_DROPPED)
        ]

    def misshapen(self, state: Mapping[str, Tensor]) -> list[str]:
        return [
            name
            for name, shape in self.shapes.items()
            if name in state and tuple(state[name].shape) != shape
        ]

    def fits(self, candidate: _Candidate, lenient: bool) -> bool:
        state = candidate.state
        exact = not self.missing(state) and not self.misshapen(state)
        return exact and (lenient or not self.unexpected(candidate))

    def score(self, candidate: _Candidate) -> tuple[int, int, int]:
        """Names that match, then shapes, then the fewest strangers; ties go to the first."""
        named = sum(name in candidate.state for name in self.shapes)
        return named, -len(self.misshapen(candidate.state)), -len(self.unexpected(candidate))

    def untied(self, state: Mapping[str, Tensor]) -> tuple[str, str] | None:
        """Two names of one parameter whose tensors differ in the file."""
        for name, group in self.ties.items():
            held = [tied for tied in group if tied in state]
            if held and name == held[0]:
                for other in held[1:]:
                    if not _same_bits(state[name], state[other]):
                        return name, other
        return None

    def filled(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every name of the model, tied ones from whichever name the file has."""
        full = {}
        for name, actual in self.actual.items():
            source = next((tied for tied in (name, *self.ties[name]) if tied in state), None)
            if source is not None:
                full[actual] = state[source]
        return full

    def notes(self, best: _Candidate, fitting: list[_Candidate], lenient: bool) -> tuple[str, ...]:
        """What was removed, left out or missing, in words."""
        said = []
        if best.prefix:
            said.append(f'prefix "{best.prefix}" removed from the names')
        if best.outside:
            n = len(best.outside)
            many = "tensors" if n > 1 else "tensor"
            said.append(f"{n} {many} outside that prefix not used: {listed(best.outside)}")
        rivals = [c.prefix for c in fitting[1:] if c.prefix and c.prefix != best.prefix]
        if rivals:
            said.append(f'the prefix "{rivals[0]}" would fit as well')
        used, n = len(best.state), len(best.outside)
        if n > used:
            said.append(
                f"warning: only {used} of the file's {n + used} tensors are used: "
                "a part of the model that was saved"
            )
        absent = [name for name in self.shapes if not any(t in best.state for t in self.ties[name])]
        if absent:
            said.append(f'"{absent[0]}" is not in the file, the model\'s own was kept')
        strangers = [name for name in best.state if name not in self.shapes]
        if strangers:
            many = "tensors" if len(strangers) > 1 else "tensor"
            said.append(f"{len(strangers)} {many} the model does not have: {listed(strangers)}")
        kinds = {t.dtype for t in best.state.values() if t.is_floating_point()}
        for kind in kinds & {torch.bfloat16, torch.float16}:
            said.append(f"weights are stored as {str(kind).removeprefix('torch.')}")
        return tuple(said)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, so that NaN equals itself."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    raw = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*raw)


def listed(names: Sequence[str], limit: int = 3, quote: str = '"') -> str:
    """Some of the names, and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"{quote}{name}{quote}" for name in names[:limit]) + more


def _readings(wanted: _Wanted, state: Mapping[str, Tensor], prefix: str) -> Iterator[_Candidate]:
    """Ways to read the names, the plainest first."""
    yield _Candidate(dict(state), prefix)
    if prefix:
        yield _Candidate({f"{prefix}{name}": t for name, t in state.items()}, "")
        first = prefix.partition(".")[0] + "."  # a model whose one attribute is called "module"
        if first != prefix:
            kept = prefix[len(first) :]
            yield _Candidate({f"{first}{n}": t for n, t in state.items()}, kept)
    for removed in _prefixes(wanted.shapes, state):
        inside = {n[len(removed) :]: t for n, t in state.items() if n.startswith(removed)}
        outside = tuple(n for n in state if not n.startswith(removed))
        yield _Candidate(inside, prefix + removed, outside)
    middle = {f".{n}".replace(".module.", ".")[1:]: t for n, t in state.items()}
    if len(middle) == len(state) and middle.keys() != state.keys():
        yield _Candidate(middle, prefix or "module.")
    for added in _prefixes(state, wanted.shapes):
        yield _Candidate({f"{added}{name}": t for name, t in state.items()}, prefix)


def _prefixes(short: Iterable[str], long: Iterable[str]) -> list[str]:
    """What stands before the first few names of `short` in `long`; averages last."""
    found: dict[str, None] = {}
    names = list(long)
    for target in list(short)[:4]:
        for name in names:
            if name.endswith(f".{target}"):
                found[name[: -len(target)]] = None
    return sorted(found, key=lambda prefix: ("ema" in prefix or "avg" in prefix, len(prefix)))


def _loads_by_itself(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """The model's own strict loading takes it: modules can rename in hooks."""
    try:
        model.load_state_dict(dict(state), strict=True)
    except Exception:  # user hooks: anything may come, and all of it means no
        return False
    return True
