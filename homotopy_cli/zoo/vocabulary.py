"""Text to tokens and back: characters, byte-level BPE trained on the text, or a given tokenizer.

Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909, over bytes as in GPT-2) has a token for
every byte, so no text is unknown to it. Training it twice on one text gives one vocabulary: it
is trained again wherever it is needed, and no cache can be stale.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from homotopy_cli.errors import ProblemError, first_line
from homotopy_cli.recipe.datasets import TokenData
from homotopy_cli.zoo.extras import extra
from homotopy_cli.zoo.files import find

# Printable ASCII and the line feed: the same vocabulary under every version of Python, so
# that a checkpoint of the quickstart loads under another.
ASCII = "\n" + "".join(map(chr, range(32, 127)))
_MASKS = ("[MASK]", "<mask>", "<|mask|>")
_PADS = ("[PAD]", "<pad>", "<|pad|>")
_FILE = "tokenizer.json"


class Vocabulary(Protocol):
    """What turns a text into tokens 0..size-1."""

    size: int
    unit: str  # what one token is, plural: "characters"
    description: str  # "96 distinct characters"
    mask: int | None  # the token that stands for a hidden one, if it has one
    pad: int | None  # the token that fills up short rows, if it has one

    def encode(self, text: str) -> Tensor:
        """(n,) int32."""
        ...

    def decode(self, tokens: Tensor) -> str:
        """The text of a 1-D tensor of tokens."""
        ...


class Characters:
    """One token per character, in the order of their code points."""

    unit = "characters"
    mask = pad = None

    def __init__(self, text: str) -> None:
        known = set(text)
        self.letters = ASCII if known <= set(ASCII) else "".join(sorted(known))
        self.size = len(self.letters)
        self.description = f"{self.size} distinct"

    def encode(self, text: str) -> Tensor:
        """(len(text),) int32; every character must be known."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        known = np.frombuffer(self.letters.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        return torch.from_numpy(np.searchsorted(known, points).astype(np.int32))

    def decode(self, tokens: Tensor) -> str:
        """The characters."""
        return "".join(self.letters[int(token)] for token in tokens)


class Subwords:
    """The tokens of a `tokenizers.Tokenizer`, without the special ones it might add."""

    unit = "tokens"

    def __init__(self, tokenizer: Any, description: str) -> None:
        self._tokenizer = tokenizer
        self.size = tokenizer.get_vocab_size()
        self.description = f"{description} of {self.size} tokens"
        self.mask, self.pad = (
            next((n for n in map(tokenizer.token_to_id, names) if n is not None), None)
            for names in (_MASKS, _PADS)
        )

    def encode(self, text: str) -> Tensor:
        """(n,) int32."""
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return torch.tensor(ids, dtype=torch.int32)

    def decode(self, tokens: Tensor) -> str:
        """The text, special tokens included."""
        return self._tokenizer.decode(tokens.tolist(), skip_special_tokens=False)


def build_vocabulary(
    spec: TokenData, text: str, train: str, base_dir: Path | str | None
) -> Vocabulary:
    """The vocabulary that a recipe's data name.

    Args:
        spec: Its `tokenizer` and `vocab_size`.
        text: All of the text; characters of either part are known.
        train: The training part, which is all that BPE is trained on.
        base_dir: Where a relative path starts.

    Raises:
        ProblemError: The extra is missing, or a file that is no tokenizer.
    """
    if spec.tokenizer == "chars":
        return Characters(text)
    with extra("hf", library="tokenizers", wanted_by=f"data.tokenizer {spec.tokenizer}"):
        import tokenizers
    if spec.tokenizer == "bpe":
        return Subwords(_trained(tokenizers, train, spec.vocab_size), "BPE")
    path = find(spec.tokenizer, base_dir, what="tokenizer", key="data.tokenizer")
    file = path / _FILE if path.is_dir() else path
    if not file.is_file():
        raise ProblemError(
            f"{spec.tokenizer}: holds no {_FILE}",
            hint="transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)",
        )
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises a bare Exception
        raise ProblemError(
            f"{spec.tokenizer}: is not a tokenizer ({first_line(error)})",
            hint=f"name a folder with {_FILE}",
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return Subwords(tokenizer, f"tokenizer {Path(spec.tokenizer).name}")


def _trained(tokenizers: Any, text: str, size: int) -> Any:
    """A byte-level BPE tokenizer; a short text may give fewer than `size` tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer
