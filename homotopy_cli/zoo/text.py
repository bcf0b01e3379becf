"""Windows of one text, as tokens: the next token to predict, or masked ones to restore."""

import importlib
import math
from pathlib import Path

import torch
from torch import Tensor

from homotopy_cli.errors import ProblemError
from homotopy_cli.recipe.datasets import TextData, TokenData
from homotopy_cli.recipe.named_files import HOW
from homotopy_cli.zoo.data import IGNORED, Batch, DataInfo, spread
from homotopy_cli.zoo.files import find, read
from homotopy_cli.zoo.randomness import keyed_generator
from homotopy_cli.zoo.vocabulary import ASCII, Characters, Vocabulary, build_vocabulary

_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "...", "\t": " "}
)
_HINT = HOW["text"]


class TokenText:
    """Windows of `context` tokens of one text, (B, T) inputs and (B, T) targets.

    The first 1 - holdout of the text trains, the rest is held out: contiguous, so that no
    held-out window was seen. Training windows start anywhere (drawn with replacement);
    held-out windows do not overlap.

    Objective `next`: targets are the same windows moved on by one. Objective `masked` (Devlin et
    al. 2019, arXiv:1810.04805): a share of the tokens is replaced by the mask token, targets are
    those tokens and -100 elsewhere; each row has at least one.
    """

    def __init__(
        self, train: Tensor, held_out: Tensor, vocabulary: Vocabulary, spec: TokenData, origin: str
    ) -> None:
        """
        Args:
            train, held_out: Tokens of the two parts; an empty second part: evaluated on the first.
            vocabulary: What made them.
            spec: Its `context`, `objective`, `mask` and `holdout`.
            origin: How messages and the description name the text.

        Raises:
            ProblemError: Too short for one window in either part.
        """
        self.vocabulary = vocabulary
        self.context = spec.context
        self._masked = spec.objective == "masked"
        self._share = spec.mask
        n_tokens = len(train) + len(held_out)
        self._train, self._held_out = train, held_out if len(held_out) else train
        for part, name in ((self._train, "training"), (self._held_out, "held-out")):
            if len(part) <= self.context:
                raise ProblemError(
                    f"{origin}: the {name} part has {len(part)} {vocabulary.unit}, "
                    f"one example needs {self.context + 1}",
                    hint="a longer text, or a smaller data.context or data.holdout",
                )
        self.n_train = len(self._train) - self.context
        self.n_eval = (len(self._held_out) - 1) // self.context
        size = vocabulary.size
        self._mask_token = size if vocabulary.mask is None else vocabulary.mask
        if self._masked and vocabulary.mask is None:
            size += 1
        held = f"{spec.holdout:.0%} held out" if len(held_out) else "none held out"
        self.info = DataInfo(
            kind="masked" if self._masked else "tokens",
            description=(
                f"{origin}: {n_tokens} {vocabulary.unit}, {vocabulary.description}, {held}"
            ),
            vocab_size=size,
            context=self.context,
            input_shape=(self.context,),
            target_shape=(self.context,),
            baseline={
                "uniform_entropy": math.log(vocabulary.size),
                "unigram_entropy": unigram_entropy(self._train),
            },
        )

    def batch(self, step: int, batch_size: int, seed: int) -> Batch:
        """`batch_size` random windows of the training part."""
        generator = keyed_generator(seed, step)
        starts = torch.randint(self.n_train, (batch_size,), generator=generator)
        if not self._masked:
            return self._windows(self._train, starts)
        draws = torch.rand(batch_size, self.context, generator=generator)
        return self._hidden(self._train, starts, draws)

    def eval_batches(self, batch_size: int, n: int) -> list[Batch]:
        """Held-out windows, evenly spread, the same at every call."""
        starts = spread(self.n_eval, batch_size * n) * self.context
        if not self._masked:
            return [self._windows(self._held_out, chunk) for chunk in starts.split(batch_size)]
        draws = [
            torch.rand(self.context, generator=keyed_generator(int(start), 0x3A5C))
            for start in starts
        ]
        parts = zip(starts.split(batch_size), torch.stack(draws).split(batch_size), strict=True)
        return [self._hidden(self._held_out, chunk, draw) for chunk, draw in parts]

    def probe_batches(self, batch_size: int, n: int = 1) -> list[Batch]:
        """As eval_batches."""
        return self.eval_batches(batch_size, n)

    def decode(self, tokens: Tensor) -> str:
        """The text of a 1-D tensor of tokens."""
        return self.vocabulary.decode(tokens)

    def _windows(self, tokens: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        rows = tokens[starts[:, None] + torch.arange(self.context + 1)].long()
        return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()

    def _hidden(self, tokens: Tensor, starts: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Rows with the tokens masked whose draw is below the share, or lowest of its row."""
        rows = tokens[starts[:, None] + torch.arange(self.context)].long()
        chosen = (draws < self._share) | (draws == draws.min(dim=1, keepdim=True).values)
        return rows.masked_fill(chosen, self._mask_token), rows.masked_fill(~chosen, IGNORED)


def build_text(spec: TextData, base_dir: Path | str | None) -> TokenText:
    """The text that a recipe names.

    Raises:
        ProblemError: Missing, not UTF-8, or too short; a tokenizer that cannot be had.
    """
    if spec.source == "pydoc_topics":
        text, origin = pydoc_topics(), "Python's own help topics"
    else:
        text, origin = _read_text(spec.path or "", base_dir), spec.path or ""
    return token_text(text, spec, base_dir, origin=origin)


def another_text(
    spec: TextData, base_dir: Path | str | None, vocabulary: Vocabulary, *, origin: str
) -> TokenText:
    """A text in the tokens of another, for a model that knows only those.

    Raises:
        ProblemError: As `build_text`, or the text has characters without a token.
    """
    text = _read_text(spec.path or "", base_dir)
    if isinstance(vocabulary, Characters):
        strange = sorted(set(text) - set(vocabulary.letters))
        if strange:
            raise ProblemError(
                f"{origin}: {len(strange)} of its distinct characters are not the "
                f"{vocabulary.size} that the model learnt: {', '.join(map(repr, strange[:5]))}",
                hint="remove them, or name another text",
            )
    tokens = vocabulary.encode(text)
    return TokenText(tokens, tokens[:0], vocabulary, spec, origin)


def token_text(
    text: str,
    spec: TokenData,
    base_dir: Path | str | None = None,
    *,
    origin: str,
    held_out: str | None = None,
) -> TokenText:
    """A text as tokens, the end of it held out, or `held_out` as the other part."""
    cut = len(text) - round(len(text) * spec.holdout) if held_out is None else len(text)
    train, rest = text[:cut], text[cut:] if held_out is None else held_out
    vocabulary = build_vocabulary(spec, train + rest, train, base_dir)
    return TokenText(vocabulary.encode(train), vocabulary.encode(rest), vocabulary, spec, origin)


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


def _read_text(path: str, base_dir: Path | str | None) -> str:
    file = find(path, base_dir, how=_HINT)
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
