"""`report --watch` against a real writer: the page follows, and ends when it should."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import report_samples as samples

from homotopy_cli.cli.app import run
from homotopy_cli.cli.watching import signature, watch
from homotopy_cli.cli.writing import write_text
from homotopy_cli.errors import HomotopyError, LogError
from homotopy_cli.records import RunInfo, StepRecord
from homotopy_cli.report.page import render
from homotopy_cli.runlog.locks import writer_is_gone
from homotopy_cli.runlog.writer import RunWriter

INFO = RunInfo(
    run_id="live",
    layers=(),
    layer_numel=(),
    layer_kind=(),
    recipe_source="steps: 20",
    recipe_resolved={"steps": 20},
    environment={},
    argv=("homotopy", "train"),
    seed=1,
    n_params=3,
)
KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from test_report_watch import writing
writing(sys.argv[1], 1)
os.kill(os.getpid(), 9)
"""


def writing(path, n):
    writer = RunWriter.create(path, INFO)
    more(writer, range(n))
    return writer


def more(writer, steps):
    for i in steps:
        writer.append_step(StepRecord(i, {"loss": 3.0 / (i + 1), "lr": 1e-3}))


def test_every_change_is_drawn_until_the_run_ends(tmp_path):
    path = tmp_path / "run.h5"
    writer = writing(path, 3)
    seen, waits = [], []

    def go_on(seconds):
        waits.append(seconds)
        if len(waits) == 1:
            more(writer, range(3, 5))
        if len(waits) == 3:  # nothing new at the second look: nothing drawn
            writer.close("finished")

    interrupted = watch(
        [path], lambda runs: seen.append((len(runs[0].step), runs[0].status)), every=2, sleep=go_on
    )
    assert interrupted is False
    assert seen == [(3, "running"), (5, "running"), (5, "finished")]
    assert waits == [2, 2, 2]


def test_ctrl_c_ends_it(tmp_path):
    writer = writing(tmp_path / "run.h5", 3)

    def pressed(seconds):
        raise KeyboardInterrupt

    assert watch([tmp_path / "run.h5"], lambda runs: None, every=1, sleep=pressed) is True
    writer.close("interrupted")


def test_a_killed_run_ends_it_after_a_quiet_minute(tmp_path, capsys):
    path = tmp_path / "run.h5"
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", KILLED, str(path), here], check=False)
    now = [0.0]

    def tick(seconds):
        now[0] += 30
        assert now[0] < 200, "it never noticed"

    assert watch([path], lambda runs: None, every=1, sleep=tick, clock=lambda: now[0]) is False
    assert now[0] == 90
    assert "the run was killed" in capsys.readouterr().err


def test_only_a_lock_that_nobody_holds_says_gone(tmp_path):
    path = tmp_path / "run.h5"
    assert writer_is_gone(path) is False  # no journal: not ours to say
    writer = writing(path, 2)
    assert writer_is_gone(path) is False
    writer.close("finished")
    assert writer_is_gone(path) is False


