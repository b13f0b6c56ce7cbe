"""Where a store is: a folder of this machine, or a URL that fsspec knows.

What is written becomes visible whole: a file or folder is made beside its place, then renamed; at a
URL, where nothing can be renamed, the file that makes a folder count is sent last.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from rnnscope._record.extras import package_of_extra
from rnnscope.errors import FileError

__all__ = ["DESCRIPTION", "Folder", "file_sizes", "place_of", "told"]

DESCRIPTION = "zarr.json"
"""The file that makes a folder a group of Zarr, and so a shard."""
_UNFINISHED = ".writing-"


class Folder(Protocol):
    """A folder, here or elsewhere; names are relative to it, with "/" between their parts."""

    text: str

    def exists(self) -> bool:
        """Whether anything stands there."""

    def names(self, folder: str = "") -> list[str]:
        """What stands in a folder, sorted; nothing where there is no such folder."""

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole, in the place of an earlier one."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def scratch(self) -> Any:
        """A context with a folder of this machine to write in, removed at the end unless it was
        published."""

    def scratch_file(self) -> Any:
        """A context with the path of a file of this machine that is yet to be written, removed at
        the end unless it was published."""

    def publish(self, path: Path, name: str) -> bool:
        """Move a finished file or folder to its place; False where a folder stands there."""

    def fetch(self, name: str) -> Path:
        """A file as one of this machine."""

    def release(self, path: Path) -> None:
        """What was fetched is needed no more."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file inside a folder, by its name inside."""

    def zarr_store(self, folder: str) -> Any:
        """The folder as a store of Zarr, to be read."""

    def locked(self) -> Any:
        """A context in which no other process records here."""


def place_of(path: str | os.PathLike[str]) -> Folder:
    """The place that a path or URL names; "~" is the home."""
    text = os.fspath(path)
    if "://" in text:
        return RemoteFolder(text.rstrip("/"))
    return LocalFolder(Path(os.path.expanduser(text)).absolute())


@contextmanager
def told(verb: str, text: str) -> Iterator[None]:
    """What the system answers is a ``FileError`` with the place."""
    try:
        yield
    except OSError as error:
        raise FileError(f"cannot {verb} {text}: {error.strerror or error}") from error


