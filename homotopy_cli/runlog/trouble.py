"""What the log says about itself when the disk fails, as events."""

from pathlib import Path

from homotopy_cli.records import EventRecord


def write_failed(path: Path, step: int, error: OSError) -> EventRecord:
    message = f"{path}: {error.strerror}; training goes on, rows are kept in memory and retried"
    return EventRecord(max(step, 0), "warning", "LOG_WRITE_FAILED", message)


def write_recovered(path: Path, step: int) -> EventRecord:
    message = f"{path}: writable again; no row was lost"
    return EventRecord(max(step, 0), "info", "LOG_WRITE_RECOVERED", message)


def not_closed(path: Path, step: int, error: OSError, *, lost: int, safe: int) -> EventRecord:
    """For the terminal only: the log cannot hold it. `lost` rows, all after step `safe`."""
    rows = "1 row is lost, that" if lost == 1 else f"{lost} rows are lost, those"
    rest = f"{rows} after step {safe}" if lost else "its journal holds every row"
    message = f"{path}: {error.strerror}; not closed, {rest}"
    return EventRecord(max(step, 0), "error", "LOG_NOT_CLOSED", message)
