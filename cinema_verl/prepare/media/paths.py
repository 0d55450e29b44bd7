"""Where a row's media are: below the roots that the user named and nowhere else, in the row itself as a ``data:`` URI,
or behind a URL whose host was named.

A dataset's paths and URLs are not to be trusted. A path is followed only if it ends inside a root, links included; a
URL is fetched only from hosts that the user has named, and from a private address only if it was named itself.
"""

from __future__ import annotations

import base64
import binascii
import errno
import fcntl
import hashlib
import ipaddress
import os
import re
import socket
import stat
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote_to_bytes

import httpx

from cinema_verl.data.canonical import Rejected

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_INLINE = re.compile(r"data:[^,]{0,200},", re.IGNORECASE)
MAX_INLINE_BYTES: Final = 1 << 26
"""Of the file that a ``data:`` URI holds. Our choice: above any photograph, and as much as a whole row may have
(`readers.MAX_RECORD_BYTES`)."""
_TRIES: Final = 3
_GONE: Final = 8
"""Failed files, one after the other, after which the network is at fault and not the rows. Our choice."""
_REDIRECTS: Final = 5
_DEADLINE: Final = 20  # a whole file may take so many time-outs
_BLOCK: Final = 1 << 16
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses after which another try may help


def is_url(name: str) -> bool:
    """Whether a row's path names something to fetch and not a file."""
    return _URL.match(name) is not None


def is_inline(name: str) -> bool:
    """Whether a row's path is a ``data:`` URI, which holds the file itself."""
    return _INLINE.match(name) is not None


