"""A page as a PDF, made by Chromium where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from rnnscope._files.disk import replacing
from rnnscope.errors import FileError

__all__ = ["PAPERS", "write_pdf"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PAPERS = ("a4", "letter")
SECONDS = 120
FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-pdf-header-footer",
)


def write_pdf(html: str, path: Path) -> None:
    """Print a page into a PDF, which is written whole or not at all.

    Raises ``FileError`` where no Chromium is found, or it prints nothing.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise FileError(
            f"{path}: no Chromium was found to print it (tried {', '.join(BROWSERS)}). Write the "
            f"page with -o sheet.html, open it in a browser and print it"
        )
    with tempfile.TemporaryDirectory(prefix="rnnscope.") as folder, replacing(path) as temporary:
        page, printed = Path(folder, "sheet.html"), Path(folder, "sheet.pdf")
        page.write_text(html, encoding="utf-8")
        words = [browser, *FLAGS, f"--user-data-dir={folder}/profile"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            words.append("--no-sandbox")  # Chromium refuses to run for root with one
        words += [f"--print-to-pdf={printed}", page.as_uri()]
        try:
            done = subprocess.run(words, capture_output=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise FileError(f"{path}: {browser} did not print within {SECONDS} s") from error
        if not printed.is_file() or not printed.read_bytes().startswith(b"%PDF"):
            lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason"]
            raise FileError(f"{path}: {browser} printed nothing: {lines[-1]}")
        shutil.copyfile(printed, temporary)
