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
  storage, external link or virtual dataset, and refuses sizes that the file does not hold.

Not promised: concurrent writers (the second is refused), power loss within the last 30 s,
network filesystems' rename visibility.

Files: schema (the one table), content (a whole log as arrays), codec and journal (the bytes of
a record), buffers (growing rows), fold (content -> HDF5 image -> file), storage (the journal
with retry and back-off), writer; hdf5 and load (HDF5 -> content, distrustfully), view (content
-> RunLog), reader; faults (the kill points that the crash tests use).
"""
