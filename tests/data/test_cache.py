import os
import stat

import numpy as np
import pytest

from accsim.data import cache
from accsim.data.base import Arrays, Found
from accsim.data.mnist import IdxFiles


def arrays(pixel=7):
    images = np.full((2, 3, 3, 1), pixel, np.uint8)
    labels = np.array([0, 1])
    return Arrays(images, labels, images[:1], labels[:1])


class Decoder:
    """Counts how often it has to decode."""

    def __init__(self, pixel=7):
        self.calls = 0
        self.pixel = pixel

    def __call__(self):
        self.calls += 1
        return arrays(self.pixel)


@pytest.fixture
def found(tmp_path):
    path = tmp_path / "set.bin"
    path.write_bytes(b"12345")
    return Found("test file", path, (path,))


def remember(found, decode):
    return cache.remembered("set", IdxFiles(), found, decode)


def entry_files():
    return sorted((cache.folder() / "decoded").rglob("*.*"))


def test_second_load_does_not_decode_and_is_equal(found):
    decode = Decoder()
    first, second = remember(found, decode), remember(found, decode)
    assert decode.calls == 1
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype


def test_entry_holds_only_whole_files_and_an_index(found):
    remember(found, Decoder())
    names = [path.name for path in entry_files()]
    assert names == sorted(["index.json", *(f"{name}.npy" for name in Arrays._fields)])


@pytest.mark.parametrize("change", ["size", "time"])
def test_changed_source_file_is_decoded_again_into_the_same_entry(found, change):
    remember(found, Decoder(1))
    before = entry_files()
    if change == "size":
        found.path.write_bytes(b"123456")
    else:
        os.utime(found.path, ns=(1, 1))
    assert remember(found, Decoder(2)).train_images[0, 0, 0, 0] == 2
    assert entry_files() == before


def test_two_files_of_one_name_are_remembered_apart(found, tmp_path):
    other = tmp_path / "other" / found.path.name
    other.parent.mkdir()
    other.write_bytes(b"12345")
    status = found.path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    remember(found, Decoder(1))
    assert remember(Found("test file", other, (other,)), Decoder(2)).test_images.max() == 2


@pytest.mark.parametrize("name", ["index.json", "train_images.npy", "test_labels.npy"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_damaged_entry_is_rebuilt(found, name, damage):
    remember(found, Decoder())
    (path,) = (path for path in entry_files() if path.name == name)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[:-3])
    elif damage == "flip":
        data[-5] ^= 0x55
        path.write_bytes(data)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    again, after = Decoder(), Decoder()
    assert np.array_equal(remember(found, again).train_images, arrays().train_images)
    remember(found, after)
    assert (again.calls, after.calls) == (1, 0)


def test_failure_in_the_middle_of_writing_leaves_the_old_entry(found, monkeypatch):
    remember(found, Decoder(1))
    os.utime(found.path, ns=(1, 1))
    before = {path: path.read_bytes() for path in entry_files()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        assert remember(found, Decoder(2)).train_images.max() == 2
    assert {path: path.read_bytes() for path in entry_files()} == before


def fail(*_):
    raise OSError("disk full")


def test_entry_cut_short_between_its_files_is_never_believed(found, monkeypatch):
    remember(found, Decoder(1))
    status = found.path.stat()
    os.utime(found.path, ns=(1, 1))
    replace, replaced = os.replace, []

    def replace_once(source, target):
        if replaced:
            fail()
        replaced.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_once)
        remember(found, Decoder(2))  # new train images stand beside the old index
    os.utime(found.path, ns=(status.st_atime_ns, status.st_mtime_ns))  # which fits again
    assert remember(found, Decoder(3)).train_images.max() == 3


def test_unwritable_cache_only_means_no_caching(found, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache folder should be")
    monkeypatch.setenv("ACCSIM_CACHE", str(blocked / "cache"))
    decode = Decoder()
    for _ in range(2):
        assert remember(found, decode).train_images.max() == 7
    assert decode.calls == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_cache_only_means_no_caching(found, tmp_path, monkeypatch):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(stat.S_IRUSR | stat.S_IXUSR)
    monkeypatch.setenv("ACCSIM_CACHE", str(locked))
    assert remember(found, Decoder()).train_images.max() == 7


def test_folder_is_the_users_unless_chosen(monkeypatch):
    monkeypatch.setenv("ACCSIM_CACHE", "/chosen")
    assert str(cache.folder()) == "/chosen"
    monkeypatch.delenv("ACCSIM_CACHE")
    assert cache.folder().name == "accsim"
