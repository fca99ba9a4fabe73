"""Answer a question from a folder of documents, and name the files that the answer is from.

Passages are found by an embedding model, if you give one, else by their words (BM25).

    python examples/documents.py docs "How do I serve a model?"
    python examples/documents.py docs "How do I serve a model?" -m model.gguf -e bge-small-en-v1.5.gguf
"""

import argparse
import math
import re
from collections import Counter
from pathlib import Path

from pass_edge import Embedder, Engine, Sampling, default_model

SUFFIXES = {".md", ".rst", ".txt"}
PASSAGE = 800  # characters


def passages(folder: Path) -> list[tuple[str, str]]:
    """Return the file names and texts of passages: paragraphs, joined up to a length."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES):
        paragraphs = re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="replace"))
        texts = [""]
        for paragraph in paragraphs:
            if len(texts[-1]) + len(paragraph) > PASSAGE:
                texts.append("")
            texts[-1] = f"{texts[-1]}\n\n{paragraph}".strip()[:PASSAGE]
        found += [(str(path.relative_to(folder)), text) for text in texts if text]
    return found


def by_words(question: str, texts: list[str]) -> list[float]:
    """Score texts by the question's words in them (BM25): rare words count more, words of long texts less."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    mean = sum(count.total() for count in counts) / len(counts)
    scores = [0.0] * len(texts)
    for word in set(re.findall(r"\w+", question.lower())):
        n_with = sum(word in count for count in counts)
        rarity = math.log(1 + (len(texts) - n_with + 0.5) / (n_with + 0.5))
        for i, count in enumerate(counts):
            scores[i] += rarity * 2.2 * count[word] / (count[word] + 0.3 + 0.9 * count.total() / mean)
    return scores


def by_meaning(question: str, texts: list[str], model: str) -> list[float]:
    """Score texts by how similar their vectors are to the question's."""
    with Embedder(model) as embedder:
        return (embedder.vectors(texts) @ embedder.vectors([question])[0]).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer a question from a folder of documents.")
    parser.add_argument("folder", type=Path, help="a folder with .md, .rst or .txt files")
    parser.add_argument("question")
    parser.add_argument("-m", "--model", help="a model that writes text (default: SmolLM2-135M)")
    parser.add_argument("-e", "--embedding-model", help="a model that finds passages by their meaning")
    parser.add_argument("-n", "--max-tokens", type=int, default=256, help="(default: 256)")
    args = parser.parse_args()
    if not (found := passages(args.folder)):
        parser.error(f"there is no .md, .rst or .txt file in {args.folder}")
    names, texts = map(list, zip(*found, strict=True))
    embedding = args.embedding_model
    scores = by_meaning(args.question, texts, embedding) if embedding else by_words(args.question, texts)
    best = sorted(range(len(texts)), key=lambda i: -scores[i])[:3]
    sources = "\n\n".join(f"[{names[i]}]\n{texts[i]}" for i in best)
    prompt = f"{sources}\n\nAnswer from these texts only, briefly: {args.question}"
    with Engine(args.model or default_model()) as engine:
        messages = [{"role": "user", "content": prompt}]
        for text in engine.chat(messages, sampling=Sampling(temperature=0), max_tokens=args.max_tokens):
            print(text, end="", flush=True)
    print("\n\nFrom:", ", ".join(dict.fromkeys(names[i] for i in best)))


if __name__ == "__main__":
    main()
