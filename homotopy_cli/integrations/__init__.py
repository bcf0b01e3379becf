"""The ceiling inside other people's training loops, and the log of a loop of one's own.

    loop          RunLogger: run.h5 from any loop, with what its scheduler measured
    ceiling       BorrowedCeiling: lowers an optimizer's rates for one step, then gives them back
    clipping      ClipWatch: by how much accelerate clipped, which a Trainer tells no callback
    transformers  HomotopyCallback for transformers.Trainer (extra `hf`)
    lightning     HomotopyCallback for a Lightning Trainer (extra `lightning`)

The loop of a Trainer keeps its own LR scheduler. Each library is imported by its module here and by
no other.
"""
