"""A file is the old one or the complete new one."""

import gzip
import os

import pytest

from accsim.replaced_file import replaced_file


def test_a_file_appears_when_it_is_complete(tmp_path):
    out = tmp_path / "trace"
    with replaced_file(out) as file:
        file.write(b"new")
        file.flush()
        assert not out.exists()
    assert out.read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    out = tmp_path / "trace"
    out.write_bytes(b"old")

    def fail():
        with replaced_file(out) as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert out.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_a_name_in_gz_is_compressed_and_the_same_each_time(tmp_path):
    for name in ("a.gz", "b.gz"):
        with replaced_file(tmp_path / name) as file:
            file.write(b"text")
    first, second = (tmp_path / name for name in ("a.gz", "b.gz"))
    assert gzip.decompress(first.read_bytes()) == b"text"
    assert first.read_bytes() == second.read_bytes()


def test_it_has_the_rights_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    with replaced_file(tmp_path / "out"):
        pass
    modes = [os.stat(tmp_path / name).st_mode for name in ("ordinary", "out")]
    assert modes[0] == modes[1]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    missing = tmp_path / "missing" / "trace"
    with pytest.raises(OSError, match="No such file") as caught, replaced_file(missing):
        pass
    assert caught.value.filename == str(missing)


@pytest.mark.parametrize("name", ["/dev/null", "."])
def test_what_is_no_file_is_never_replaced(name):
    with pytest.raises(OSError, match="not an ordinary file"), replaced_file(name):
        pass
