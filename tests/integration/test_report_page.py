"""The report in a real browser: desktop and phone, light and dark."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.browser import CHROMIUM, Browser
from tests.integration.conftest import SmallRun

PICTURES = ["tokens", "answers", "accuracy", "loss", "rejects"]
LOOK = """(() => {
  const width = document.documentElement.clientWidth;
  const scrolls = (e) => { for (; e; e = e.parentElement) {
    if (['auto', 'scroll'].includes(getComputedStyle(e).overflowX)) return true; } return false; };
  const wide = [...document.querySelectorAll('body *')].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width && (box.right > width + 1 || box.left < -1) && !scrolls(e); });
  const light = (c) => { const [r, g, b] = c.match(/[0-9.]+/g).map((v) => { v /= 255;
    return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const contrast = (c) => { const l = light(c);
    return (Math.max(l, paper) + 0.05) / (Math.min(l, paper) + 0.05); };
  return {
    pictures: [...document.querySelectorAll('svg.figure')].map((s) => ({
      name: s.classList[1], width: s.getBoundingClientRect().width, height: s.getBoundingClientRect().height,
      texts: [...s.querySelectorAll('text')].filter((t) => t.textContent.trim()).length,
      clipped: [...s.querySelectorAll('text')].filter((t) => { const a = t.getBoundingClientRect(),
        b = s.getBoundingClientRect(); return a.right > b.right + 2 || a.left < b.left - 2; }).map((t) => t.textContent),
      faint: [...s.querySelectorAll('text')].filter((t) => contrast(getComputedStyle(t).fill) < 4.5)
        .map((t) => t.textContent) })),
    scroll: document.documentElement.scrollWidth, width, paper,
    wide: wide.map((e) => e.outerHTML.slice(0, 80)),
    faint: [...document.querySelectorAll('p, h1, h2, h3, td, th, pre, figcaption, summary, li, small')]
      .filter((e) => contrast(getComputedStyle(e).color) < 4.5).map((e) => e.outerHTML.slice(0, 80)),
    headings: [...document.querySelectorAll('h2')].map((e) => e.textContent),
    first: document.querySelector('body > :nth-child(2)').className };
})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)")
def test_every_picture_is_there_nothing_overflows_nothing_is_fetched(small_run: SmallRun, tmp_path: Path) -> None:
    page = small_run.folder / "report" / "report.html"
    kept = Path(os.environ.get("REPORT_SCREENSHOTS", tmp_path))

    async def look() -> dict[tuple[int, str], dict[str, Any]]:
        seen = {}
        async with Browser() as browser:
            for width in (1280, 390):
                for scheme in ("light", "dark"):
                    await browser.open(page.as_uri(), width, scheme)
                    seen[width, scheme] = await browser.evaluate(LOOK) | {"requests": list(browser.requests)}
                    await browser.screenshot(kept / f"report-{width}-{scheme}.png")
        return seen

    for (width, scheme), found in asyncio.run(look()).items():
        where = f"at {width} pixels, {scheme}"
        assert [picture["name"] for picture in found["pictures"]] == PICTURES, where
        for picture in found["pictures"]:
            assert picture["width"] > 250, where
            assert picture["height"] > 80, where
            assert picture["texts"] > 3, where
            assert picture["clipped"] == picture["faint"] == [], where
        assert found["scroll"] <= found["width"] == width, where
        assert found["wide"] == found["faint"] == [], where
        assert (found["paper"] > 0.5) == (scheme == "light"), where
        assert "models" in found["first"], "the table of models comes first"
        assert found["headings"][-1] == "How to reproduce"
        assert found["requests"] == [page.as_uri()], where
