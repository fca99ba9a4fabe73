"""Run commands of pass-edge in this process, and check that they refuse bad input."""

from __future__ import annotations

from click.testing import CliRunner, Result

from pass_edge.__main__ import main


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], input=stdin)


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    (sentence,) = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    for word in words:
        assert word in sentence
    assert result.stdout == "", result.stdout
