"""The run's log: crash-safe while it is written, plain HDF5 when it is read.

    records ──> writer ──> run.h5.journal (append-only, checksummed: the truth while a run lives)
                   └─────> fold ──> run.h5 (complete image, swapped in by os.replace)
    run.h5 + journal ──> reader ──> RunLog (numpy; the newest attempt) ──> report

HDF5 itself does not survive a kill inside a write: groups per step or attributes written during
a run left 54 of 100 files unreadable, and SWMR files cannot be opened plainly afterwards.
So nothing ever writes into run.h5. Each record is one write() to the journal; now and then the
whole file is rebuilt in memory and replaces the old one in one step. Promises:

- A kill at any instant leaves a run.h5 that opens in any HDF5 reader (or, before the first
  fold, a journal that rebuilds it), and every acknowledged record is recovered.
- Readers never block the writer and are never blocked by it.
- An existing run is never truncated: continuing and replacing are both explicit.
- A full or failing disk does not stop training: records stay in memory and are retried.
- A log is data from anywhere: the reader opens only names of the schema, follows no external
  storage, link or virtual dataset, and refuses sizes that the file does not hold. A file whose
  checksum is not ours is read in a process of its own with limits, so that a crafted or damaged
  one ends as one line of reason instead of a hang, a crash or a full memory.

Cost, measured by tests/benchmarks/log_append.py with the rows of a quickstart run on a busy
two-core machine: 6 to 120 µs for a row, 130 to 420 µs a step with folds and the close spread over
1,500 steps, which is 0.1 to 0.4 % of that run's median step of 0.11 s.

Not promised: concurrent writers (the second is refused), power loss within the last 30 s,
network filesystems' rename visibility.

    schema      the one table; also rendered as the documentation
    content     a whole log as arrays: what the parts below hand to each other
    codec, journal, load_journal      the bytes of a record; frames and torn tails; replay
    buffers, fold, integrity          growing rows; content -> HDF5 image -> file; its seal
    locks, start, sink, trouble, text, writer   claim a path, retry a failing disk, RunWriter
    hdf5, load_file, isolate, load    HDF5 -> content, distrustfully; file and journal merged
    foreign                           what a file that is no log is instead
    view, reader                      content -> RunLog, the newest attempt; read_log
    faults      the points at which the crash tests kill a writer
"""