def file_sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file inside a folder, by its name inside."""
    sizes: dict[str, int] = {}
    # strings, since paths cost more than asking the system
    folders = [(str(folder), "")]
    while folders:
        top, prefix = folders.pop()
        with suppress(FileNotFoundError), os.scandir(top) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, f"{prefix}{entry.name}/"))
                else:
                    sizes[prefix + entry.name] = entry.stat().st_size
    return sizes


class LocalFolder:
    """A folder of this machine, or of a disk that several machines see."""

    def __init__(self, root: Path) -> None:
        self.root, self.text = root, str(root)

    def exists(self) -> bool:
        """See ``Folder``."""
        with told("read", self.text):
            return self.root.exists()

    def names(self, folder: str = "") -> list[str]:
        """See ``Folder``."""
        path = self.root / folder
        with told("read", self.text):
            return sorted(os.listdir(path)) if path.is_dir() else []

    def read(self, name: str) -> bytes | None:
        """See ``Folder``."""
        with told("read", self.text):
            try:
                return (self.root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, content: bytes) -> None:
        """See ``Folder``."""
        with self.scratch_file() as scratch:
            scratch.write_bytes(content)
            self.publish(scratch, name)

    def remove(self, name: str) -> None:
        """See ``Folder``."""
        (self.root / name).unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See ``Folder``."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=self.root, prefix=_UNFINISHED))
        try:
            yield path
        finally:
            if path.exists():
                shutil.rmtree(path, ignore_errors=True)

    @contextmanager
    def scratch_file(self) -> Iterator[Path]:
        """See ``Folder``."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f"{_UNFINISHED}{secrets.token_hex(8)}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def publish(self, path: Path, name: str) -> bool:
        """See ``Folder``."""
        target = self.root / name
        if path.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            return True
        path.chmod(0o777 & ~_umask_of(self.root))
        try:
            path.rename(target)
        except OSError as error:
            # two that do the same work, as where a worker was thought to be lost: the first counts
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise
        return True

    def fetch(self, name: str) -> Path:
        """See ``Folder``."""
        return self.root / name

    def release(self, path: Path) -> None:
        """See ``Folder``; it is the file itself."""

    def sizes(self, folder: str) -> dict[str, int]:
        """See ``Folder``."""
        return file_sizes(self.root / folder)

    def zarr_store(self, folder: str) -> Any:
        """See ``Folder``."""
        storage = package_of_extra("zarr", "record").storage
        return storage.LocalStore(self.root / folder, read_only=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See ``Folder``; what a process that was killed left unfinished is removed.

        Raises ``FileError`` where another process or thread records here."""
        fcntl = _fcntl()
        with told("write", self.text):
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        with lock:
            if fcntl is not None:
                try:
                    # the system takes it back from a process that ends in whatever way
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise FileError(
                        f"{self.text}: another process or thread is recording into this store; "
                        f"wait for its end, or name another path"
                    ) from error
            for path in self.root.glob(f"{_UNFINISHED}*"):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)
            yield


def _fcntl() -> Any:
    """The module for locks; None on a system that has none."""
    with suppress(ImportError):
        import fcntl

        return fcntl
    return None


def _umask_of(folder: Path) -> int:
    """What a folder's own mode leaves out: mkdtemp lets nobody but the owner in."""
    return 0o777 & ~folder.stat().st_mode


class RemoteFolder:
    """A URL: what fsspec knows, as s3://bucket/gates.zarr. Nothing is locked there."""

    def __init__(self, url: str) -> None:
        self.text = url
        fsspec = package_of_extra("fsspec", "record")
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise FileError(f"{url}: {error}") from error

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker connects by itself."""
        return RemoteFolder, (self.text,)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def exists(self) -> bool:
        """See ``Folder``."""
        return bool(self._files.exists(self._root))

    def names(self, folder: str = "") -> list[str]:
        """See ``Folder``."""
        self._files.invalidate_cache()
        if not self._files.isdir(self._at(folder)):
            return []
        paths = self._files.ls(self._at(folder), detail=False)
        return sorted(path.rstrip("/").rpartition("/")[2] for path in paths)

    def read(self, name: str) -> bytes | None:
        """See ``Folder``."""
        try:
            content: bytes = self._files.cat_file(self._at(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content

    def write(self, name: str, content: bytes) -> None:
        """See ``Folder``."""
        self._files.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
        self._files.pipe_file(self._at(name), content)

    def remove(self, name: str) -> None:
        """See ``Folder``."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._at(name))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """See ``Folder``."""
        with tempfile.TemporaryDirectory(prefix="rnnscope-") as path:
            yield Path(path)

    @contextmanager
    def scratch_file(self) -> Iterator[Path]:
        """See ``Folder``."""
        with self.scratch() as path:
            yield path / "file"

    def publish(self, path: Path, name: str) -> bool:
        """See ``Folder``."""
        if path.is_file():
            self.write(name, path.read_bytes())
            return True
        if self._files.exists(self._at(f"{name}/{DESCRIPTION}")):
            return False
        files = sorted(file for file in path.rglob("*") if file.is_file())
        # the description of the whole comes last: without it the folder counts for nothing
        for file in sorted(files, key=lambda file: file == path / DESCRIPTION):
            self.write(f"{name}/{file.relative_to(path).as_posix()}", file.read_bytes())
        return True

    def fetch(self, name: str) -> Path:
        """See ``Folder``; the file is a copy."""
        handle, path = tempfile.mkstemp(prefix="rnnscope-")
        os.close(handle)
        self._files.get_file(self._at(name), path)
        return Path(path)

    def release(self, path: Path) -> None:
        """See ``Folder``."""
        path.unlink(missing_ok=True)

    def sizes(self, folder: str) -> dict[str, int]:
        """See ``Folder``."""
        top = self._at(folder)
        self._files.invalidate_cache()
        entries = self._files.find(top, detail=True)
        return {path[len(top) :].lstrip("/"): int(entry["size"]) for path, entry in entries.items()}

    def zarr_store(self, folder: str) -> Any:
        """See ``Folder``."""
        storage = package_of_extra("zarr", "record").storage
        # not the instance of another event loop, which would go on with that one's connections
        options = {"skip_instance_cache": True}
        return storage.FsspecStore.from_url(
            f"{self.text}/{folder}", read_only=True, storage_options=options
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """See ``Folder``."""
        yield
