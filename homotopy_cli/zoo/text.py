"""Characters of one text, as tokens."""

import importlib
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.datasets import TextData
from homotopy_cli.zoo.data import Batch, DataInfo, spread
from homotopy_cli.zoo.files import find, read
from homotopy_cli.zoo.randomness import keyed_generator

# Printable ASCII and the line feed: the same vocabulary under every version of Python, so
# that a checkpoint of the quickstart loads under another.
ASCII = "\n" + "".join(map(chr, range(32, 127)))
_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\t": " "}
)


class CharacterText:
    """Windows of `context` characters and the same windows moved on by one, (B, T) each.

    The first 1 - holdout of the text trains, the rest is held out: contiguous, so that no
    held-out window was seen. Training windows start anywhere (drawn with replacement);
    held-out windows do not overlap.
    """

    def __init__(self, text: str, *, context: int, holdout: float, origin: str) -> None:
        """
        Args:
            text: All of it.
            context: Characters per example.
            holdout: Share at the end that is held out.
            origin: How messages and the description name the text.

        Raises:
            ProblemError: Too short for one window in either part.
        """
        vocabulary = ASCII if set(text) <= set(ASCII) else "".join(sorted(set(text)))
        self.vocabulary = vocabulary
        self.context = context
        tokens = _encode(text, vocabulary)
        n_held_out = round(len(tokens) * holdout)
        self._train, self._held_out = tokens[: len(tokens) - n_held_out], tokens[-n_held_out:]
        if not n_held_out:
            self._held_out = self._train
        for part, name in ((self._train, "training"), (self._held_out, "held-out")):
            if len(part) <= context:
                raise ProblemError(
                    f"{origin}: the {name} part has {len(part)} characters, "
                    f"one example needs {context + 1}",
                    hint="a longer text, or a smaller data.context or data.holdout",
                )
        self.n_train = len(self._train) - context
        self.n_eval = (len(self._held_out) - 1) // context
        self.info = DataInfo(
            kind="tokens",
            description=(
                f"{origin}: {len(tokens)} characters, {len(vocabulary)} distinct, "
                f"{holdout:.0%} held out"
            ),
            vocab_size=len(vocabulary),
            context=context,
            input_shape=(context,),
            target_shape=(context,),
            baseline={
                "uniform_entropy": math.log(len(vocabulary)),
                "unigram_entropy": unigram_entropy(self._train),
            },
        )

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """`batch_size` random windows of the training part."""
        generator = keyed_generator(seed, step)
        return self._windows(
            self._train, torch.randint(self.n_train, (batch_size,), generator=generator)
        )

    def eval_batches(self, batch_size: int, n: int) -> list[Batch]:
        """Held-out windows, evenly spread, the same at every call."""
        starts = spread(self.n_eval, batch_size * n) * self.context
        return [self._windows(self._held_out, chunk) for chunk in starts.split(batch_size)]

    def probe_batches(self, batch_size: int, n: int = 1) -> list[Batch]:
        """As eval_batches."""
        return self.eval_batches(batch_size, n)

    def decode(self, tokens: Tensor) -> str:
        """The characters of a 1-D tensor of tokens."""
        return "".join(self.vocabulary[int(token)] for token in tokens)

    def _windows(self, tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        rows = tokens[starts[:, None] + torch.arange(self.context + 1)].long()
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def build_text(spec: TextData, base_dir: Path | str | None) -> CharacterText:
    """The text that a recipe names.

    Raises:
        ProblemError: Missing, not UTF-8, or too short.
    """
    if spec.source == "pydoc_topics":
        text, origin = pydoc_topics(), "Python's own help topics"
    else:
        text, origin = _read_text(spec.path or "", base_dir), spec.path or ""
    return CharacterText(text, context=spec.context, holdout=spec.holdout, origin=origin)


def pydoc_topics() -> str:
    """The English of `pydoc_data.topics`, topic after topic by name, in printable ASCII.

    About 465,000 characters; the words differ a little between versions of Python, the
    vocabulary does not.
    """
    topics = importlib.import_module("pydoc_data.topics").topics
    text = "\n\n".join(topics[name].strip() for name in sorted(topics))
    text = text.translate(_TYPOGRAPHY)
    return "".join(c if c in _ASCII_SET else "?" for c in text)


def unigram_entropy(tokens: Tensor) -> float:
    """-Σ p log p of the token frequencies, nats: the loss of a model that only counts."""
    counts = torch.bincount(tokens.long()).double()
    p = counts[counts > 0] / counts.sum()
    return float(-(p * p.log()).sum())


def _encode(text: str, vocabulary: str) -> Tensor:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    known = np.frombuffer(vocabulary.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return torch.from_numpy(np.searchsorted(known, points).astype(np.int32))


def _read_text(path: str, base_dir: Path | str | None) -> str:
    file = find(path, base_dir)
    raw = read(file)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ProblemError(
            f"{path}:{line}: byte 0x{raw[error.start]:02x} is not UTF-8",
            hint=f"save it as UTF-8: iconv -f LATIN1 -t UTF-8 {path} > utf8.txt",
        ) from error
    return text.replace("\r\n", "\n")


_ASCII_SET = frozenset(ASCII)
