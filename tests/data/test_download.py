import hashlib
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from accsim.data import DataError, load, search
from accsim.data.base import OfficialFile
from accsim.data.download import UnreachableError, fetch
from accsim.data.mnist import MNIST

CLOSED = "http://127.0.0.1:9/"  # the discard port: refused


class Server:
    """Serves a dictionary of files on 127.0.0.1; a value may be (bytes, announced length)."""

    def __init__(self):
        self.files, self.asked = {}, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                if self.path[1:] not in outer.files:
                    self.send_error(404)
                    return
                body = outer.files[self.path[1:]]
                body, length = body if isinstance(body, tuple) else (body, len(body))
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.close()


def official(server, contents, mirrors=None):
    """MNIST's spec with `contents`, name to bytes, as its official files on the server."""
    server.files.update(contents)
    return replace(
        MNIST,
        official_files=tuple(
            OfficialFile(name, mirrors or (server.url,), hashlib.md5(data).hexdigest())
            for name, data in contents.items()
        ),
    )


def test_files_arrive_whole_with_progress(server, tmp_path):
    calls = []
    spec = official(server, {"a.gz": b"x" * 300_000, "b.gz": b"yy"})
    target = fetch(spec, tmp_path / "down", lambda *call: calls.append(call))
    assert target == tmp_path / "down" / "mnist"
    assert (target / "a.gz").read_bytes() == b"x" * 300_000
    assert (target / "b.gz").read_bytes() == b"yy"
    assert calls[-1] == ("download b.gz", 2, 2)
    assert [done for what, done, _ in calls if what == "download a.gz"] == [262_144, 300_000]
    assert [path.name for path in (tmp_path / "down").iterdir()] == ["mnist"]  # no remains


def test_wrong_checksum_is_an_error_and_nothing_is_kept(server, tmp_path):
    spec = official(server, {"a.gz": b"good", "b.gz": b"good"})
    server.files["b.gz"] = b"evil"
    with pytest.raises(DataError, match=r"b\.gz must have MD5 755f85c2723bb39381c7379a604160d8"):
        fetch(spec, tmp_path / "down")
    assert list((tmp_path / "down").iterdir()) == []


def test_download_that_breaks_off_is_an_error(server, tmp_path):
    spec = official(server, {"a.gz": b"good"})
    server.files["a.gz"] = (b"go", 4)
    with pytest.raises(DataError, match=r"a\.gz must not break off, but it did after 2 of 4 bytes"):
        fetch(spec, tmp_path / "down")
    assert list((tmp_path / "down").iterdir()) == []


def test_next_mirror_is_asked_when_one_refuses_or_has_no_such_file(server, tmp_path):
    spec = official(
        server, {"a.gz": b"good"}, (CLOSED, f"{server.url}empty/", server.url, "http://unasked/")
    )
    assert (fetch(spec, tmp_path / "down") / "a.gz").read_bytes() == b"good"
    assert server.asked == ["/empty/a.gz", "/a.gz"]


def test_no_mirror_answers(server, tmp_path):
    spec = official(server, {"a.gz": b"good"}, (CLOSED, f"{server.url}empty/"))
    with pytest.raises(UnreachableError, match=r"refused.*; .*Not Found"):
        fetch(spec, tmp_path / "down")
    assert list((tmp_path / "down").iterdir()) == []


def test_unwritable_folder_and_sets_without_official_files_are_unreachable(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError, match="cannot be written"):
        fetch(official(server, {"a.gz": b""}), tmp_path / "file" / "folder")
    with pytest.raises(UnreachableError, match="no official download"):
        fetch(replace(MNIST, official_files=()), tmp_path)


@pytest.fixture
def mnist_server(server, tmp_path, write_mnist, monkeypatch):
    """A server with a small MNIST that `load` believes to be the official one."""
    folder = write_mnist(tmp_path / "origin")
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setitem(search.SETS, "mnist", official(server, contents))
    return server


def test_load_downloads_once(mnist_server, tmp_path):
    assert load("mnist").train_labels.tolist() == [5, 0, 4]
    assert load("mnist").source == "IDX files mnist"
    assert len(mnist_server.asked) == 4
    assert (tmp_path / "cache" / "downloads" / "mnist").is_dir()


def test_load_does_not_stand_in_for_a_bad_download(mnist_server):
    mnist_server.files["t10k-labels-idx1-ubyte.gz"] = b"evil"
    with pytest.raises(DataError, match="must have MD5"):
        load("mnist")


def test_load_stands_in_without_a_way_to_the_files(mnist_server):
    mnist_server.files.clear()
    with pytest.warns(UserWarning, match=r"mnist was not found .* \(.*Not Found.*stand in"):
        assert load("mnist").stand_in


def test_load_does_not_download_when_forbidden(mnist_server):
    with pytest.warns(UserWarning, match="download is not allowed"):
        assert load("mnist", allow_download=False).stand_in
    assert mnist_server.asked == []
