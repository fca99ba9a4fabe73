"""The report of gpu_measurements.py in Markdown."""

from __future__ import annotations

from collections.abc import Iterator

import candidates
from answers import table
from gpu_run import Result, Run


def markdown(device: str, run: Run) -> str:
    """Return the report of all that was measured so far on ``device``."""
    return "\n".join([f"# {device}", "", *_sections(run), *_left_out(run)]) + "\n"


def _sections(run: Run) -> Iterator[str]:
    for name, result in run.results.items():
        yield f"## {name}\n"
        if name.startswith("exactness"):
            yield from (f"- {key.replace('_', ' ')}: {value}" for key, value in result.items())
        elif name.startswith("speed"):
            rows = [[schedule, *map(_format, values.values())] for schedule, values in result.items()]
            names = (key.replace("_", " ") for key in next(iter(result.values())))
            yield table(["schedule", *names], rows)
        elif name.startswith("candidates"):
            yield "Milliseconds of a pass and of choosing a token from each of its rows\n"
            yield candidates.report(result)
        else:
            yield "Milliseconds of a pass over n rows\n"
            rows = [
                [f"{depth}, {kind}", *(f"{value:.2f}" for value in values)]
                for kind in ("repeated", "changed")
                for depth, values in result[kind].items()
            ]
            yield table(["tokens before", *map(str, run.widths)], rows)
            yield from _projected(result.get("projection", {}), run)
        yield ""


def _format(value: float | list[float]) -> str:
    return " ".join(f"{share:.2f}" for share in value) if isinstance(value, list) else f"{value:.3g}"


def _projected(projection: Result, run: Run) -> Iterator[str]:
    if any(projection.values()):
        right = "; ".join(f"{name} {_format(known)}" for name, known in run.acceptance.items())
        yield "\n**A projection**, not a measurement: from these repeated passes, and the shares of passes"
        yield f"whose first 1, 2 … drafts were all right: {right}\n"
        rows = [[depth, *(f"{times:.2f}" for times in known.values())] for depth, known in projection.items()]
        yield table(["tokens before", *(f"{name}, times plain" for name in run.acceptance)], rows)


def _left_out(run: Run) -> Iterator[str]:
    if run.left_out:
        yield "## Left out\n"
        yield from (f"- {name}: {why}" for name, why in run.left_out.items())
