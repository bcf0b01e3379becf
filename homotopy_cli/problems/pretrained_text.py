"""--text for a transformers folder: its tokenizer, a batch and the loss its kind is trained by.

*ForCausalLM, *LMHeadModel     the next token
*ForMaskedLM                   15 % of the tokens masked, drawn from the seed
*ForConditionalGeneration      the following passage from the one before
an encoder without a head      adjacent passages are pairs; each must find its own (InfoNCE on
                               mean-pooled, normalised states, scale 20)
"""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from homotopy_cli.errors import ProblemError
from homotopy_cli.problems.calling import call_model
from homotopy_cli.problems.counting import IGNORED
from homotopy_cli.problems.criteria import NAMES, Loss
from homotopy_cli.zoo.pretrained import quiet, transformers_for

TOKENS = 1024  # in a batch, about: our choice
LENGTH = 256  # longest row; shorter where the model's positions end before
PAIRS, PASSAGE = 8, 240  # of an encoder without a head; characters of a passage
SCALE = 20.0  # of the cosines: the usual one for sentence encoders
MASKED = 0.15  # share of the tokens: BERT's


def text_problem(
    path: Path, model: nn.Module, text: Path, seed: int
) -> tuple[list[tuple[str, Any]], Loss, str]:
    """([(source, batch)], the loss, what was done in words).

    Raises:
        ProblemError: No tokenizer in the folder, too short a text, or a model whose loss needs
            labels that a text does not have.
    """
    kind = type(model).__name__
    content = _content(text)
    tokenizer = _tokenizer(path)
    name = text.name
    if kind.endswith(("ForCausalLM", "LMHeadModel", "DoubleHeadsModel")):
        rows = _rows(tokenizer, content, text, model)
        said = f"next_token over {rows.shape[0]} rows of {rows.shape[1]} tokens of {name}"
        return [(name, {"input_ids": rows})], NAMES["next_token"], said
    if kind.endswith(("ForMaskedLM", "ForPreTraining")) and tokenizer.mask_token_id is not None:
        rows = _rows(tokenizer, content, text, model)
        batch, n = _masked(rows, tokenizer.mask_token_id, seed)
        return [(name, batch)], NAMES["output"], f"{kind}: {n} masked tokens of {name}"
    if kind.endswith("ForConditionalGeneration"):
        rows = _rows(tokenizer, content, text, model)
        batch = {"input_ids": rows[:-1], "labels": rows[1:].clone()}
        return [(name, batch)], NAMES["output"], f"{kind}: each row of {name} from the one before"
    if "For" not in kind and not model.config.is_encoder_decoder:
        batch = _pairs(tokenizer, content, text, model)
        n = len(batch["input_ids"]) // 2
        return [(name, batch)], CONTRASTIVE, f"{kind} has no head: {n} pairs of passages of {name}"
    raise ProblemError(
        f"--text: the loss of {kind} needs labels, which a text does not have",
        hint="--batch FILE.pt with input_ids, attention_mask and labels",
    )


def contrastive(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """InfoNCE: row i of the first half must find row i of the second among all of them."""
    hidden = call_model(model, batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled = F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    first, second = pooled.chunk(2)
    scores = SCALE * first @ second.T
    return F.cross_entropy(scores, torch.arange(len(scores), device=scores.device))


CONTRASTIVE = Loss("contrastive", contrastive, lambda batch: len(batch["input_ids"]) // 2)


def _content(text: Path) -> str:
    try:
        content = text.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ProblemError(f"--text {text}: no such file", hint="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"--text {text}: is not UTF-8 text", hint="iconv -t utf-8") from error
    if not content.strip():
        raise ProblemError(f"--text {text}: is empty", hint="name a text of a few pages")
    return content


def _tokenizer(path: Path) -> Any:
    library: ModuleType = transformers_for(path)
    with quiet(library):
        try:
            found = library.AutoTokenizer.from_pretrained(
                path, local_files_only=True, trust_remote_code=False
            )
            empty = not found("a text")["input_ids"]  # a class without its vocabulary
        except Exception:  # a library's loader: many kinds
            empty = True
    if empty:
        raise ProblemError(
            f"{path}: holds no tokenizer that can be read, so --text has no tokens",
            hint="--batch tokens.pt (rows, length) with --loss next_token",
        )
    return found


def _longest(model: nn.Module) -> int:
    """Positions the model has, at most LENGTH."""
    config = model.config
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(getattr(config, name, None), int) and getattr(config, name) > 0:
            return min(LENGTH, getattr(config, name))
    return LENGTH


def _rows(tokenizer: Any, content: str, text: Path, model: nn.Module) -> Tensor:
    """Evenly spaced rows of tokens (rows, length), about TOKENS in all, without padding."""
    tokens = torch.tensor(tokenizer(content, add_special_tokens=False, verbose=False)["input_ids"])
    length = min(_longest(model), len(tokens) // 2)
    rows = min(max(2, TOKENS // max(1, length)), len(tokens) // max(1, length))
    if length < 2 or rows < 2:
        raise ProblemError(
            f"--text {text}: has {len(tokens)} tokens, too few", hint="name a text of a few pages"
        )
    starts = torch.linspace(0, len(tokens) - length, rows).long()
    found = torch.stack([tokens[start : start + length] for start in starts.tolist()])
    _fits(found, model, text)
    return found


def _fits(tokens: Tensor, model: nn.Module, text: Path) -> None:
    size = model.get_input_embeddings().weight.shape[0]
    if int(tokens.max()) >= size:
        raise ProblemError(
            f"--text {text}: token {int(tokens.max())} of the folder's tokenizer is beyond the "
            f"model's {size} embeddings",
            hint="the tokenizer belongs to another model",
        )


def _masked(rows: Tensor, mask_id: int, seed: int) -> tuple[dict[str, Tensor], int]:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.rand(rows.shape, generator=generator) < MASKED
    chosen[:, 0] |= ~chosen.any(dim=1)  # at least one in each row
    batch = {
        "input_ids": torch.where(chosen, mask_id, rows),
        "attention_mask": torch.ones_like(rows),
        "labels": torch.where(chosen, rows, IGNORED),
    }
    return batch, int(chosen.sum())


def _pairs(tokenizer: Any, content: str, text: Path, model: nn.Module) -> dict[str, Tensor]:
    """First halves, then second halves of PAIRS stretches of the text, padded to one length."""
    words = content.split()
    joined = " ".join(words)
    n = min(PAIRS, len(joined) // (2 * PASSAGE))
    if n < 2:
        raise ProblemError(
            f"--text {text}: has {len(joined)} characters, too few for pairs of passages",
            hint=f"name a text of at least {4 * PASSAGE} characters",
        )
    starts = torch.linspace(0, len(joined) - 2 * PASSAGE, n).long().tolist()
    passages = [joined[s : s + PASSAGE] for s in starts]
    passages += [joined[s + PASSAGE : s + 2 * PASSAGE] for s in starts]
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    made = tokenizer(
        passages, padding=True, truncation=True, max_length=_longest(model), return_tensors="pt"
    )
    _fits(made["input_ids"], model, text)
    return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}
