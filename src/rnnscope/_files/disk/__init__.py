"""Bytes on the disk: read within limits of memory, written whole.

Enters: a path.
Leaves: bytes and arrays that lie in them, counted before they are allocated; a place to write to.
"""

from rnnscope._files.disk.allowance import ARRAY, Allowance, LargeError
from rnnscope._files.disk.archive import Archive
from rnnscope._files.disk.atomic import no_file, replacing
from rnnscope._files.disk.reason import first_line, first_sentence
from rnnscope._files.disk.tensorfile import checksum, description, metadata_for, refuse_foreign
from rnnscope._files.disk.window import LazyArray, Window, as_tensor, begins

__all__ = [
    "ARRAY",
    "Allowance",
    "Archive",
    "LazyArray",
    "LargeError",
    "Window",
    "as_tensor",
    "begins",
    "checksum",
    "description",
    "first_line",
    "first_sentence",
    "metadata_for",
    "no_file",
    "refuse_foreign",
    "replacing",
]
