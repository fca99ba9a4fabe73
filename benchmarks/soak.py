"""Soak test of the server: mixed traffic, every text compared to the same request's text alone, memory
sampled.

    python benchmarks/soak.py MODEL.gguf --minutes 30

Writes docs/reliability.md. Needs the extra `serve`.
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
    """Return the body of a request of one of KINDS."""
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
    """A client of the server at ``port``."""

    def __init__(self, port: int) -> None:
        self._port = port

    def text(self, request: dict[str, Any]) -> str:
        """Return the text of the answer to ``request``. Raises RuntimeError for an error status."""
        with self._send(request) as response:
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {response.read().decode()}")
            if request.get("stream"):
                return "".join(_deltas(response))
            choice = json.load(response)["choices"][0]
            return choice["text"] if "prompt" in request else choice["message"]["content"]

    def hang_up(self, request: dict[str, Any]) -> None:
        """Start a stream, and close the connection after its first byte."""
        with self._send({**request, "stream": True}) as response:
            response.read(1)

    def status(self, raw: bytes) -> int:
        """Return the HTTP status of the answer to ``raw``."""
        with self._send(raw) as response:
            return response.status

    @contextmanager
    def _send(self, request: dict[str, Any] | bytes) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=300)
        raw = request if isinstance(request, bytes) else json.dumps(request).encode()
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
    """The traffic of one run, for ``seconds`` or until ``ended`` is set.

    Attributes: ``done``: requests by kind; ``wrong``: descriptions of wrong answers; ``memory``: MiB at the
    start and at each ``sample``; ``began``: start in time.monotonic; ``seconds`` so far; ``early``: why it
    ended before its time, if it did.
    """

    def __init__(self, client: Client, alone: list[str], memory: float, seconds: float) -> None:
        """``alone``: the answer to each of REQUESTS when it was sent alone."""
        self._client, self._alone = client, alone
        self.began, self._end = time.monotonic(), time.monotonic() + seconds
        self.ended = threading.Event()
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.memory, self.seconds, self.early = [memory], 0.0, ""

    def sample(self, memory: float) -> None:
        """Record the memory, and report progress."""
        self.memory.append(memory)
        self.seconds = time.monotonic() - self.began
        counts = f"{self.done.total()} done, {len(self.wrong)} wrong, {memory:.0f} MiB"
        log(f"{self.seconds / 60:.1f} min: {counts}")

    def ask_again(self) -> None:
        """Send all requests alone once more, and compare the texts."""
        for (kind, request), text in zip(REQUESTS, self._alone, strict=True):
            if self._client.text(request) != text:
                self.wrong.append(f"afterwards: {kind}")

    def traffic(self, seed: int) -> None:
        """Send the requests of one client."""
        rng = random.Random(seed)
        while not self.ended.is_set() and time.monotonic() < self._end:
            kind = rng.choice((*KINDS, *KINDS, "hung up", "bad body"))
            try:
                self._ask(kind, rng)
            except Exception as error:
                if self.ended.is_set():  # the end of the run may have interrupted it
                    return
                self.wrong.append(f"{kind}: {type(error).__name__} {error}")
                self.ended.wait(1)  # time for the main thread to notice a server that has ended
            self.done[kind] += 1

    def _ask(self, kind: str, rng: random.Random) -> None:
        matching = [i for i, (each, _) in enumerate(REQUESTS) if kind == each]
        index = rng.choice(matching or range(len(REQUESTS)))
        if kind == "bad body":
            status = self._client.status(rng.choice(BAD_BODIES))
            if status != 400:
                self.wrong.append(f"{kind}: {status}")
        elif kind == "hung up":
            self._client.hang_up(REQUESTS[index][1])
        elif self._client.text(REQUESTS[index][1]) != self._alone[index]:
            self.wrong.append(f"{kind}: another text than alone")


class Server:
    """A server process, and its ``port``. Close it, or use it as a context manager."""

    def __init__(self, model: str) -> None:
        """Raises RuntimeError if it does not start."""
        command = [sys.executable, "-m", "pass_edge", "serve", "--port", "0", "-m", model]
        # in a session of its own: Ctrl-C is for the clients
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._last_lines: deque[str] = deque(maxlen=20)
        started = threading.Event()
        # its output is read all the time: a full pipe would stop it
        threading.Thread(target=self._listen, args=(started,), daemon=True).start()
        started.wait()
        self.check()

    def _listen(self, started: threading.Event) -> None:
        assert self._process.stderr
        for line in self._process.stderr:
            self._last_lines.append(line)
            if not started.is_set() and "http://" in line:
                self.port = int(line.split("127.0.0.1:")[1].split("/")[0])
                started.set()
        self._process.wait()
        started.set()

    def check(self) -> None:
        """Raise RuntimeError if the server has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(
                f"the server ended with {self._process.returncode}: {''.join(self._last_lines)}"
            )

    def memory(self) -> float:
        """Return its resident memory in MiB."""
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
    """Run the traffic for ``seconds``. ``write`` is called after each twentieth of the time and at the end,
    also at an early end: by Ctrl-C, by SIGTERM, or because the server has ended."""
    with Server(model) as server:
        client = Client(server.port)
        log(f"sending {len(REQUESTS)} requests alone")
        soak = Soak(client, [client.text(request) for _, request in REQUESTS], server.memory(), seconds)
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
            log("sending all requests alone once more")
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


def log(message: str) -> None:
    """Print progress to standard error."""
    print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)


def report(model: str, soak: Soak) -> str:
    """Return docs/reliability.md."""
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
    arguments = options.parse_args()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # ignored by default in a shell's background jobs
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    soak = run(
        arguments.model,
        arguments.minutes * 60,
        lambda soak: arguments.report.write_text(report(arguments.model, soak)),
    )
    print(arguments.report.read_text())
    sys.exit(bool(soak.wrong or soak.early))


if __name__ == "__main__":
    main()
