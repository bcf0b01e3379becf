"""The ceiling inside other people's training loops.

    ceiling       BorrowedCeiling: lowers an optimizer's rates for one step, then gives them back
    clipping      ClipWatch: by how much accelerate clipped, which a Trainer tells no callback
    transformers  HomotopyCallback for transformers.Trainer (extra `hf`)
    lightning     HomotopyCallback for a Lightning Trainer (extra `lightning`)

The loop keeps its own LR scheduler. Each library is imported by its module here and by no other.
"""
