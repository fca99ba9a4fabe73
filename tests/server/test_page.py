"""The page to chat in, in a real browser: answers stream, drafts are shaded, no text becomes HTML."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pass_edge import Engine
from pass_edge.generation import Generation, Piece
from tests.support.browser import browser
from tests.support.http_requests import get, post, slow
from tests.support.serving import Running, serving

KEY = "open sesame"
TEXT = (
    "# Rivers\n\nThe **Rhine** and `code`:\n\n- one\n- two\n\n```html\n<b>x</b>\n```\n"
    "<img src=x onerror=alert(1)> [bad](javascript:alert(1)) [good](https://example.org/a)"
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    yield from browser(tmp_path_factory.mktemp("profile"))


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make every answer this text: half of each word was drafted."""

    def set_text(text: str) -> None:
        def pieces(self: Generation) -> Iterator[Piece]:
            for word in text.split(" "):
                piece = Piece(word[: len(word) // 2], word[len(word) // 2 :] + " ")
                self.text += piece.text
                yield piece
            self.finish_reason = "stop"

        monkeypatch.setattr(Generation, "pieces", pieces)

    return set_text


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return found


class Page:
    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        driver.get(url)
        self.run("localStorage.clear()")
        driver.get(url)
        driver.get_log("browser")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def count(self, selector: str) -> int:
        return len(self.driver.find_elements("css selector", selector))

    def ask(self, text: str) -> None:
        self.find("#question").send_keys(text + "\n")

    def wait_until_answered(self) -> None:
        wait_for(lambda: self.find("#log").get_attribute("aria-busy") == "false")

    def model_is_known(self) -> bool:
        return bool(self.find("#model-name").text)


def test_an_answer_is_shown_as_markdown_with_its_drafts_and_nothing_of_it_as_html(
    chromium: Any, server: Running, says: Callable[[str], None]
) -> None:
    says(TEXT)
    page = Page(chromium, server.url)
    wait_for(page.model_is_known)
    assert page.find("#model-name").text == "tiny"
    page.ask("Which rivers?")
    page.wait_until_answered()
    answer = page.find(".answer").text
    assert page.find(".user").text == "Which rivers?"
    assert page.find(".answer h2").text == "Rivers"
    assert page.find(".answer strong").text == "Rhine"
    assert page.count(".answer li") == 2
    assert page.find(".code code").text == "<b>x</b>"
    assert "<img src=x onerror=alert(1)>" in answer
    assert page.count(".answer img") == 0
    assert [
        each.get_attribute("href") for each in page.driver.find_elements("css selector", ".answer a")
    ] == ["https://example.org/a"]
    assert "tokens/s" in page.find(".figures").text
    drafted = page.run("return [...document.querySelectorAll('.drafted')].map(each => each.textContent)")
    assert drafted[:2] == ["River", "Rh"]
    page.find("#open-settings").click()
    page.find("[name=drafts]").click()
    page.run("document.querySelector('#settings').close()")
    page.ask("Again?")
    page.wait_until_answered()
    assert page.count(".message:last-of-type .drafted") == 0
    assert [line for line in page.driver.get_log("browser") if line["level"] == "SEVERE"] == []


def test_thinking_is_folded(chromium: Any, server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def chunks(self: Any, index: int, generation: Any, text: str, n_sent: int) -> list[Any]:
        return [
            self._chunk(index, {"reasoning_content": "well …"}, None),
            self._chunk(index, {"content": "Yes"}, None),
        ]

    monkeypatch.setattr("pass_edge.openai.formatters.ChatFormatter.text_chunks", chunks)
    page = Page(chromium, server.url)
    page.run("document.querySelector('[name=max_tokens]').value = 1")
    page.ask("Is it?")
    page.wait_until_answered()
    assert page.find(".thinking").get_attribute("open") is None
    assert not page.find(".thinking div").is_displayed()
    page.find(".thinking summary").click()
    assert page.find(".thinking div").text == "well …"
    assert page.find(".answer > div").text == "Yes"


@pytest.mark.parametrize("how", ["button", "escape", "new"])
def test_an_answer_can_be_stopped(
    chromium: Any, server: Running, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow(monkeypatch, 0.02)
    page = Page(chromium, server.url)
    page.run("document.querySelector('[name=seed]').value = 3")
    page.ask("the yes")
    wait_for(lambda: server.queue.active)
    wait_for(lambda: page.count(".answer .figures"))
    if how == "escape":
        page.find("#question").send_keys("\ue00c")
    else:
        page.find("#stop" if how == "button" else "#new").click()
    page.wait_until_answered()
    server.wait_until_idle()
    assert page.find("#send").is_displayed()
    if how == "new":
        assert page.count(".message") == 0


def test_settings_are_sent_and_kept(chromium: Any, server: Running, says: Callable[[str], None]) -> None:
    says("yes")
    page = Page(chromium, server.url)
    wait_for(page.model_is_known)
    page.find("#open-settings").click()
    for name, value in (("system", "Be brief."), ("temperature", "0.5"), ("seed", "7"), ("max_tokens", "9")):
        page.find(f"[name={name}]").send_keys(value)
    assert not page.find("#model-label").is_displayed()  # there is only one
    page.find("#settings button").click()
    page.driver.refresh()
    body = json.loads(
        page.run("messages.push({role: 'user', content: 'x'}); return JSON.stringify(requestBody())")
    )
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.5, 7, 9)
    assert [message["content"] for message in body["messages"]] == ["Be brief.", "x"]
    assert post(server, "/v1/chat/completions", {**body, "stream": False})[0] == 200


def test_an_error_gives_the_question_back(chromium: Any, server: Running) -> None:
    page = Page(chromium, server.url)
    page.run("document.querySelector('[name=temperature]').value = -1")
    page.ask("Why?")
    wait_for(lambda: page.count("[role=alert]"))
    assert "temperature" in page.find("[role=alert]").text
    assert page.find("#question").get_attribute("value") == "Why?"
    assert page.count(".message") == 0


def test_shift_enter_starts_a_line(chromium: Any, server: Running) -> None:
    page = Page(chromium, server.url)
    page.find("#question").send_keys("a", "\ue008\n\ue000", "b")
    assert page.find("#question").get_attribute("value") == "a\nb"


def test_the_page_asks_for_the_key(chromium: Any, engine: Engine) -> None:
    with serving(engine, name="tiny", api_key=KEY) as server:
        assert get(server, "/v1/models")[0] == 401
        page = Page(chromium, server.url)
        wait_for(lambda: page.find("#settings").is_displayed())
        page.find("[name=key]").send_keys(KEY)
        page.find("#settings button.main").click()
        wait_for(page.model_is_known)


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(
    chromium: Any, server: Running, says: Callable[[str], None], width: int
) -> None:
    says("```\n" + "long" * 100 + "\n```\n" + "word" * 100)
    chromium.set_window_size(width, 700)
    page = Page(chromium, server.url)
    page.ask("Which?")
    page.wait_until_answered()
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.run("const log = document.querySelector('#log'); return log.scrollWidth <= log.clientWidth")


def test_the_page_is_closed_in_and_can_be_turned_off(engine: Engine, server: Running) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("GET", "/")
    response = connection.getresponse()
    policy = response.headers["Content-Security-Policy"]
    connection.close()
    assert response.status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    with serving(engine, page=False) as plain:
        assert get(plain, "/")[0] == 404


@pytest.mark.parametrize(
    ("path", "body", "texts"),
    [
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}]},
            ("choices", 0, "delta", "content"),
        ),
        ("/v1/completions", {"prompt": "x"}, ("choices", 0, "text")),
        ("/completion", {"prompt": "x"}, ("content",)),
        ("/v1/responses", {"input": "x"}, ("delta",)),
    ],
)
def test_streams_mark_drafted_text(
    server: Running, says: Callable[[str], None], path: str, body: dict[str, Any], texts: tuple[Any, ...]
) -> None:
    says("abcd efgh")

    def parts(**more: Any) -> list[tuple[str, bool]]:
        found = []
        for chunk in stream(server, path, {**body, "stream": True, **more}):
            if chunk.get("type", texts[-1]) not in (texts[-1], "response.output_text.delta"):
                continue
            value: Any = chunk
            for step in texts:
                value = value.get(step) if isinstance(value, dict) else value[step] if value else None
            if value:
                found.append((value, chunk.get("drafted", False)))
        return found

    assert parts(mark_drafts=True) == [("ab", True), ("cd ", False), ("ef", True), ("gh ", False)]
    assert parts() == [("abcd ", False), ("efgh ", False)]


def stream(server: Running, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))
    connection.close()