def test_a_log_that_cannot_be_read_for_a_moment_is_read_again(tmp_path):
    path, away = tmp_path / "run.h5", tmp_path / "away"
    writer = writing(path, 3)
    drawn, looks = [], []
    both = [path, tmp_path / "run.h5.journal"]

    def swap(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            for i, file in enumerate(both):
                file.rename(f"{away}{i}")
        elif len(looks) == 2:
            for i, file in enumerate(both):
                (tmp_path / f"away{i}").rename(file)
        else:
            writer.close("finished")

    watch([path], lambda runs: drawn.append(runs[0].status), every=1, sleep=swap)
    assert drawn == ["running", "finished"]
    assert len(looks) == 3


def test_a_log_that_stays_unreadable_is_an_error_after_three_looks(tmp_path):
    path = tmp_path / "run.h5"
    writing(path, 3).close("finished")
    whole = path.read_bytes()
    path.unlink()
    writer = writing(path, 3)
    looks = []

    def damage(seconds):
        looks.append(seconds)
        (tmp_path / "run.h5.journal").unlink(missing_ok=True)
        path.write_bytes(whole[: 300 + len(looks)])

    with pytest.raises(LogError, match=r"run\.h5"):
        watch([path], lambda runs: None, every=1, sleep=damage)
    assert len(looks) == 3
    assert writer is not None  # it held the journal until here


def test_a_log_that_is_not_there_yet_is_waited_for(tmp_path, capsys):
    path = tmp_path / "runs" / "run.h5"
    started, drawn, looks = [], [], []

    def begin(seconds):
        looks.append(seconds)
        if len(looks) == 3:
            path.parent.mkdir()
            started.append(writing(path, 2))
        if len(looks) == 4:
            started[0].close("finished")

    watch([path], lambda runs: drawn.append(runs[0].status), every=1, sleep=begin)
    assert drawn == ["running", "finished"]
    said = f"waiting for {path}: no such log yet; Ctrl-C ends it\n"
    assert capsys.readouterr().err == said


def test_of_two_logs_only_the_missing_one_is_waited_for(tmp_path, capsys):
    here, late = tmp_path / "a.h5", tmp_path / "b.h5"
    writing(here, 2).close("finished")
    drawn = []
    watch(
        [here, late],
        lambda runs: drawn.append(len(runs)),
        every=1,
        sleep=lambda seconds: writing(late, 2).close("finished"),
    )
    assert drawn == [2]
    assert capsys.readouterr().err.startswith(f"waiting for {late}: ")


def test_a_log_seen_while_it_is_made_is_read_again(tmp_path):
    """The first bytes of a journal are no log yet: three looks, as for one that was read before."""
    path = tmp_path / "run.h5"
    journal, drawn, looks = tmp_path / "run.h5.journal", [], []

    def slowly(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            journal.write_bytes(b"ho")
        elif len(looks) == 2:
            journal.unlink()
            writing(path, 2).close("finished")

    watch([path], lambda runs: drawn.append(runs[0].status), every=1, sleep=slowly)
    assert (drawn, len(looks)) == (["finished"], 2)


def test_ctrl_c_while_waiting_ends_it_without_a_page(tmp_path):
    command = [sys.executable, "-m", "homotopy_cli", "report", "runs/run.h5", "--watch"]
    process = subprocess.Popen(
        [*command, "--json", "metrics.json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job starts with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr.readline().startswith("watching: runs/run.html follows the run")
    told = "waiting for runs/run.h5: no such log yet; Ctrl-C ends it\n"
    assert process.stderr.readline() == told
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "no page: runs/run.h5 was never written\n"
    assert list(tmp_path.iterdir()) == []


def test_an_output_in_no_folder_is_still_refused_at_once(tmp_path, capsys):
    words = ["report", str(tmp_path / "runs" / "run.h5"), "--watch"]
    assert run([*words, "--out", str(tmp_path / "none" / "page.html")]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"error: {tmp_path / 'none' / 'page.html'}: its folder does not exist"
    assert run(words[:2]) == 2  # without --watch nothing is waited for
    assert "error: " in capsys.readouterr().err


def test_a_byte_more_changes_the_signature(tmp_path):
    path = tmp_path / "run.h5"
    writer = writing(path, 1)
    before = signature([path])
    assert signature([path]) == before
    more(writer, range(1, 2))
    assert signature([path]) != before
    writer.close("finished")


def test_only_a_watched_page_reloads_itself():
    log = replace(samples.transformer_log(n=120), attrs={"status": "running", "run_id": "live"})
    still, live = render([log]), render([log], refresh=10.0)
    assert '<meta http-equiv="refresh"' not in still and "This page reloads" not in still
    assert '<meta http-equiv="refresh" content="10">' in live
    assert "Step 119. This page reloads every 10 seconds until the run ends." in live
    assert live == render([log], refresh=10.0)
    headline = re.search(r"<h1>(.*?)</h1>", live).group(1)
    assert headline.startswith("Unfinished: loss 4.") and "120 of 2\u202f000 steps" in headline


def test_the_page_is_replaced_whole_and_nothing_is_left_behind(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("old")
    inode = target.stat().st_ino
    write_text(target, "new ‖H‖")
    assert target.read_text(encoding="utf-8") == "new ‖H‖"
    assert target.stat().st_ino != inode
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(HomotopyError, match="folder: cannot be written: Is a directory"):
        write_text(tmp_path / "folder", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "page.html"]


def test_the_command_follows_a_run_and_ctrl_c_writes_everything(tmp_path):
    path, page = tmp_path / "run.h5", tmp_path / "run.html"
    writer = writing(path, 3)
    command = [sys.executable, "-m", "homotopy_cli", "report", "run.h5", "--watch", "--every", "1"]
    process = subprocess.Popen(
        [*command, "--json", "metrics.json", "--fail-on", "steps > 4"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job starts with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not page.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert '<meta http-equiv="refresh" content="5">' in page.read_text(encoding="utf-8")
    more(writer, range(3, 6))
    while "6 of 20 steps" not in page.read_text(encoding="utf-8"):
        assert time.monotonic() < deadline, "the page does not follow the log"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.splitlines()[0] == "run.h5: Unfinished: loss 3 → 0.5 in 6 of 20 steps."
    assert out.endswith("\npage: run.html\n")
    assert "gate fired: steps > 4: steps = 6" in err and "Traceback" not in err
    assert '<meta http-equiv="refresh"' not in page.read_text(encoding="utf-8")
    assert (tmp_path / "metrics.json").exists()
    writer.close("finished")


def test_how_often_without_watch_is_an_error(tmp_path, capsys):
    writing(tmp_path / "run.h5", 2).close("finished")
    assert run(["report", str(tmp_path / "run.h5"), "--every", "5"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "error: --every 5: says how often --watch looks; alone it does nothing"
    assert said[1].endswith("run.h5 --watch --every 5")
    assert not (tmp_path / "run.html").exists()


def test_watching_a_finished_run_draws_it_once(tmp_path, capsys):
    writing(tmp_path / "run.h5", 2).close("finished")
    assert run(["report", str(tmp_path / "run.h5"), "--watch"]) == 0
    told = f"{tmp_path / 'run.h5'}: Trained: loss 3 → 1.5 in 2 steps.\n"
    assert capsys.readouterr().out == f"{told}page: {tmp_path / 'run.html'}\n"
    assert '<meta http-equiv="refresh"' not in (tmp_path / "run.html").read_text(encoding="utf-8")
