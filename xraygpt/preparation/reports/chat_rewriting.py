"""Let a chat model rewrite reports: the optional step that the reference did by a commercial service.

Any server with OpenAI's ``POST /chat/completions`` will do. **A report leaves this machine if the server is
another one.** MIMIC-CXR's licence and PhysioNet's policy on responsible use do not allow its text to be sent
to third parties: use a server of your own for it. Nothing is sent before `ChatRewriter.rewrite` is called;
`ChatRewriter.plan` says what would be.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from xraygpt.common.errors import ConfigError, DataError, XrayGPTError
from xraygpt.common.run_record import writing

INSTRUCTION = (
    "You are given the findings and the impression of a chest radiograph's report. Join them into one "
    "summary in plain sentences, without headers and numbering. State every finding with its side, size and "
    "certainty as given, and add none. Leave out comparisons with earlier examinations, marks of removed "
    "text such as XXXX or ___, dates, names, and which views were taken. Answer with the summary alone."
)
TOKENS_PER_WORD = 1.4
"""For the estimate of a plan only; radiology's words are long."""
RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
LONGEST_WAIT = 300.0
"""Seconds that a server's ``Retry-After`` may ask for."""
EXCERPT = 120
"""Characters of an unusable answer in a message."""


class RewritingError(XrayGPTError):
    """The server cannot be used at all: address, key or model are wrong, or it does not answer."""


class RefusedAnswerError(DataError):
    """The server's answer to one report cannot be used; the next report may well do."""


@dataclass
class RewritingConfig:
    """Which server rewrites reports, and how."""

    base_url: str = "http://127.0.0.1:8000/v1"
    """Address up to, not including, ``/chat/completions``."""
    model: str = ""
    """The server's name of the model."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is neither stored nor logged. "" for none."""
    instruction: str = INSTRUCTION
    """The system prompt."""
    max_tokens: int = 512
    """Longest answer; one that reaches it is refused."""
    requests_per_minute: float = 60.0
    """Upper bound for the rate of requests, repeated ones included."""
    timeout: float = 60.0
    """Seconds to wait for an answer."""
    retries: int = 4
    """How often a request is repeated when the server is busy, fails or does not answer in time."""

    def __post_init__(self) -> None:
        address = urlsplit(self.base_url)
        is_web = address.scheme in ("http", "https") and address.hostname
        rules = (
            (is_web, "base_url: has to begin with http:// or https:// and name a host"),
            (self.max_tokens >= 1, "max_tokens: has to be 1 or more"),
            (self.requests_per_minute > 0, "requests_per_minute: has to be more than 0"),
            (self.timeout > 0, "timeout: has to be more than 0"),
            (self.retries >= 0, "retries: has to be 0 or more"),
        )
        if problems := [text for holds, text in rules if not holds]:
            raise ConfigError(problems)


