"""Paths and URLs that strangers wrote: what is followed, what is refused, what a real server over loopback gives."""

import hashlib
import http.server
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cinema_verl.data.canonical import Rejected
from cinema_verl.prepare.media import paths
from cinema_verl.prepare.media.paths import Downloads, is_url, resolve

# --- Paths ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path):
    """A source's root beside what it must not reach."""
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a.jpg").write_text("a")
    return root


def reason_of(root, name):
    with pytest.raises(Rejected) as rejected:
        resolve(root, name)
    return rejected.value.reason


@pytest.mark.parametrize("name", ["images/a.jpg", "./images/a.jpg", "images//a.jpg", "images/./a.jpg"])
def test_a_file_below_the_root(root, name):
    assert resolve(root, name) == root / "images" / "a.jpg"


def test_a_folder_below_the_root(root):
    assert resolve(root, "images") == root / "images"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.txt", "path_outside"),
        ("images/../../secret.txt", "path_outside"),
        ("images/../images/a.jpg", "path_outside"),  # harmless here, and still not what a dataset writes
        ("/etc/passwd", "path_outside"),
        ("//etc/passwd", "path_outside"),
        ("..", "path_outside"),
        ("", "path_missing"),
        (".", "path_missing"),
        ("images/none.jpg", "path_missing"),
        ("images/a.jpg/b", "path_missing"),
        ("images/a.jpg\0.png", "path_missing"),
        ("images/\ud800.jpg", "path_missing"),
        ("..\\secret.txt", "path_missing"),  # a name like any other here
        ("C:\\secret.txt", "path_missing"),
        ("%2e%2e/secret.txt", "path_missing"),  # nothing is decoded
        ("images/%61.jpg", "path_missing"),
        ("~/secret.txt", "path_missing"),
        ("$HOME/secret.txt", "path_missing"),
        ("x" * 5000, "path_missing"),
        ("/".join(["x" * 200] * 100), "path_missing"),
        ("https://example.com/a.jpg", "path_url"),
        ("file:///etc/passwd", "path_url"),
        ("data:image/png", "path_missing"),  # without a file in it
        ("s3://bucket/a.jpg", "path_url"),
    ],
)
def test_what_is_refused_by_name(root, name, reason):
    assert reason_of(root, name) == reason


def test_links(root):
    (root / "inside.jpg").symlink_to("images/a.jpg")
    (root / "outside.txt").symlink_to("../secret.txt")
    (root / "folder").symlink_to(root.parent)
    (root / "loop").symlink_to("loop")
    (root / "dangling").symlink_to("images/none.jpg")
    assert resolve(root, "inside.jpg") == root / "images" / "a.jpg"
    assert reason_of(root, "outside.txt") == "path_outside"
    assert reason_of(root, "folder/secret.txt") == "path_outside"
    assert resolve(root, "folder/root/images/a.jpg") == root / "images" / "a.jpg"  # where it ends counts
    assert reason_of(root, "loop") == reason_of(root, "loop/a") == reason_of(root, "dangling") == "path_missing"


def test_a_root_that_is_a_link_is_where_it_leads(root):
    link = root.parent / "link"
    link.symlink_to(root)
    assert resolve(link, "images/a.jpg") == root / "images" / "a.jpg"
    assert reason_of(link, "../secret.txt") == "path_outside"


def test_a_sibling_whose_name_begins_alike_is_outside(root):
    (root.parent / "root2").mkdir()
    (root.parent / "root2" / "a.jpg").write_text("a")
    (root / "link").symlink_to("../root2/a.jpg")
    assert reason_of(root, "link") == "path_outside"


def test_what_is_neither_file_nor_folder(root):
    os.mkfifo(root / "pipe")
    assert reason_of(root, "pipe") == "path_missing"


def test_a_root_that_is_not_there_is_no_fault_of_the_row(tmp_path):
    with pytest.raises(FileNotFoundError):
        resolve(tmp_path / "none", "a.jpg")


@given(
    st.lists(
        st.sampled_from(["..", ".", "/", "images", "a.jpg", "\\", "%2e%2e", "~", "\0", "out", "secret.txt", ""])
        | st.text(max_size=3),
        max_size=6,
    )
)
def test_nothing_leaves_the_root(tmp_path_factory, parts):
    base = tmp_path_factory.getbasetemp() / "fuzz"
    (base / "root" / "images").mkdir(parents=True, exist_ok=True)
    (base / "root" / "images" / "a.jpg").write_text("a")
    (base / "secret.txt").write_text("secret")
    if not (base / "root" / "out").is_symlink():
        (base / "root" / "out").symlink_to("..")
    for name in ("/".join(parts), "".join(parts)):
        with suppress(Rejected):
            assert resolve(base / "root", name).is_relative_to((base / "root").resolve())


