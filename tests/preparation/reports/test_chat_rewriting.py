from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from xraygpt.common.errors import ConfigError, DataError
from xraygpt.preparation.reports.chat_rewriting import (
    INSTRUCTION,
    ChatRewriter,
    RefusedAnswerError,
    RewritingConfig,
    RewritingError,
)

KEY = "secret-of-the-test"


def answer(content: str | None, reason: str = "stop") -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": content}, "finish_reason": reason}]}


class Server(HTTPServer):
    """A chat model that answers what it was told to, and repeats its last answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str], Any]] = [(200, {}, answer("A summary."))]
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        answers = self.server.answers
        status, headers, content = answers.pop(0) if len(answers) > 1 else answers[0]
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def rewriter(server: Server, folder: Path, clock: Clock | None = None, **options: Any) -> ChatRewriter:
    clock = clock or Clock()
    config = RewritingConfig(
        **{"base_url": server.url, "model": "tiny", "requests_per_minute": 6e9, **options}
    )
    return ChatRewriter(config, folder / "cache.jsonl", sleep=clock.sleep, clock=lambda: clock.now)


def test_request_and_answer(server: Server, tmp_path: Path) -> None:
    server.answers = [(200, {}, answer(" Clear\n lungs. "))]
    assert rewriter(server, tmp_path).rewrite("Findings: clear.") == "Clear lungs."
    ((path, authorization, body),) = server.requests
    assert (path, authorization) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert body["model"] == "tiny"
    assert [message["content"] for message in body["messages"]] == [INSTRUCTION, "Findings: clear."]


def test_nothing_is_sent_twice(server: Server, tmp_path: Path) -> None:
    first = rewriter(server, tmp_path)
    assert first.rewrite("a") == first.rewrite("a") == "A summary."
    assert rewriter(server, tmp_path).rewrite("a") == "A summary."
    assert len(server.requests) == 1
    for changed in (
        rewriter(server, tmp_path, model="other"),
        rewriter(server, tmp_path, instruction="Be brief."),
    ):
        changed.rewrite("a")
    assert len(server.requests) == 3
    assert KEY not in (tmp_path / "cache.jsonl").read_text()


def test_cut_off_last_line_of_the_cache_is_sent_again(server: Server, tmp_path: Path) -> None:
    first = rewriter(server, tmp_path)
    first.rewrite("a")
    first.rewrite("b")
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes(cache.read_bytes()[:-20])
    second = rewriter(server, tmp_path)
    second.rewrite("a")
    second.rewrite("b")
    assert len(server.requests) == 3


def test_lines_after_a_cut_off_one_are_read(server: Server, tmp_path: Path) -> None:
    cache = tmp_path / "cache.jsonl"
    cache.write_text('{"key": "x", "ans')
    rewriter(server, tmp_path).rewrite("a")
    assert cache.read_text().count("\n") == 1
    rewriter(server, tmp_path).rewrite("a")
    assert len(server.requests) == 1


def test_foreign_cache_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache.jsonl").write_text('{"annotations": []}\n{"key": "k", "answer": "a"}\n')
    with pytest.raises(DataError, match=r"cache\.jsonl, line 1"):
        rewriter(server, tmp_path)


def test_plan_sends_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = rewriter(server, tmp_path)
    done.rewrite("in the cache")
    monkeypatch.delenv("OPENAI_API_KEY")
    planner = rewriter(server, tmp_path, requests_per_minute=4)
    plan = planner.plan(["in the cache", "three new words", "three new words", "two more"])
    assert len(server.requests) == 1
    assert "2 reports would be sent" in plan
    assert "2 of 4 are in the cache or repeated" in plan
    assert "about 5 words" in plan
    assert "at least 0.5 minutes" in plan
    assert '"three new words"' in plan
    assert "two more" not in plan
    assert planner.plan(["in the cache"]).startswith("0 reports would be sent")


def test_rate(server: Server, tmp_path: Path) -> None:
    clock = Clock()
    slow = rewriter(server, tmp_path, clock, requests_per_minute=30)
    for text in ("a", "b", "b", "c"):
        slow.rewrite(text)
    assert clock.pauses == [2, 2]


def test_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    clock = Clock()
    server.answers = [
        (429, {"Retry-After": "7"}, {}),
        (429, {"Retry-After": "99999"}, {}),
        (503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, {}),
        (500, {}, {}),
        (200, {}, answer("At last.")),
    ]
    assert rewriter(server, tmp_path, clock).rewrite("a") == "At last."
    assert [pause for pause in clock.pauses if pause >= 1] == [7, 300, 4, 8]


def test_retries_are_bounded(server: Server, tmp_path: Path) -> None:
    server.answers = [(500, {}, {})]
    with pytest.raises(RewritingError, match=r"no answer in 3 tries \(the last: status 500\)"):
        rewriter(server, tmp_path, retries=2).rewrite("a")
    assert len(server.requests) == 3


def test_no_server(server: Server, tmp_path: Path) -> None:
    away = rewriter(server, tmp_path, base_url="http://127.0.0.1:9/v1", retries=1)
    with pytest.raises(RewritingError, match="no answer in 2 tries .*is the server running"):
        away.rewrite("a")


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "the key is refused"), (403, "the key is refused"), (404, "base_url usually ends in /v1")],
)
def test_server_that_refuses(server: Server, tmp_path: Path, status: int, message: str) -> None:
    server.answers = [(status, {}, {"error": "no"})]
    with pytest.raises(RewritingError, match=message) as caught:
        rewriter(server, tmp_path).rewrite("a")
    assert KEY not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (400, {"error": "too long"}, "status 400: .*too long"),
        (200, b"<html>Welcome</html>", "choices are missing: <html>"),
        (200, {"choices": []}, "choices are missing"),
        (200, ["choices"], "choices are missing"),
        (200, answer("The heart", "length"), "cut off; raise max_tokens"),
        (200, answer(" "), "the answer is empty"),
        (200, answer(None, "content_filter"), "the answer is empty .*content_filter"),
    ],
)
def test_answer_that_cannot_be_used(
    server: Server, tmp_path: Path, status: int, content: object, message: str
) -> None:
    fine = (200, {}, answer("Fine."))
    server.answers = [(status, {}, content), fine, (status, {}, content), fine]
    chat = rewriter(server, tmp_path)
    # A server that has never answered well is the wrong one; later it is this text's fault.
    with pytest.raises(RewritingError, match=message):
        chat.rewrite("a")
    assert chat.rewrite("a") == "Fine."
    with pytest.raises(RefusedAnswerError, match=message):
        chat.rewrite("b")
    assert chat.rewrite("b") == "Fine."


def test_key_and_model_are_needed(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RewritingError, match="no model"):
        rewriter(server, tmp_path, model="").rewrite("a")
    with pytest.raises(RewritingError, match="environment variable OTHER_KEY"):
        rewriter(server, tmp_path, key_variable="OTHER_KEY").rewrite("a")
    monkeypatch.setenv("OTHER_KEY", "naïve\n2")
    with pytest.raises(RewritingError, match="unusual characters") as caught:
        rewriter(server, tmp_path, key_variable="OTHER_KEY").rewrite("a")
    assert "naïve" not in str(caught.value)
    assert not server.requests
    assert rewriter(server, tmp_path, key_variable="").rewrite("a") == "A summary."
    assert server.requests[0][1] is None


def test_configuration_is_checked() -> None:
    with pytest.raises(ConfigError) as caught:
        RewritingConfig(
            base_url="api.example.org/v1", max_tokens=0, requests_per_minute=0, timeout=0, retries=-1
        )
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "base_url",
        "max_tokens",
        "requests_per_minute",
        "timeout",
        "retries",
    ]