class ChatRewriter:
    """Sends one report after the other, and never the same twice.

    Args:
        cache: JSONL file of the answers so far; a later run resumes from it.
        sleep, clock: of the rate limit, in seconds; for tests.

    Raises:
        DataError: the cache holds something else.
    """

    def __init__(
        self,
        config: RewritingConfig,
        cache: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self._cache = cache
        self._answers = _read_answers(cache)
        self._address = f"{config.base_url.rstrip('/')}/chat/completions"
        self._sleep = sleep
        self._clock = clock
        self._next_request = -math.inf

    def plan(self, texts: Sequence[str]) -> str:
        """Say what `rewrite` would send for these texts; touches no network."""
        missing = [text for text in dict.fromkeys(texts) if self._key(text) not in self._answers]
        words = sum(len(text.split()) for text in missing)
        instruction = len(self.config.instruction.split()) * len(missing)
        lines = [
            f"{len(missing)} reports would be sent to {self._address} (model '{self.config.model}'); "
            f"{len(texts) - len(missing)} of {len(texts)} are in the cache or repeated",
            f"about {words} words of reports, {round((words + instruction) * TOKENS_PER_WORD)} tokens with "
            f"the instruction, at least {len(missing) / self.config.requests_per_minute:.1f} minutes",
        ]
        if missing:
            request = json.dumps(self._request(missing[0]), indent=1, ensure_ascii=False)
            lines += ["the first request:", request]
        return "\n".join(lines)

    def rewrite(self, text: str) -> str:
        """Return the summary of a report, from the cache or the server.

        Raises:
            RewritingError: no use in continuing: no key, wrong address, key or model refused, server away, or
                the very first answer cannot be used.
            RefusedAnswerError: the answer to this text is empty, cut off, or no answer of a chat model.
        """
        key = self._key(text)
        if key not in self._answers:
            answer = self._ask(text)
            line = json.dumps({"key": key, "answer": answer}, ensure_ascii=False) + "\n"
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            with writing(self._cache), self._cache.open("ab") as file:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            self._answers[key] = answer
        return self._answers[key]

    def _key(self, text: str) -> str:
        parts = [self.config.model, self.config.instruction, text]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _request(self, text: str) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "messages": [
                {"role": "system", "content": self.config.instruction},
                {"role": "user", "content": text},
            ],
            "temperature": 0,
            "max_tokens": self.config.max_tokens,
        }

    def _headers(self) -> dict[str, str]:
        variable = self.config.key_variable
        if not variable:
            return {}
        key = os.environ.get(variable, "").strip()
        if not key:
            raise RewritingError(
                f'no key: set the environment variable {variable}, or key_variable to "" for a server without'
            )
        if not key.isascii() or not key.isprintable():
            raise RewritingError(
                f"the environment variable {variable} holds no key: it has unusual characters"
            )
        return {"Authorization": f"Bearer {key}"}

    def _ask(self, text: str) -> str:
        response = self._send(self._request(text))
        status = response.status_code
        if status in (401, 403):
            raise RewritingError(
                f"{self._address}: the key is refused (status {status}); look at the environment variable "
                f"{self.config.key_variable or '(none is set: key_variable)'}"
            )
        if status == 404:
            raise RewritingError(
                f"{self._address}: not found (404); base_url usually ends in /v1, and the server has to "
                f"know the model '{self.config.model}'"
            )
        answer, problem = _content_of(response)
        if problem and not self._answers:
            raise RewritingError(f"no answer so far can be used: {self._address}: {problem}")
        if problem:
            raise RefusedAnswerError(f"{self._address}: {problem}")
        return answer

    def _send(self, request: Mapping[str, Any]) -> httpx.Response:
        """Send until there is an answer that is not worth another try."""
        if not self.config.model:
            raise RewritingError("no model: set its name, `model`, as the server calls it")
        headers, problem = self._headers(), ""
        for attempt in range(self.config.retries + 1):
            self._wait_for_turn()
            pause = 2.0**attempt
            try:
                response = httpx.post(
                    self._address, json=request, headers=headers, timeout=self.config.timeout
                )
                if response.status_code not in RETRIED:
                    return response
                problem, pause = f"status {response.status_code}", _asked_pause(response, pause)
            except (httpx.TransportError, httpx.InvalidURL) as error:
                problem = f"{type(error).__name__}: {error}".rstrip(": ")
            if attempt < self.config.retries:
                self._sleep(pause)
        raise RewritingError(
            f"{self._address}: no answer in {self.config.retries + 1} tries (the last: {problem}); "
            f"is the server running, and is base_url right? A later run goes on from the cache"
        )

    def _wait_for_turn(self) -> None:
        wait = self._next_request - self._clock()
        if wait > 0:
            self._sleep(wait)
        self._next_request = max(self._clock(), self._next_request) + 60 / self.config.requests_per_minute


def _read_answers(path: Path) -> dict[str, str]:
    """Return the answers in a cache, after cutting off a line that an earlier run has not finished."""
    content = path.read_bytes() if path.is_file() else b""
    whole = content[: content.rfind(b"\n") + 1]
    answers: dict[str, str] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry = json.loads(line)
            answers[str(entry["key"])] = str(entry["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a line of this cache; delete it") from error
    if whole != content:
        with writing(path):
            os.truncate(path, len(whole))
    return answers


def _asked_pause(response: httpx.Response, default: float) -> float:
    """Return the seconds of ``Retry-After``; a date there is as good as nothing."""
    try:
        asked = float(response.headers["Retry-After"])
    except (KeyError, ValueError):
        return default
    return min(max(asked, 0.0), LONGEST_WAIT) if math.isfinite(asked) else default


def _content_of(response: httpx.Response) -> tuple[str, str]:
    """Return what a chat model has answered, and what is wrong with it."""
    excerpt = " ".join(response.text.split())
    excerpt = excerpt if len(excerpt) <= EXCERPT else f"{excerpt[:EXCERPT]} ..."
    if not response.is_success:
        return "", f"status {response.status_code}: {excerpt}"
    try:
        choice = response.json()["choices"][0]
        content, reason = choice["message"]["content"], choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return "", f"not the answer of a chat model, choices are missing: {excerpt}"
    if reason == "length":
        return "", "the answer is cut off; raise max_tokens"
    if not isinstance(content, str) or not content.strip():
        return "", f"the answer is empty (finish_reason: {reason})"
    return " ".join(content.split()), ""
