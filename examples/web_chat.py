"""A chat in the browser, with nothing but the standard library around the engine.

The page is one string, and an answer is plain text that arrives in pieces.

    python examples/web_chat.py -m model.gguf
"""

import argparse
import json
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from pass_edge import Engine, PassEdgeError, Settings, default_model

PAGE = b"""<!doctype html><meta charset="utf-8"><title>Chat</title>
<style>body { max-width: 40em; margin: 2em auto; font: 1em/1.5 sans-serif } p { white-space: pre-wrap }
.user { font-weight: bold } input { width: 100% }</style>
<main></main><form><input autofocus placeholder="Ask something"></form>
<script>
const messages = [], input = document.querySelector("input");
function show(role, content) {
  const message = { role, content };
  const paragraph = Object.assign(document.createElement("p"), { className: role, textContent: content });
  messages.push(message), document.querySelector("main").append(paragraph);
  return (text) => { message.content += text; paragraph.append(text) };
}
document.querySelector("form").onsubmit = async (event) => {
  event.preventDefault();
  show("user", input.value), event.target.reset();
  const headers = { "Content-Type": "application/json" }, body = JSON.stringify(messages);
  const response = await fetch("/chat", { method: "POST", headers, body }), add = show("assistant", "");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part; !(part = await reader.read()).done;) add(part.value);
};
</script>"""


class Handler(BaseHTTPRequestHandler):
    engine: Engine

    def do_GET(self) -> None:
        self.reply(200, "text/html", PAGE)

    def do_POST(self) -> None:
        """Answer a conversation with plain text, as it is generated."""
        try:
            if self.headers.get_content_type() != "application/json":  # which other sites cannot send
                raise ValueError("the messages must come as application/json")
            length = min(int(self.headers["Content-Length"] or 0), 1 << 20)
            answer = self.engine.chat(json.loads(self.rfile.read(length)), max_tokens=512)
        except (PassEdgeError, ValueError, TypeError, KeyError) as error:
            self.reply(400, "text/plain", str(error).encode())
            return
        with suppress(ConnectionError):  # a reader that leaves ends the answer
            self.reply(200, "text/plain", b"")
            for text in answer:
                self.wfile.write(text.encode())

    def reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    parser = argparse.ArgumentParser(description="Chat in the browser.")
    parser.add_argument("-m", "--model", help="a model that writes text (default: SmolLM2-135M)")
    parser.add_argument("-p", "--port", type=int, default=8000, help="(default: 8000)")
    args = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    with Engine(args.model or default_model(), settings=Settings(parallel=2)) as Handler.engine:
        print(f"Chat at http://127.0.0.1:{server.server_port}; Ctrl-C ends it", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
