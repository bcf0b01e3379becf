"""What a run says before its first step: what was chosen for it, and what it leaves out."""

from typing import Any

OPENING = "OPENING"  # code of the events that say it; not in the log


def opening(run: Any) -> list[str]:
    """Sentences on a loss that was guessed, on the data, and on parameters without an optimizer."""
    said = [f"loss guessed: {run.loss.reason}"] if run.loss.reason else []
    note = getattr(run.data.info, "note", "")  # a user's own source may have an info of its own
    said += [f"data: {note}"] if note else []
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    left = [name for name, p in run.named.items() if id(p) not in held]
    if left:
        some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        said.append(
            f"optimizer: {len(left)} of {len(run.named)} trainable tensors are in none of its "
            f"groups and stay as they are ({some})"
        )
    return said
