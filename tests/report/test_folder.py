"""A report is replaced whole or not at all, and nothing else is ever deleted."""

import os
import stat

import pytest

from accsim.report.folder import replaced_folder


def write(out, text, marker="result.json"):
    with replaced_folder(out, marker) as folder:
        (folder / marker).write_text(text)


def test_parents_are_made_and_nothing_else_is_left(tmp_path):
    write(tmp_path / "reports" / "a", "1")
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["a"]
    assert (tmp_path / "reports" / "a" / "result.json").read_text() == "1"


def test_an_earlier_report_is_replaced_whole(tmp_path):
    write(tmp_path / "a", "1")
    (tmp_path / "a" / "old.csv").write_text("old")
    write(tmp_path / "a", "2")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result.json"]
    assert (tmp_path / "a" / "result.json").read_text() == "2"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_old_report(tmp_path, error):
    write(tmp_path / "a", "1")

    def fail():
        with replaced_folder(tmp_path / "a", "result.json") as folder:
            (folder / "result.json").write_text("2")
            raise error

    with pytest.raises(error):
        fail()
    assert (tmp_path / "a" / "result.json").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_last_rename_puts_the_old_report_back(tmp_path):
    write(tmp_path / "a", "1")
    with pytest.raises(FileNotFoundError), replaced_folder(tmp_path / "a", "result.json") as folder:
        folder.rmdir()
    assert (tmp_path / "a" / "result.json").read_text() == "1"


def test_a_folder_of_other_files_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(FileExistsError, match="not a folder of other files"):
        write(tmp_path, "1")
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_a_file_of_that_name_is_never_replaced(tmp_path):
    (tmp_path / "a").write_text("file")
    with pytest.raises(FileExistsError, match="must be a folder, not a file"):
        write(tmp_path / "a", "1")


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        write(tmp_path / "file" / "a", "1")


def test_the_folder_has_the_rights_of_any_new_folder(tmp_path):
    write(tmp_path / "a", "1")
    (tmp_path / "b").mkdir()
    rights = [stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in "ab"]
    assert rights[0] == rights[1]
