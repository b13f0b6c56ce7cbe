"""The sheet that the command worksheet writes: a layer with rounded weights, and its input."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rnnscope._cli.options import CallOptions
from rnnscope._cli.terminal import ArgumentError
from rnnscope._cli.traces import trace_of
from rnnscope._files.disk import replacing
from rnnscope._worksheet.paper import Paper
from rnnscope._worksheet.pdf import write_pdf
from rnnscope._worksheet.sheet import Sheet, worksheet

__all__ = ["rounded_sheet", "written"]


LARGEST = 100_000
"""Larger numbers fit into no box, and no float32 has six decimals of them."""


def rounded_sheet(options: CallOptions, digits: int) -> Sheet:
    """The sheet of the layer that the options mean, its weights rounded to ``digits`` decimals.

    Raises ``ArgumentError`` for options that a sheet cannot follow.
    """
    if options.dropout:
        raise ArgumentError("--dropout draws numbers at random: a worksheet has none")
    paper = Paper(digits)

    def rounded(tensor: Tensor) -> Tensor:
        if not bool(tensor.isfinite().all()):
            raise ArgumentError("a worksheet needs finite numbers; got nan or inf")
        if float(tensor.abs().max()) > LARGEST:
            raise ArgumentError(
                f"a worksheet needs numbers up to {LARGEST:,}; got {float(tensor.abs().max()):g}"
            )
        numbers = [float(paper.number(value)) for value in tensor.flatten().tolist()]
        return torch.tensor(numbers, dtype=tensor.dtype, device="cpu").view_as(tensor)

    trace, construction = trace_of(options, rounded)
    return worksheet(trace, digits, f"{construction}, rounded to {digits} decimals")


def written(sheet: Sheet, page: Path | None, pdf: Path | None, paper: str) -> list[Path]:
    """Write the page and its PDF; the paths that were written.

    Raises ``FileError`` where a place cannot be written, or no Chromium is there for the PDF.
    """
    if page is None and pdf is None:
        raise ArgumentError("say where it is written: -o sheet.html, or --pdf sheet.pdf")
    if page is not None:
        with replacing(page) as temporary:
            temporary.write_text(sheet.html, encoding="utf-8")
    if pdf is not None:
        write_pdf(sheet.with_paper({"a4": "A4", "letter": "Letter"}[paper]), pdf)
    return [path for path in (page, pdf) if path is not None]
