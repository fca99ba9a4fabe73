"""pass-edge bench --html: one file that a browser shows without anything else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pass_edge.__main__ import main
from pass_edge.commands.bench_html import report_html
from tests.support.browser import browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from browser(tmp_path_factory.mktemp("profile"))


def test_the_report_shows_every_prompt_and_loads_nothing(
    chromium: Any, tiny_path: Path, tmp_path: Path
) -> None:
    (questions := tmp_path / "questions.txt").write_text("1 2 3\n4 5 6 4 5")
    page = tmp_path / "report.html"
    arguments = [
        "bench",
        str(tiny_path),
        "--prompts",
        str(questions),
        "-n",
        "8",
        "--html",
        str(page),
        "--json",
    ]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    chromium.get(page.as_uri())
    rows = [row.text for row in chromium.find_elements("css selector", "#speeds tbody tr")]
    assert [row.split(" ")[0] for row in rows] == ["1.", "2."]
    for row, prompt in zip(rows, report["prompts"], strict=True):
        assert prompt["prompt"] in row
        assert f"{prompt['auto_tokens_per_second']:.1f}" in row
    widths = {
        name: [
            float(bar.get_attribute("width"))
            for bar in chromium.find_elements("css selector", f"rect.{name}")
        ]
        for name in ("stock", "plain", "auto")
    }
    for name, (_, *bars) in widths.items():  # the first is in the legend
        speeds = [prompt[f"{name}_tokens_per_second"] for prompt in report["prompts"]]
        assert bars[0] / bars[1] == pytest.approx(speeds[0] / speeds[1], rel=0.02)
    assert tiny_path.name in chromium.find_element("css selector", "#machine").text
    assert chromium.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [line for line in chromium.get_log("browser") if line["level"] == "SEVERE"] == []
    again = CliRunner().invoke(main, arguments)
    assert (again.exit_code, "exists" in again.stderr) == (2, True)


def test_prompts_are_text_whatever_they_hold() -> None:
    row = {f"{name}_tokens_per_second": None for name in ("stock", "plain", "auto")}
    report = {
        "model": "<b>m</b>", "threads": 1, "schedule": "auto", "notes": ["<i>"], "same_ids": True,
        "passes": None, "interrupted": True, "medians": {"stock_ratio": None, "ratio": 1.0},
        "prompts": [{"prompt": "<script>alert(1)</script>", **row}],
    }  # fmt: skip
    html = report_html(report, headline="<u>", verdict="<s>", columns={}, cells=lambda _: [])
    for tag in ("<script", "<b>", "<i>", "<u>", "<s>"):
        assert tag not in html