@pytest.mark.parametrize("name", ["a.jpg", "a:b.jpg", "http:/a.jpg", "c:/a.jpg", "1http://x", "images/http://x"])
def test_what_is_no_url(name):
    assert not is_url(name)


# --- Downloads ------------------------------------------------------------------------------------------------------

BODY = bytes(range(256)) * 2000  # several blocks of a download


class Handler(http.server.BaseHTTPRequestHandler):
    """/file gives BODY, in ranges if asked; the other paths misbehave as their names say."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range"), self.headers.get("Host")))
        tries = sum(path == self.path for path, _, _ in self.server.asked)
        name, _, argument = self.path[1:].partition("?")
        if name == "redirect":
            self.answer(302, headers={"Location": argument})
        elif name == "loop":
            self.answer(302, headers={"Location": "/loop"})
        elif name == "status" or (name == "at-last" and tries < 3):
            self.answer(int(argument or 503))
        elif name == "endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"x" * 65536)
            except OSError:
                self.close_connection = True
        elif name == "drops" and tries == 1:
            self.give_half()
        elif name == "packed":
            self.answer(200, b"not gzip", {"Content-Encoding": "gzip"})
        elif name == "forgets" and (tries == 1 or self.headers.get("Range")):
            if tries == 1:
                self.give_half()
            else:
                self.answer(416)
        elif name == "drips":
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY[:-1])
            self.server.done.wait(5)
        elif wanted := self.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            self.answer(206, BODY[start:], {"Content-Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"})
        else:
            self.answer(200, BODY, {"ETag": '"one"'})

    def give_half(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.wfile.write(BODY[: len(BODY) // 2])
        self.close_connection = True

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(paths.time, "sleep", lambda _: None)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.done = [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.done.set()
    server.shutdown()
    thread.join()
    server.server_close()


def downloads(folder, *hosts, **options):
    return Downloads(frozenset(hosts or ("127.0.0.1",)), folder / "downloads", **{"timeout": 5.0, **options})


def refused(downloads, url):
    with pytest.raises(Rejected) as rejected:
        downloads.fetch(url)
    left = [path for path in downloads.directory.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == [], "nothing of it may stay"
    return rejected.value.reason


def test_a_file_is_fetched_once(server, tmp_path):
    url = f"{server.url}/file"
    path = downloads(tmp_path).fetch(url)
    assert path.read_bytes() == BODY
    assert path.name == hashlib.sha256(url.encode()).hexdigest()
    assert downloads(tmp_path).fetch(url) == path
    assert [asked for asked, _, _ in server.asked] == ["/file"]


def test_threads_that_want_one_file_fetch_it_once(server, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: downloads(tmp_path).fetch(f"{server.url}/file"), range(8)))
    assert len(set(found)) == 1
    assert len(server.asked) == 1


def test_without_hosts_nothing_is_fetched(server, tmp_path):
    assert refused(Downloads(frozenset(), tmp_path), f"{server.url}/file") == "path_url"
    assert server.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/a.jpg",
        "http://127.0.0.1.example.com/a.jpg",
        "http://127.0.0.1@example.com/a.jpg",
        "http://user:word@127.0.0.1/a.jpg",
        "ftp://127.0.0.1/a.jpg",
        "file://127.0.0.1/etc/passwd",
        "data:image/png;base64,AAAA",
        "http://[::1]/a.jpg",
        "http://2130706433/a.jpg",  # 127.0.0.1 as one number
        "http://127.1/a.jpg",
        "http://",
        "http://127.0.0.1/a\nb",
        "http://a b/",
    ],
)
def test_only_the_hosts_that_were_named(tmp_path, url):
    assert refused(downloads(tmp_path), url) == "download_refused"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.7", "192.168.1.1", "169.254.169.254", "::1", "fd00::1", "::ffff:10.0.0.7", "0.0.0.0"],
)
def test_a_named_host_that_leads_to_a_private_address(tmp_path, monkeypatch, address):
    """Names are anybody's: an allowed one may point into the network that the process runs in."""
    monkeypatch.setattr(paths.socket, "getaddrinfo", lambda host, port: [(2, 1, 6, "", (address, 0))])
    assert refused(downloads(tmp_path, "pictures.example"), "http://pictures.example/a.jpg") == "download_refused"


def test_the_address_that_was_checked_is_connected_to(server, tmp_path, monkeypatch):
    """A name that is asked for twice may lead elsewhere the second time."""
    real, names = paths.socket.getaddrinfo, iter(["127.0.0.1", "10.0.0.7"])

    def asked(host, *arguments):
        return real(next(names) if host == "pictures.example" else host, *arguments)

    monkeypatch.setattr(paths.socket, "getaddrinfo", asked)
    allowed = downloads(tmp_path, "pictures.example", "127.0.0.1")
    allowed.fetch(f"http://pictures.example:{server.server_port}/file")
    assert server.asked == [("/file", None, f"pictures.example:{server.server_port}")]


