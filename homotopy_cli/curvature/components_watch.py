"""Sees the functional calls of a forward pass, and which module makes each."""

import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from homotopy_cli.curvature.components_attention import AttentionSite, Logits, Shape, given_logits
from homotopy_cli.curvature.components_calls import observers
from homotopy_cli.curvature.components_norm import NormSite
from homotopy_cli.curvature.components_origins import Origins, Scores, Squashed, Weights
from homotopy_cli.curvature.components_output import OutputSite, normalised
from homotopy_cli.curvature.components_scales import Divisor
from homotopy_cli.problems.wrappers import clean_name


@dataclass
class Frame:
    """One run of one module: who it is, and how many calls of each kind it has made."""

    module: nn.Module | None
    name: str
    calls: Counter[str] = field(default_factory=Counter)


Key = tuple[str, str, int, str]  # module, kind, number of the call, variant
Seen = tuple[dict[Key, AttentionSite | NormSite], OutputSite]


class Watch(TorchFunctionMode):
    """Collects sites while `watching()`; the calls themselves give what they would without it.

    Args:
        model: Its clean module paths name the sites; None names modules from the first caller.
    """

    def __init__(self, model: nn.Module | None) -> None:
        super().__init__()
        self.output = OutputSite()
        self.first_non_finite = ""
        self.notes: list[str] = []
        self._sites: dict[Key, AttentionSite | NormSite] = {}
        self._names: dict[int, tuple[nn.Module, str]] = {}  # the module kept, so that id is its own
        if model is not None:
            self._learn(model, "")
        self._frames = [Frame(None, "(loss)")]
        self.origins = Origins(self._hand_written_norm)
        self._thread = threading.get_ident()
        self._observers = observers(self)
        # The function asks first whether a mode is active, and hands the whole call over; the
        # same code, told that none is, shows the calls inside it.
        self._open_attention = FunctionType(
            F.multi_head_attention_forward.__code__,
            {**vars(F), "has_torch_function": lambda _: False},
            argdefs=F.multi_head_attention_forward.__defaults__,
        )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Intercept what this thread runs; hooks are global, so no module is touched."""
        with ExitStack() as stack:
            enter = register_module_forward_pre_hook(self._enter)
            stack.callback(enter.remove)
            leave = register_module_forward_hook(self._leave, always_call=True)
            stack.callback(leave.remove)
            stack.enter_context(eager())
            stack.enter_context(self)
            yield

    def restart(self) -> None:
        """Another batch begins: the same sites are met again, in the same order."""
        self._frames = [Frame(None, "(loss)")]
        self.origins.clear()

    def seen(self) -> Seen:
        """What was collected, without the model: to be pooled with other ranks'."""
        return self._sites, self.output

    def pool(self, others: Sequence[Seen]) -> None:
        """Put the rows that each rank has seen in place of this rank's own."""
        self._sites, self.output = {}, OutputSite()
        for sites, output in others:
            self.output.absorb(output)
            for key, site in sites.items():
                if key in self._sites:
                    self._sites[key].absorb(site)
                else:
                    self._sites[key] = site

    def named(self, kind: str) -> list[tuple[str, Any]]:
        """(name, site) of a kind, in the order of first use; names do not repeat."""
        taken: Counter[str] = Counter()
        found = []
        for (name, of_kind, _, _), site in self._sites.items():
            if of_kind == kind:
                taken[name] += 1
                found.append((name if taken[name] == 1 else f"{name}#{taken[name]}", site))
        return found

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return self._open_attention(*args, **kwargs)
        with any_kernel() if func is F.scaled_dot_product_attention else nullcontext():
            result = func(*args, **kwargs)
        if "out" not in kwargs and _readable(args, kwargs):
            try:
                self._observe(func, args, kwargs, result)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                self.note(
                    f"{self._frames[-1].name}: a call of {func.__name__} is left out: {error}"
                )
        return result

    def _observe(
        self,
        func: Callable[..., Any],
        args: Sequence[Any],
        kwargs: dict[str, Any],
        result: Any,
    ) -> None:
        observer = self._observers.get(func)
        if observer is None:
            self.origins.follow(func, args, kwargs, result)
            return
        device = next((a.device.type for a in args if isinstance(a, Tensor)), "cpu")
        with torch.autocast(device, enabled=False):
            observer(result, *args, **kwargs)

    def _learn(self, root: nn.Module, prefix: str) -> None:
        scripted = None  # the last one met: what is inside it comes right after it
        for path, module in root.named_modules():
            name = ".".join(filter(None, (prefix, clean_name(path)))) or "(root)"
            inside = scripted is not None and f"{path}.".startswith(scripted)
            if isinstance(module, torch.jit.ScriptModule) and not inside:
                scripted = f"{path}." if path else ""
                self.note(f"{name} is scripted: what happens inside it cannot be seen")
            self._names.setdefault(id(module), (module, name))

    def note(self, text: str) -> None:
        """Something that was not measured, said once."""
        if text not in self.notes:
            self.notes.append(text)

    def _enter(self, module: nn.Module, _: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        if id(module) not in self._names:  # the loss's own, or a closure's: the first is its root
            self._learn(module, f"({type(module).__name__})" if self._names else "")
        self._frames.append(Frame(*self._names[id(module)]))

    def _leave(self, module: nn.Module, _: Any, __: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        while len(self._frames) > 1 and self._frames.pop().module is not module:
            pass

    def _site(self, kind: str, variant: str, frame: Frame, make: Callable[[], Any]) -> Any:
        frame.calls[kind] += 1
        key = (frame.name, kind, frame.calls[kind], variant)
        if key not in self._sites:
            self._sites[key] = make()
        return self._sites[key]

    def _judge(self, sound: bool, what: str) -> None:
        if not sound and not self.first_non_finite:
            self.first_non_finite = what

    def _caller(self) -> Frame:
        """The running module; nn.Softmax stands for the module that holds it."""
        frame = self._frames[-1]
        inner = isinstance(frame.module, nn.Softmax) and len(self._frames) > 2
        return self._frames[-2] if inner else frame

    def attend(self, logits: Logits, shape: Shape) -> None:
        """One attention call."""
        seen = AttentionSite(shape[1])
        self._attended(seen, seen.add(logits, shape), self._caller())

    def _attended(self, seen: AttentionSite, sound: bool, frame: Frame) -> None:
        heads = seen.n_heads
        site = self._site("attention", str(heads), frame, lambda: AttentionSite(heads))
        site.absorb(seen)
        self._judge(sound, f'the attention of "{frame.name}"')

    def normalise(self, kind: str, variances: Tensor, eps: float, added: float = 0.0) -> None:
        """One normalisation; a module that says "norm" in its class gives the kind."""
        frame = self._frames[-1]
        own = type(frame.module).__name__
        kind = own if "norm" in own.lower() else kind
        site = self._site("norm", kind, frame, lambda: NormSite(kind))
        self._judge(site.add(variances, eps, added), f'the norm "{frame.name}"')

    def softmax(self, weights: Tensor, logits: Tensor, dim: Any) -> None:
        """A softmax over the last axis: attention if of scores, or once it weighs activations."""
        of_scores = isinstance(self.origins.of(logits), Scores)
        over_keys = logits.ndim >= 2 and dim in (-1, logits.ndim - 1)
        in_loss = len(self._frames) == 1  # where weighing is an expected cost, not a layer
        if not over_keys or (in_loss and not of_scores):
            self.origins.mark(weights, Weights())
            return
        seen, shape = given_logits(logits, self.origins.heads_of(logits))
        if of_scores:
            self.origins.mark(weights, Weights())
            self.attend(seen, shape)
            return
        site, frame = AttentionSite(shape[1]), self._caller()
        waiting = [site.add(seen, shape)]

        def found() -> None:
            if waiting:
                self._attended(site, waiting.pop(), frame)

        self.origins.mark(weights, Weights(found))

    def picked(
        self, log_p: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
    ) -> None:
        """F.nll_loss: counts as cross entropy if its input is a log_softmax over the classes."""
        origin = self.origins.of(log_p)
        if isinstance(origin, Squashed) and origin.by == "log_softmax" and normalised(log_p):
            self.classify(origin.logits, target, weight, ignore_index)

    def classify(
        self, logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
    ) -> None:
        """One cross entropy."""
        self._judge(self.output.add(logits, target, weight, ignore_index), "the output")

    def decided(self, p: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """F.binary_cross_entropy: counts if its probabilities are a sigmoid of known logits."""
        origin = self.origins.of(p)
        if isinstance(origin, Squashed) and origin.by == "sigmoid":
            self.decide(origin.logits, target, weight)

    def decide(self, logits: Tensor, target: Tensor, weight: Tensor | None) -> None:
        """One binary cross entropy."""
        self._judge(self.output.add_binary(logits, target, weight), "the output")

    def _hand_written_norm(self, found: Divisor) -> None:
        if len(self._frames) > 1:  # in the loss it is a distance, not a layer
            self.normalise(found.kind, found.values, found.eps, found.added)


def any_kernel() -> AbstractContextManager[None]:
    """Fused attention too, with no matrix of scores: nothing is differentiated here."""
    return sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )


@contextmanager
def eager() -> Iterator[None]:
    """Compiled functions run as they were written, where there may be any."""
    if "torch._dynamo" not in sys.modules:  # its import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        # a compiled module warns that hooks see it and what it holds; they carry the same name
        warnings.filterwarnings("ignore", message=r"Using `torch\.compile\(module\)` when there")
        yield


def _readable(args: Any, kwargs: Any) -> bool:
    """Values can be read: no tensor of vmap or grad, none on meta, no nested one."""
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
    return not any(
        t.is_nested or t.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(t)
        for t in tensors
    )
