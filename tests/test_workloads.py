"""The experiments in workloads/: each is read, and what it names to compare or ablate can be."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from accsim.__main__ import asked_schedules, asked_values
from accsim.ablation import choice
from accsim.workload import read_file

FILES = sorted((Path(__file__).parents[1] / "workloads").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_a_file_names_fits_its_workload(path):
    names = read_file(path)
    workload = names["workload"]
    for schedule in asked_schedules(names):
        assert replace(workload, schedule=schedule).schedule == schedule
    for name, values in (asked_values(names) if "over" in names else {}).items():
        one = choice(workload, name, values)
        assert len({one.on(workload, value) for value in values}) == len(values)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_says_what_it_asks_and_a_command_it_names_is_its_own(path):
    docstring = " ".join(read_file(path)["__doc__"].split())
    assert docstring.split(".")[0]
    for command in re.findall(r"`python -m accsim (.*?)`", docstring):
        assert command.split()[1] == f"workloads/{path.name}"
