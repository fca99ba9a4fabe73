"""Turn e-mails into JSON that always matches a schema, one line for each mail.

python examples/mails.py inbox/*.eml >mails.jsonl
python examples/mails.py <mail.txt
"""

import argparse
import json
import sys
from email import message_from_bytes, policy
from pathlib import Path

from pass_edge import Engine, Sampling, default_model, schema_grammar

SCHEMA = {
    "type": "object",
    "properties": {
        "topic": {"enum": ["order", "complaint", "invoice", "appointment", "other"]},
        "summary": {"type": "string", "maxLength": 120},
        "asks_for_reply": {"type": "boolean"},
        "dates": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 3},
    },
    "required": ["topic", "summary", "asks_for_reply", "dates"],
    "additionalProperties": False,
}
MAX_CHARACTERS = 6000  # of a mail; the end of longer ones is left out


def plain_text(mail: bytes) -> str:
    """Return the subject, the sender and the text of a mail."""
    message = message_from_bytes(mail, policy=policy.default)
    body = message.get_body(("plain", "html"))
    text = body.get_content() if body else ""
    return f"Subject: {message['subject'] or ''}\nFrom: {message['from'] or ''}\n\n{text}"[:MAX_CHARACTERS]


def main() -> None:
    parser = argparse.ArgumentParser(description="Turn e-mails into JSON that matches a schema.")
    parser.add_argument("files", nargs="*", type=Path, help="mails as .eml or text files (default: stdin)")
    parser.add_argument("-m", "--model", help="a model that writes text (default: SmolLM2-135M)")
    args = parser.parse_args()
    mails = [(str(path), path.read_bytes()) for path in args.files] or [("stdin", sys.stdin.buffer.read())]
    sampling = Sampling(temperature=0, grammar=schema_grammar(SCHEMA))
    instruction = f"Describe this e-mail as a JSON object that matches the schema {json.dumps(SCHEMA)}"
    with Engine(args.model or default_model()) as engine:
        for name, mail in mails:
            messages = [{"role": "user", "content": f"{plain_text(mail)}\n\n{instruction}"}]
            answer = engine.chat(messages, sampling=sampling).run()
            print(json.dumps({"file": name, **json.loads(answer.text)}, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
