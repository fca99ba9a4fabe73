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
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
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
    """The traffic of one run, up to ``seconds``, or until ``ended`` is set.

    Attributes: ``done``, requests by kind; ``wrong``, those that were not answered as they must be;
    ``memory``, MiB at the begin and at each ``sample``; ``began``, in time.monotonic; ``seconds`` so far;
    ``early``, why it ended before its time, if it did.
    """

    def __init__(self, client: Client, alone: list[str], memory: float, seconds: float) -> None:
        """``alone``: what each of REQUESTS was answered alone."""
        self._client, self._alone = client, alone
        self.began, self._end = time.monotonic(), time.monotonic() + seconds
        self.ended = threading.Event()
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.memory, self.seconds, self.early = [memory], 0.0, ""

    def sample(self, memory: float) -> None:
        """Note the memory, and how it goes."""
        self.memory.append(memory)
        self.seconds = time.monotonic() - self.began
        so_far = f"{self.done.total()} done, {len(self.wrong)} wrong, {memory:.0f} MiB"
        say(f"{self.seconds / 60:.1f} min: {so_far}")

    def ask_again(self) -> None:
        """All of it alone, as in the beginning."""
        for (kind, asked), text in zip(REQUESTS, self._alone, strict=True):
            if self._client.text(asked) != text:
                self.wrong.append(f"afterwards: {kind}")

    def traffic(self, seed: int) -> None:
        """One client's."""
        chance = random.Random(seed)
        while not self.ended.is_set() and time.monotonic() < self._end:
            kind = chance.choice((*KINDS, *KINDS, "hung up", "bad body"))
            try:
                self._ask(kind, chance)
            except Exception as error:
                if self.ended.is_set():  # it may have been cut off
                    return
                self.wrong.append(f"{kind}: {type(error).__name__} {error}")
                self.ended.wait(1)  # a server that has ended is noticed meanwhile
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


class Server:
    """A server process, and its ``port``. Close it, or use it as a context manager."""

    def __init__(self, model: str) -> None:
        """Raises RuntimeError if it does not start."""
        command = [sys.executable, "-m", "pass_edge", "serve", "--port", "0", "-m", model]
        # in a session of its own: Ctrl-C is for the clients
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._said: deque[str] = deque(maxlen=20)
        started = threading.Event()
        # what it says is read all along: a full pipe would stop it
        threading.Thread(target=self._listen, args=(started,), daemon=True).start()
        started.wait()
        self.check()

    def _listen(self, started: threading.Event) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._said.append(line)
            if not started.is_set() and "http://" in line:
                self.port = int(line.split("127.0.0.1:")[1].split("/")[0])
                started.set()
        self._process.wait()
        started.set()

    def check(self) -> None:
        """Raises RuntimeError once it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"the server ended with {self._process.returncode}: {''.join(self._said)}")

    def memory(self) -> float:
        """MiB that it has in use."""
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()


def run(model: str, seconds: float, write: Callable[[Soak], object]) -> Soak:
    """The traffic of ``seconds``. ``write`` is called after each twentieth of them and at the end, also
    where that comes early: by Ctrl-C, SIGTERM, or because the server has ended."""
    with Server(model) as server:
        client = Client(server.port)
        say(f"asking {len(REQUESTS)} requests alone")
        soak = Soak(client, [client.text(asked) for _, asked in REQUESTS], server.memory(), seconds)
        threads = [threading.Thread(target=soak.traffic, args=(i,), daemon=True) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            for i in range(20):
                soak.ended.wait(max(0.0, soak.began + seconds * (i + 1) / 20 - time.monotonic()))
                server.check()
                soak.sample(server.memory())
                write(soak)
            soak.ended.set()
            for thread in threads:
                thread.join()
            say("asking all alone once more")
            soak.ask_again()
        except KeyboardInterrupt:
            soak.early = "it was interrupted"
        except Exception as error:
            soak.early = f"{type(error).__name__} {error}"
            soak.wrong.append("it could not go on")
        finally:
            soak.ended.set()
            write(soak)
    return soak


def say(what: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def report(model: str, soak: Soak) -> str:
    """docs/reliability.md."""
    memory, minutes = soak.memory, soak.seconds / 60
    rows = "\n".join(f"| {kind} | {soak.done[kind]:,} |" for kind in (*KINDS, "hung up", "bad body"))
    samples = " · ".join(f"{each:.0f}" for each in memory)
    start, middle, end = (round(memory[i]) for i in (0, len(memory) // 2, -1))
    early = f"\nIt ended before its time: {soak.early.strip()}.\n" if soak.early else ""
    wrong = "\n".join(f"- {each}" for each in sorted(set(soak.wrong))) or "None."
    return f"""# Reliability

`python benchmarks/soak.py MODEL.gguf --minutes 30` writes this page. {CLIENTS} clients at once ask a server
for completions, chats, streams, and JSON that follows a schema. Some of them hang up in the middle of a
stream, or send bodies that must be refused. Every text is compared to the text that the same request got
alone; at the end, all requests are asked alone once more.

## Results

{minutes:.3g} minutes, {Path(model).name}: {soak.done.total():,} requests, {len(soak.wrong)} answered wrong.
{early}
| kind | requests |
| --- | --- |
{rows}

The server's memory in MiB, from the start and after each twentieth of the time: {samples}.
It grew by {middle - start} MiB in the first half and by {end - middle} in the second.

## Wrong answers

{wrong}

## Where memory goes

`pass-edge serve` limits glibc to two heaps. By default glibc gives each thread a heap of its own, up to
eight for each core, and a heap keeps the memory of its busiest moment: after some 500 of these requests a
server held 119 MiB more than after the first ones, and 17 MiB more with two heaps. Memory also grows when
pages of the model's file are read for the first time (the embeddings of tokens that have not occurred
before); the system takes these back when it needs them. A program that uses the library chooses for itself:
`MALLOC_ARENA_MAX=2` in its environment has the same effect.

## What the tests check

The tests in `tests/server` repeat each fault 30 times, or 1,000 times in `make test-slow`: clients that
hang up in the middle of a stream, malformed and oversized bodies, a full queue, prompts and answers that
exceed the context. After each fault, the server must answer the next request as the library does. At the
end, it may hold 4 MiB more than at the start. It goes on when its model file is removed, and it finishes
its answers when a signal stops it. Further tests count memory and KV cells after 1,000 (or 10,000) short
requests.
"""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("model")
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--report", type=Path, default=REPORT, help="[default: docs/reliability.md]")
    given = options.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    soak = run(
        given.model, given.minutes * 60, lambda soak: given.report.write_text(report(given.model, soak))
    )
    print(given.report.read_text())
    sys.exit(bool(soak.wrong or soak.early))


if __name__ == "__main__":
    main()