def inline_bytes(uri: str, max_bytes: int = MAX_INLINE_BYTES) -> bytes:
    """The file that a ``data:`` URI holds, base64 or percent-encoded. Its media type is not looked at.

    Raises:
        Rejected: ``image_too_large``, before anything is decoded; ``image_broken`` for what is not base64.
    """
    head, _, body = uri.partition(",")
    encoded = head.lower().endswith(";base64")
    if len(body) > (max_bytes * 4 // 3 + 4 if encoded else max_bytes * 3):
        raise Rejected("image_too_large", f"a data: URI of {len(body)} characters, for more than {max_bytes} bytes")
    try:
        data = base64.b64decode("".join(body.split()), validate=True) if encoded else unquote_to_bytes(body)
    except (binascii.Error, UnicodeError, ValueError) as error:
        raise Rejected("image_broken", f"{uri[:60]!r} is not base64: {error}. Encode the file again") from error
    if not 0 < len(data) <= max_bytes:
        reason = "image_too_large" if data else "image_broken"
        raise Rejected(reason, f"the data: URI {uri[:60]!r} holds {len(data)} bytes, and may hold 1 to {max_bytes}")
    return data


def resolve(root: str | Path, name: str, allowed: Sequence[str | Path] = ()) -> Path:
    """The file or folder that a row names below its source's root, or below another root that the user allowed.

    Args:
        root: The source's folder, that relative paths are relative to; may be a link itself.
        name: As the row writes it: relative, or absolute and below one of the roots.
        allowed: Further roots, for absolute paths and for links.

    Returns:
        The absolute path, links followed; it lies below one of the roots.

    Raises:
        Rejected: ``path_url``; ``path_outside``: with ``..``, absolute and below no root, or through a link that leaves
            all of them; ``path_missing``: nothing there, or neither a file nor a folder.
        OSError: a root is not there, or a folder on the way may not be read.
    """
    if is_url(name):
        raise Rejected("path_url", f"{name[:200]!r} is a URL; name its host with --allow-download to fetch it")
    pure = PurePosixPath(name)
    if ".." in pure.parts:
        raise Rejected("path_outside", f"{name!r} has '..', which may lead anywhere: write the path without it")
    base = _real(str(root))
    roots = [base, *(_real(str(each)) for each in allowed)]
    named = [*roots, Path(root).absolute(), *(Path(each).absolute() for each in allowed)]
    if pure.is_absolute() and not any(pure.is_relative_to(each) for each in named):
        # Before the disk is asked: whether a file is there is not for a row to find out.
        raise Rejected(
            "path_outside",
            f"{name!r} is absolute and not below --media-root {root}. Name the folder that holds such files with "
            f"--allow-root, for example --allow-root {pure.parent}",
        )
    try:
        path = (base / pure).resolve()
        if not any(path.is_relative_to(each) for each in roots):
            raise Rejected(
                "path_outside",
                f"{name!r} is a link to {path}. Name the folder that it leads to with --allow-root, or copy the files "
                "instead of linking them",
            )
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        where = "" if pure.is_absolute() else f" below {root}"
        raise Rejected("path_missing", f"no {name!r}{where}") from error
    except (ValueError, RuntimeError) as error:  # NUL, half a surrogate pair; a loop of links
        raise Rejected("path_missing", f"{name!r} cannot be a file's name: {error}") from error
    except OSError as error:
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        raise Rejected("path_missing", f"{name[:200]!r}: {error.strerror}") from error
    if path in roots or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Rejected("path_missing", f"{name!r} is neither a file nor a folder below {root}")
    return path


@lru_cache(maxsize=64)
def _real(root: str) -> Path:
    return Path(root).resolve(strict=True)


class Downloads:
    """Files behind URLs, each fetched once into a folder: ``ab/<sha256 of the URL>``.

    A file exists whole or not at all. What a dropped connection or kill -9 leaves is continued where the server can
    (a strong ``ETag`` and ranges). Any number of processes may share the folder. Connections are direct: proxies and
    ``.netrc`` of the environment are not used.

    Args:
        hosts: Names that may be fetched from, without port. A name that leads to a private, loopback or link-local
            address is refused unless that address is among them, too. Empty: nothing is fetched.
        directory: The folder; made when the first file is fetched.
        max_bytes: Largest file.
        timeout: Seconds to connect, and to wait for more of an answer; a whole file may take twenty times as long.
    """

    def __init__(
        self, hosts: frozenset[str], directory: str | Path, *, max_bytes: int = 1 << 30, timeout: float = 30.0
    ) -> None:
        self.hosts = frozenset(host.lower().strip("[]") for host in hosts)
        self.directory = Path(directory).absolute()
        self.max_bytes = max_bytes
        self.timeout = timeout
        self._unanswered = 0  # failed files since the last that was given

    def fetch(self, url: str) -> Path:
        """The local file with the content of `url`.

        Raises:
            Rejected: ``path_url``: no host is allowed; ``download_refused``: this URL, a redirect of it or its size is
                not; ``download_failed``: the server does not give it, after three tries where that is worth it.
            ConnectionError: eight files in a row were not given: the network is down, or the host.
            OSError: the folder cannot be written, or the disk is full.
        """
        if not self.hosts:
            raise Rejected("path_url", f"{url[:200]!r} is a URL; name its host with --allow-download to fetch it")
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        path = self.directory / name[:2] / name
        if path.exists():
            return path
        self._allowed(url)  # before anything is made on the disk
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{name}.part")
        with open(path.with_name(f"{name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be fetching it
            if not path.exists():
                try:
                    self._fetch(url, partial)
                    os.replace(partial, path)
                except Rejected:
                    partial.unlink(missing_ok=True)
                    raise
                finally:
                    if not partial.exists():
                        _etag(partial).unlink(missing_ok=True)
        return path

    def _fetch(self, url: str, partial: Path) -> None:
        give_up = time.monotonic() + _DEADLINE * self.timeout
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(0.5 * 2**attempt)
            try:
                with httpx.Client(
                    trust_env=False, timeout=self.timeout, headers={"Accept-Encoding": "identity"}
                ) as client:
                    failure = self._attempt(client, url, partial, give_up)
            except httpx.HTTPError as error:
                failure = f"{type(error).__name__}: {error}"
            if failure is None:
                return
            if time.monotonic() > give_up:
                break
        self._unanswered += 1
        if self._unanswered >= _GONE:
            raise ConnectionError(
                f"{_GONE} downloads in a row failed: the network is down, or a host is (its rows are rejected by name "
                f"without its --allow-download). The last was {url[:200]}: {failure}"
            )
        raise Rejected("download_failed", f"{url[:200]}: {failure}")

    def _attempt(self, client: httpx.Client, url: str, partial: Path, give_up: float) -> str | None:
        """One try, redirects followed by hand. Returns why another one may help, or None when the file is whole."""
        headers = {}
        if partial.exists() and partial.stat().st_size and _etag(partial).exists():
            headers = {"Range": f"bytes={partial.stat().st_size}-", "If-Range": _etag(partial).read_text("ascii")}
        for _ in range(_REDIRECTS + 1):
            target = self._allowed(url)
            # The address that was checked is the one connected to: asking for the name again might give another.
            pinned = target.copy_with(host=self._address(target.host))
            host = {"Host": target.netloc.decode("ascii")}
            extensions = {"sni_hostname": target.host}
            with client.stream("GET", pinned, headers={**headers, **host}, extensions=extensions) as response:
                if not response.has_redirect_location:
                    return self._receive(response, partial, give_up)
                url = str(target.join(response.headers["location"]))
                if target.scheme == "https" and not url.startswith("https:"):
                    raise Rejected("download_refused", f"{target} redirects from https to {url[:200]}")
        raise Rejected("download_refused", f"more than {_REDIRECTS} redirects, the last to {url[:200]}")

    def _allowed(self, url: str) -> httpx.URL:
        """The URL, or `Rejected` for what its text says."""
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError) as error:
            raise Rejected("download_refused", f"{url[:200]!r} is no URL: {error}") from error
        if parsed.scheme not in ("http", "https") or parsed.userinfo:
            raise Rejected("download_refused", f"{url[:200]!r} is not a plain http or https URL")
        if parsed.host.lower() not in self.hosts:
            raise Rejected("download_refused", f"{url[:200]!r}: host {parsed.host!r} is not named by --allow-download")
        return parsed

    def _address(self, host: str) -> str:
        """An address of the host that may be connected to."""
        try:
            found = list(dict.fromkeys(str(entry[4][0]) for entry in socket.getaddrinfo(host, None)))
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError(f"{host}: {error}") from error
        for address in found:
            parsed = ipaddress.ip_address(address)
            if (getattr(parsed, "ipv4_mapped", None) or parsed).is_global or address in self.hosts:
                return address
        raise Rejected("download_refused", f"{host!r} leads to {found[0]}, a private address that is not named itself")

    def _receive(self, response: httpx.Response, partial: Path, give_up: float) -> str | None:
        """Write the body to `partial`. Returns as `_attempt` does."""
        have = partial.stat().st_size if partial.exists() else 0
        continues = response.status_code == 206 and response.headers.get("content-range", "").startswith(
            f"bytes {have}-"
        )
        if response.status_code in _PASSING:
            return f"HTTP {response.status_code}"
        self._unanswered = 0
        if response.status_code in (206, 416) and not continues:
            partial.unlink(missing_ok=True)
            return "the server could not continue where the last try ended"
        if response.status_code not in (200, 206) or response.headers.get("content-encoding", "identity") != "identity":
            raise Rejected("download_failed", f"{response.url}: HTTP {response.status_code}")
        size = have if continues else 0
        if size + int(response.headers.get("content-length", 0)) > self.max_bytes:
            raise Rejected("download_refused", f"{response.url} has over {self.max_bytes} bytes")
        with open(partial, "ab" if continues else "wb") as file:
            if not continues:
                etag = response.headers.get("etag", "")
                _etag(partial).unlink(missing_ok=True)
                if etag.startswith('"') and etag.isascii():  # only a strong one promises equal bytes
                    _etag(partial).write_text(etag, "ascii")
            for block in response.iter_raw(_BLOCK):
                size += len(block)
                if size > self.max_bytes:
                    raise Rejected("download_refused", f"{response.url} has over {self.max_bytes} bytes")
                if time.monotonic() > give_up:
                    return f"not finished after {_DEADLINE * self.timeout:.0f} s"
                file.write(block)
        return None


def _etag(partial: Path) -> Path:
    """The file that says which content `partial` is a part of."""
    return partial.with_suffix(".etag")
