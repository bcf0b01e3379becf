"""The ceiling inside other people's training loops.

    ceiling       BorrowedCeiling: lowers an optimizer's rates for one step, then gives them back
    transformers  HomotopyCallback for transformers.Trainer (extra `hf`)
    lightning     HomotopyCallback for a Lightning Trainer (extra `lightning`)

The loop keeps its own LR scheduler. Each library is imported by its module here and by no other.
"""
