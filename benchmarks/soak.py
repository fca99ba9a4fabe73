"""Mixed traffic on a server, for as long as asked: every text compared to what the same request got alone,
and memory sampled. Writes docs/reliability.md.

python benchmarks/soak.py MODEL.gguf --minutes 30
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPORT = Path(__file__).resolve().parent.parent / "docs" / "reliability.md"
CLIENTS, SEEDS = 6, 3
QUESTIONS = ("Name three rivers.", "How do I bake bread?", "Why is the sky blue?", "Count to ten.")
ANIMAL = {"type": "object", "properties": {"animal": {"enum": ["cat", "dog"]}}, "required": ["animal"]}
BAD_BODIES = (b"{", b"\xff\xfe", b'{"prompt": "x", "temperature": -1}', b'{"prompt": "x", "dance": 1}')
KINDS = ("completion", "chat", "stream", "schema")


def body(kind: str, question: str, seed: int) -> dict[str, Any]:
    """A request of a ``kind``."""
    shared = {"max_tokens": 40, "seed": seed, "temperature": 0.8 * (seed > 0)}
    if kind == "completion":
        return {"prompt": question, **shared}
    chat = {"messages": [{"role": "user", "content": question}], **shared}
    if kind == "schema":
        chat["response_format"] = {"type": "json_object", "schema": ANIMAL}
    return {**chat, "stream": kind == "stream"}


REQUESTS = [
    (kind, body(kind, question, seed)) for kind in KINDS for question in QUESTIONS for seed in range(SEEDS)
]


class Client:
    """Asks the server at ``port``."""

    def __init__(self, port: int) -> None:
        self._port = port

    def text(self, asked: dict[str, Any]) -> str:
        """The text that ``asked`` is answered with."""
        with self._sent(asked) as response:
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {response.read().decode()}")
            if asked.get("stream"):
                return "".join(_deltas(response))
            choice = json.load(response)["choices"][0]
            return choice["text"] if "prompt" in asked else choice["message"]["content"]

    def hangs_up(self, asked: dict[str, Any]) -> None:
        """Stop reading after the first bytes."""
        with self._sent({**asked, "stream": True}) as response:
            response.read(1)

    def status(self, raw: bytes) -> int:
        """What the server says to ``raw``."""
        with self._sent(raw) as response:
            return response.status

    @contextmanager
    def _sent(self, asked: dict[str, Any] | bytes) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        raw = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        path = "/v1/chat/completions" if b'"messages"' in raw else "/v1/completions"
        try:
            connection.request("POST", path, raw, {"Content-Type": "application/json"})
            yield connection.getresponse()
        finally:
            connection.close()


def _deltas(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])["choices"][0]["delta"].get("content") or ""


class Soak:
    """The traffic of one run, until ``end`` (of time.monotonic).

    Attributes: ``done``, requests by kind; ``wrong``, those that were not answered as they must be.
    """

    def __init__(self, client: Client, alone: list[str], end: float) -> None:
        self._client, self._alone, self._end = client, alone, end
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []

    def traffic(self, seed: int) -> None:
        """One client's."""
        chance = random.Random(seed)
        while time.monotonic() < self._end:
            kind = chance.choice((*KINDS, *KINDS, "hung up", "bad body"))
            try:
                self._ask(kind, chance)
            except Exception as error:
                self.wrong.append(f"{kind}: {type(error).__name__} {error}")
            self.done[kind] += 1

    def _ask(self, kind: str, chance: random.Random) -> None:
        fitting = [i for i, (known, _) in enumerate(REQUESTS) if kind == known]
        index = chance.choice(fitting or range(len(REQUESTS)))
        if kind == "bad body":
            status = self._client.status(chance.choice(BAD_BODIES))
            if status != 400:
                self.wrong.append(f"{kind}: {status}")
        elif kind == "hung up":
            self._client.hangs_up(REQUESTS[index][1])
        elif self._client.text(REQUESTS[index][1]) != self._alone[index]:
            self.wrong.append(f"{kind}: another text than alone")


def resident(process: int) -> float:
    """MiB that a process has in use."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


@contextmanager
def started(model: str) -> Iterator[tuple[int, int]]:
    """A server's process id and port."""
    command = [sys.executable, "-m", "pass_edge.cli", "serve", "--port", "0", "-m", model]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr
        line = next(line for line in process.stderr if "http://" in line)
        yield process.pid, int(line.split("127.0.0.1:")[1].split("/")[0])
    finally:
        process.terminate()
        process.wait(60)


def run(model: str, seconds: float) -> tuple[Soak, list[float]]:
    """The traffic, and the memory: once all was asked alone, and after each twentieth of the time."""
    with started(model) as (process, port):
        client = Client(port)
        alone = [client.text(asked) for _, asked in REQUESTS]
        soak = Soak(client, alone, time.monotonic() + seconds)
        threads = [threading.Thread(target=soak.traffic, args=(i,)) for i in range(CLIENTS)]
        memory = [resident(process)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            time.sleep(seconds / 20)
            memory.append(resident(process))
        for thread in threads:
            thread.join()
        soak.wrong += [
            f"afterwards: {kind}"
            for (kind, asked), text in zip(REQUESTS, alone, strict=True)
            if client.text(asked) != text
        ]
    return soak, memory


def report(model: str, minutes: float, soak: Soak, memory: list[float]) -> str:
    """docs/reliability.md."""
    rows = "\n".join(f"| {kind} | {soak.done[kind]:,} |" for kind in (*KINDS, "hung up", "bad body"))
    samples = " · ".join(f"{each:.0f}" for each in memory)
    start, middle, end = (round(memory[i]) for i in (0, len(memory) // 2, -1))
    wrong = "\n".join(f"- {each}" for each in sorted(set(soak.wrong))) or "None."
    return f"""# Reliability

`python benchmarks/soak.py MODEL.gguf --minutes 30` makes this page: {CLIENTS} clients at once ask a server
for completions, chats, streams and JSON of a schema, hang up in mid-stream, and send bodies that are refused.
Every text is compared to what the same request got alone, and afterwards all are asked alone once more.

## What was seen

{minutes:g} minutes, {Path(model).name}: {soak.done.total():,} requests, {len(soak.wrong)} answered wrong.

| kind | requests |
| --- | --- |
{rows}

The server's memory in MiB, from the start and after each twentieth of the time: {samples}.
It grew by {middle - start} MiB in the first half and by {end - middle} in the second.

## Answered wrong

{wrong}

## What the tests hold

`tests/test_faults.py` repeats each fault 30 times, or 1,000 in `make test-slow`: clients that hang up in
mid-stream, malformed and oversized bodies, a full queue, prompts and answers beyond the context. After each,
the server must answer the next request as the library does; at the end memory may be 4 MiB above where it
was. A model file that is removed while the server runs is not missed. `tests/test_serve_command.py` stops a
server by a signal in mid-answer, and `tests/test_library.py` counts memory and KV cells after 1,000 (or
10,000) short requests.
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("--minutes", type=float, default=30)
    given = options.parse_args()
    soak, memory = run(given.model, given.minutes * 60)
    text = report(given.model, given.minutes, soak, memory)
    REPORT.write_text(text)
    print(text)
    sys.exit(bool(soak.wrong))


if __name__ == "__main__":
    main()