@pytest.mark.parametrize(
    "target", ["http://example.com/a.jpg", "http://localhost/a.jpg", "file:///etc/passwd", "ftp://127.0.0.1/x"]
)
def test_redirects_to_another_host(server, tmp_path, target):
    assert refused(downloads(tmp_path), f"{server.url}/redirect?{target}") == "download_refused"


def test_redirects_within_the_host(server, tmp_path):
    assert downloads(tmp_path).fetch(f"{server.url}/redirect?/file").read_bytes() == BODY


def test_a_loop_of_redirects(server, tmp_path):
    assert refused(downloads(tmp_path), f"{server.url}/loop") == "download_refused"
    assert len(server.asked) == 6


def test_the_size_that_is_stated_and_the_size_that_comes(server, tmp_path):
    assert refused(downloads(tmp_path, max_bytes=len(BODY) - 1), f"{server.url}/file") == "download_refused"
    assert refused(downloads(tmp_path, max_bytes=1 << 20), f"{server.url}/endless") == "download_refused"
    assert downloads(tmp_path, max_bytes=len(BODY)).fetch(f"{server.url}/file").read_bytes() == BODY


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (500, 3), (503, 3), (429, 3), (304, 1)])
def test_what_the_server_does_not_give(server, tmp_path, status, tries):
    assert refused(downloads(tmp_path), f"{server.url}/status?{status}") == "download_failed"
    assert len(server.asked) == tries


def test_a_server_that_recovers(server, tmp_path):
    assert downloads(tmp_path).fetch(f"{server.url}/at-last").read_bytes() == BODY


def test_a_dropped_connection_is_continued(server, tmp_path):
    assert downloads(tmp_path).fetch(f"{server.url}/drops").read_bytes() == BODY
    ranges = [wanted for _, wanted, _ in server.asked]
    assert ranges[0] is None
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= len(BODY) // 2


def test_a_server_that_cannot_continue_is_asked_for_all_of_it(server, tmp_path):
    assert downloads(tmp_path).fetch(f"{server.url}/forgets").read_bytes() == BODY
    assert [bool(wanted) for _, wanted, _ in server.asked] == [False, True, False]


def test_a_file_that_takes_for_ever(server, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "_DEADLINE", 0)
    assert refused(downloads(tmp_path), f"{server.url}/file") == "download_failed"
    assert len(server.asked) == 1, "there is no time for another try"
    assert refused(downloads(tmp_path, timeout=0.2), f"{server.url}/drips") == "download_failed"


def test_a_name_that_nobody_knows(tmp_path, monkeypatch):
    def getaddrinfo(host, port):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(paths.time, "sleep", lambda _: None)
    monkeypatch.setattr(paths.socket, "getaddrinfo", getaddrinfo)
    assert refused(downloads(tmp_path, "pictures.example"), "http://pictures.example/a.jpg") == "download_failed"


def test_a_network_that_is_down_stops_the_run_and_not_its_rows(server, tmp_path):
    source, down = downloads(tmp_path), "http://127.0.0.1:9/a.jpg"
    for answer in ("file", "status?404"):
        for _ in range(7):
            assert refused(source, down) == "download_failed"
        with suppress(Rejected):
            source.fetch(f"{server.url}/{answer}")  # an answer, whatever it says
        shutil.rmtree(source.directory)
    for _ in range(7):
        assert refused(source, f"{server.url}/status?503") == "download_failed"
    with pytest.raises(OSError, match=r"8 downloads in a row failed: the network .*HTTP 503"):
        source.fetch(f"{server.url}/status?503")


def test_a_packed_answer_is_not_what_was_asked_for(server, tmp_path):
    assert refused(downloads(tmp_path), f"{server.url}/packed") == "download_failed"


def test_nobody_listens(tmp_path, monkeypatch):
    monkeypatch.setattr(paths.time, "sleep", lambda _: None)
    assert refused(downloads(tmp_path), "http://127.0.0.1:9/a.jpg") == "download_failed"


def test_the_environment_names_no_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert downloads(tmp_path).fetch(f"{server.url}/file").read_bytes() == BODY


def test_a_folder_that_cannot_be_written_is_no_fault_of_the_row(server, tmp_path):
    Path(tmp_path / "downloads").write_text("a file where a folder should be")
    with pytest.raises(OSError, match="downloads"):
        downloads(tmp_path).fetch(f"{server.url}/file")
