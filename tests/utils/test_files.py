import fcntl
import hashlib
import os
import signal
import subprocess
import sys

import pytest

from cinema_verl.utils.files import Locked, atomic_write, only_one, sha256_of


def test_a_block_that_ends_well_replaces_the_file(tmp_path):
    path = tmp_path / "made" / "file.txt"
    with atomic_write(path) as file:
        file.write("größer")
    with atomic_write(path, "wb") as file:
        file.write(b"second")
    assert path.read_bytes() == b"second"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write():
        with atomic_write(path) as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


def test_kill_9_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    program = (
        "import sys, time\nfrom cinema_verl.utils.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as file:\n    file.write('half')\n    file.flush()\n"
        "    print('writing', flush=True)\n    time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"writing\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_written_is_an_oserror(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError), atomic_write(tmp_path / "file" / "below") as file:
        file.write("x")


def test_a_disk_that_is_full_is_named(tmp_path):
    program = (
        "import resource, sys\nfrom cinema_verl.utils.files import atomic_write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"  # a write beyond is refused, as on a full disk
        "try:\n    with atomic_write(sys.argv[1]) as file:\n        file.write('x' * 100_000)\n"
        "except OSError as error:\n    print(error)\n"
    )
    path = tmp_path / "file.txt"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout == f"[Errno 27] File too large: '{path}'\n"
    assert list(tmp_path.iterdir()) == []


def test_sha256_of_a_file_longer_than_one_block(tmp_path):
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_lock_is_one_processs_until_it_ends_however_it_ends(tmp_path):
    lock = tmp_path / "made" / "lock"
    program = (
        "import sys, time\nfrom cinema_verl.utils.files import only_one\n"
        "with only_one(sys.argv[1]):\n    print('holding', flush=True)\n    time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"holding\n"
    with pytest.raises(Locked, match=str(lock.parent)), only_one(lock):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with only_one(lock):
        pass
    with only_one(lock):  # released by the end of the block
        pass


def test_a_lock_whose_file_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    """Who held it removes it when it is done: between the opening and the locking of the file, here."""
    lock, removals = tmp_path / "lock", [1, 1, 0]
    flock = fcntl.flock

    def after_a_removal(file, how):
        if removals.pop(0):
            lock.unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", after_a_removal)
    with only_one(lock):
        monkeypatch.undo()
        with pytest.raises(Locked), only_one(lock):
            pass
