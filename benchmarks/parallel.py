"""Tokens per second of one client alone and of several at once, interleaved, as a Markdown table.

python benchmarks/parallel.py MODEL.gguf [CLIENTS]
"""

from __future__ import annotations

import statistics
import sys
import threading
import time

from pass_edge import Engine, Sampling, Settings

ROUNDS, TOKENS = 3, 100
QUESTIONS = (
    "Tell me a story about a fox.",
    "How do I bake bread?",
    "Explain why the sky is blue.",
    "What should I see in Rome?",
)


def answer(engine: Engine, client: int, end: int) -> float:
    """Return the tokens per second of one answer."""
    start = time.perf_counter()
    message = {"role": "user", "content": QUESTIONS[client % len(QUESTIONS)]}
    # without the end token, all answers have the same length
    sampling = Sampling(temperature=0.8, seed=client, logit_bias={end: -100.0})
    generation = engine.chat([message], sampling=sampling, max_tokens=TOKENS).run()
    return len(generation.ids) / (time.perf_counter() - start)


def answer_together(engine: Engine, clients: int, end: int) -> list[float]:
    """Return the tokens per second of each client."""
    rates: list[float] = []
    threads = [
        threading.Thread(target=lambda i=i: rates.append(answer(engine, i, end))) for i in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rates


def main(model: str, clients: int) -> None:
    print("| schedule | one client | each of several (slowest, fastest) | together | gain |")
    print("| --- | --- | --- | --- | --- |")
    for schedule in ("plain", "auto"):
        with Engine(model, settings=Settings(parallel=clients, schedule=schedule)) as engine:
            end = engine.tokenize("<|im_end|>")[-1]
            alone, together = [], []
            for round_ in range(ROUNDS + 1):
                one = answer(engine, round_, end)
                several = answer_together(engine, clients, end)
                if round_:  # the first warms up
                    alone.append(one)
                    together.append(several)
        one = statistics.median(alone)
        slowest = statistics.median(map(min, together))
        fastest = statistics.median(map(max, together))
        total = statistics.median(map(sum, together))
        print(f"| {schedule} | {one:.0f} | {slowest:.0f}, {fastest:.0f} | {total:.0f} | {total / one:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 4)
