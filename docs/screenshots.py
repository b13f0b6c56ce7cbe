"""Pictures of the page: `python docs/screenshots.py` writes them with Debian's Chromium."""

from __future__ import annotations

import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from torch import nn

import rnnscope as rs
from rnnscope._cli.layers import drawn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tutorial"))
import brackets  # noqa: E402

FLAGS = "--headless=new --no-sandbox --disable-gpu --no-first-run --hide-scrollbars"
TYPED = "#text=((ab)(a(b&time=5&quantity=c&unit=1"
MISCOUNTED = "#time=5&quantity=c&edit=c@4:0.53"
OPEN = "for (const each of document.querySelectorAll('details')) each.open = true;"


def browser() -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in FLAGS.split():
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))


def shot(
    driver: webdriver.Chrome,
    page: Path,
    name: str,
    width: int,
    *,
    hash: str = "",
    dark: bool = False,
    opened: bool = False,
    lit: str = "",
) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get("about:blank")
    driver.get(page.as_uri() + hash)
    if opened:
        driver.execute_script(OPEN)
        time.sleep(0.3)
    metrics["height"] = driver.execute_script("return document.documentElement.scrollHeight")
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    if lit:
        driver.execute_script("document.querySelector(arguments[0]).focus()", lit)
    time.sleep(0.3)
    picture = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(256).save(HERE / name, optimize=True)  # half the size
    print(f"docs/{name}")


def depth_readout() -> nn.Linear:
    """As in page.md: how many brackets are open, read off the states of the LSTM that counts."""
    symbols, depths = brackets.sentences(count=300, length=40, seed=0)
    h = brackets.load().lstm(brackets.one_hot(symbols))[0].detach()
    torch.manual_seed(0)
    readout = nn.Linear(3, 9)
    optimiser = torch.optim.LBFGS(readout.parameters())

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        error = nn.functional.cross_entropy(readout(h).flatten(0, 1), depths.flatten())
        error.backward()
        return error

    optimiser.step(loss)
    return readout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second, third, fourth = (
            Path(folder) / f"{name}.html" for name in ("rnn", "lstm", "brackets", "text")
        )
        rnn = drawn(8, "rnn", 1, 1, bias=False, batch_first=True)
        rs.trace(rnn, torch.tensor([[[3.0], [4.0], [5.0]]])).view(first)
        torch.manual_seed(0)
        lstm = nn.LSTM(10, 20, num_layers=2, bidirectional=True, batch_first=True)
        tr = rs.trace(lstm, torch.randn(4, 30, 10))
        tr.view(second, gradients=tr.gradients(tr.output.square().sum()))
        text = "((a)b(()))a()"
        symbols = torch.tensor([[brackets.SYMBOLS.index(symbol) for symbol in text]])
        counter = brackets.load().lstm
        rs.trace(counter, brackets.one_hot(symbols), labels=list(text)).view(third)
        rs.trace(counter, brackets.one_hot(symbols)).view(
            fourth,
            readout=depth_readout(),
            vocabulary=brackets.SYMBOLS,
            classes=[f"{k} open" for k in range(9)],
        )
        driver = browser()
        try:
            shot(driver, first, "page.png", 1000, hash="#time=1&edit=x@0:-4")
            shot(driver, first, "page-dark.png", 1000, hash="#time=1", dark=True)
            shot(driver, first, "page-narrow.png", 360, hash="#time=1")
            shot(driver, third, "page-brackets.png", 1200, hash=MISCOUNTED, opened=True)
            shot(driver, fourth, "page-text.png", 1200, hash=TYPED, lit=".box[data-time='5']")
            shot(driver, second, "page-lstm.png", 1200, hash="#time=12&unit=3", opened=True)
        finally:
            driver.quit()


if __name__ == "__main__":
    main()
