"""Provenance keeps what explains numbers and nothing private."""

from pathlib import Path

import torch

from homotopy_cli.training.environment import changed, environment, without_home


def test_versions_and_threads_are_kept_as_text(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MY_API_TOKEN", "hunter2")
    facts = environment()
    assert facts["torch"] == str(torch.__version__) and facts["device"] == "cpu"
    assert facts["OMP_NUM_THREADS"] == "1"
    assert "hunter2" not in str(facts) and all(type(v) is str for v in facts.values())


def test_the_home_folder_is_not_spelled_out():
    argv = ["/home/ada/runs/run.h5", "--set", "data.path=/home/ada/x", "/home/adam/y"]
    expected = ("~/runs/run.h5", "--set", "data.path=~/x", "/home/adam/y")
    assert without_home(argv, home=Path("/home/ada")) == expected


def test_changes_between_attempts_are_listed():
    before, now = {"torch": "2.12", "threads": "2"}, {"torch": "2.13", "threads": "2"}
    assert changed(before, now) == ["torch 2.12 -> 2.13"]
