"""The server by plain HTTP: protocols, refusals, limits, and what happens when clients leave."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qwen35cpp import InvalidArgument, Llama

pytest.importorskip("starlette", reason="needs the extra [server]")
httpx = pytest.importorskip("httpx2")

from qwen35cpp.server import Settings, serving  # noqa: E402
from serving import ASK, TOOL, busy, data_url, endless, events, until  # noqa: E402

CHAT = "/v1/chat/completions"
SHORT: dict[str, Any] = {"messages": ASK, "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    with Llama.tiny(n_ctx=4096, n_threads=1, n_parallel=2, prefix_cache=False) as llama:
        yield llama


@pytest.fixture(scope="module")
def url(llama: Llama) -> Iterator[str]:
    with serving(llama, Settings(port=0, parallel=2, queue=2, grace=1)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client


def joined(chunks: list[Any], key: str = "content") -> str:
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get(key) or "" for delta in deltas)


# ---- protocols ----------------------------------------------------------------------------------


def test_a_chat_is_what_the_library_answers(client: Any, llama: Llama) -> None:
    answer = client.post(CHAT, json=SHORT).json()
    expected = llama.create_chat_completion(ASK, max_tokens=12, temperature=0)
    assert answer["choices"] == expected["choices"]
    assert answer["usage"] == expected["usage"]
    assert answer["timings"]["predicted_n"] == 12
    assert answer["model"] == "qwen35-tiny-q8_0"
    with client.stream("POST", CHAT, json={**SHORT, "stream": True}) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = list(response.iter_lines())
    chunks = list(events(iter(lines)))
    assert joined(chunks) == expected.choices[0].message.content
    assert [line for line in lines if line][-1] == "data: [DONE]"
    assert all("usage" not in chunk for chunk in chunks)


def test_a_stream_reports_usage_and_progress_when_asked(client: Any) -> None:
    long = [{"role": "user", "content": "A dog sat on a mat. " * 120}]
    asked = {"stream_options": {"include_usage": True}, "return_progress": True}
    body = {"messages": long, "max_tokens": 2, "stream": True, **asked}
    with client.stream("POST", CHAT, json=body) as response:
        chunks = list(events(response.iter_lines()))
    usage = chunks[-1]["usage"]
    assert chunks[-1]["choices"] == []
    assert usage["total_tokens"] == usage["prompt_tokens"] + 2
    reports = [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]
    assert reports[-1]["processed"] == reports[-1]["total"] == usage["prompt_tokens"]


def test_thoughts_logprobs_and_several_answers(client: Any, llama: Llama) -> None:
    body = {**SHORT, **endless(llama), "temperature": 1, "thinking_budget": 5, "max_tokens": 20}
    body.update(n=2, logprobs=True, top_logprobs=2)
    choices = client.post(CHAT, json=body).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert all(choice["message"]["reasoning_content"] for choice in choices)
    assert all(len(e["top_logprobs"]) == 2 for e in choices[0]["logprobs"]["content"])
    with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
        chunks = list(events(response.iter_lines()))
    for index in (0, 1):
        own = [chunk for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert joined(own) == choices[index]["message"]["content"]
        assert joined(own, "reasoning_content") == choices[index]["message"]["reasoning_content"]


def test_completions_of_several_prompts(client: Any, llama: Llama) -> None:
    tokens = llama.tokenize("One day")
    body = {"prompt": ["Once there was", tokens], "max_tokens": 5, "temperature": 0}
    answer = client.post("/v1/completions", json=body).json()
    expected = [llama.generate(p, max_tokens=5, temperature=0) for p in ("Once there was", tokens)]
    assert [choice["text"] for choice in answer["choices"]] == expected
    assert answer["usage"]["completion_tokens"] == 10
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with client.stream("POST", "/v1/completions", json=streamed) as response:
        chunks = list(events(response.iter_lines()))
    for index in (0, 1):
        own = [
            c["choices"][0] for c in chunks if c["choices"] and c["choices"][0]["index"] == index
        ]
        assert "".join(choice["text"] for choice in own) == expected[index]
        assert own[-1]["finish_reason"] == "length"
    assert chunks[-1]["usage"] == answer["usage"]


LONG = "Mia has a red lamp. " * 160
# Where each protocol has the figures of an answer, and requests for one with a given prompt.
PROTOCOLS: dict[str, tuple[str, Any]] = {
    "completions": ("/v1/completions", lambda text, n: {"prompt": text, "max_tokens": n}),
    "responses": ("/v1/responses", lambda text, n: {"input": text, "max_output_tokens": n}),
    "messages": (
        "/v1/messages",
        lambda text, n: {"messages": [{"role": "user", "content": text}], "max_tokens": n},
    ),
}


def figures_of(protocol: str, value: Any) -> tuple[int, int, Any]:
    """Tokens read before, tokens written and timings of a whole answer."""
    usage = value["usage"]
    if protocol == "completions":
        cached, written = usage["prompt_tokens_details"]["cached_tokens"], "completion_tokens"
    elif protocol == "responses":
        cached, written = usage["input_tokens_details"]["cached_tokens"], "output_tokens"
    else:
        cached, written = usage["cache_read_input_tokens"], "output_tokens"
    return cached, usage[written], value["timings"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_tells_timings_cached_tokens_and_progress(protocol: str) -> None:
    path, body = PROTOCOLS[protocol]
    with (
        Llama.tiny(n_ctx=4096, n_threads=1) as llama,
        serving(llama, Settings(port=0, grace=1)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        request = {**body(LONG, 4), "temperature": 0}
        cached, written, timings = figures_of(protocol, client.post(path, json=request).json())
        assert (cached, written, timings["predicted_n"]) == (0, 4, 4)
        assert timings["prompt_n"] > 400
        assert timings["prompt_ms"] > 0
        # The same again, streamed: the prompt is known, and what tells of it comes in order.
        request.update(stream=True, return_progress=True)
        if protocol == "completions":
            request["stream_options"] = {"include_usage": True}
        longer = {**request, **body(LONG * 2, 4)}
        for asked, known in ((request, 400), (longer, 400)):
            with client.stream("POST", path, json=asked) as response:
                assert response.status_code == 200
                told = list(events(response.iter_lines()))
            last = [
                each for each in told if "timings" in each or "timings" in each.get("response", {})
            ]
            whole = last[-1].get("response", last[-1])
            cached, written, timings = figures_of(protocol, whole)
            assert cached > known
            assert written == timings["predicted_n"] == 4
            assert timings["predicted_ms"] > 0
        reports = [i for i, each in enumerate(told) if "prompt_progress" in each]
        texts = [i for i, each in enumerate(told) if each.get("choices") or "delta" in each]
        assert reports
        assert max(reports) < min(texts)
        progress = told[reports[-1]]["prompt_progress"]
        assert progress["processed"] == progress["total"] > 900
        numbers = [each["sequence_number"] for each in told if "sequence_number" in each]
        assert numbers == list(range(len(numbers)))
        metrics = client.get("/metrics").text
        assert int(re.findall(r"cached\S* (\d+)", metrics)[-1]) > 800


def test_completions_take_seeds_stops_and_logprobs(client: Any, llama: Llama) -> None:
    body = {"prompt": "Once there was a", "max_tokens": 12, "seed": 5, "temperature": 1, "n": 2}
    whole = client.post("/v1/completions", json={**body, "logprobs": 2}).json()["choices"]
    alone = [
        llama.create_completion(body["prompt"], max_tokens=12, seed=5 + i, temperature=1)
        for i in range(2)
    ]
    assert [each["text"] for each in whole] == [each.choices[0].text for each in alone]
    for each in whole:
        assert "".join(each["logprobs"]["tokens"]) == each["text"]
        assert all(len(best) >= 2 for best in each["logprobs"]["top_logprobs"])
    asked = {**body, "logprobs": 2, "stream": True}
    with client.stream("POST", "/v1/completions", json=asked) as response:
        chunks = [c["choices"][0] for c in events(response.iter_lines()) if c["choices"]]
    for i, each in enumerate(whole):
        mine = [c for c in chunks if c["index"] == i]
        assert "".join(c["text"] for c in mine) == each["text"]
        tokens = [x for c in mine for x in (c["logprobs"] or {"tokens": []})["tokens"]]
        assert tokens == each["logprobs"]["tokens"]
    stop = whole[0]["text"].split()[2]
    cut = client.post("/v1/completions", json={**body, "n": 1, "stop": [stop]}).json()["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert whole[0]["text"].startswith(cut["text"])
    assert stop not in cut["text"]


SCHEMA = {
    "type": "object",
    "properties": {"urgent": {"type": "boolean"}, "team": {"enum": ["bug", "sales"]}},
    "required": ["urgent", "team"],
    "additionalProperties": False,
}
ASKS = [{"role": "user", "content": "The app crashes."}]
BOUND: dict[str, dict[str, Any]] = {
    CHAT: {
        "messages": ASKS,
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    },
    "/v1/completions": {
        "prompt": "The app crashes. JSON: ",
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
    },
    "/v1/responses": {
        "input": "The app crashes.",
        "text": {"format": {"type": "json_schema", "name": "ticket", "schema": SCHEMA}},
    },
    "/v1/messages": {
        "messages": ASKS,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    },
}


def text_in(path: str, value: Any) -> str:
    """The text of a whole answer, or of an event of a stream."""
    if path in (CHAT, "/v1/completions"):
        choice = (value["choices"] or [{}])[0]
        message = choice.get("message") or choice.get("delta") or choice
        return message.get("content") or message.get("text") or ""
    if path == "/v1/responses":
        if "output" in value:
            return str(value["output"][-1]["content"][0]["text"])
        return str(value["delta"]) if value["type"].endswith("text.delta") else ""
    if "content" in value:
        return str(value["content"][-1]["text"])
    return str(value.get("delta", {}).get("text", ""))


@pytest.mark.parametrize("path", BOUND)
def test_schemas_hold_in_every_protocol(client: Any, path: str) -> None:
    pytest.importorskip("llguidance")
    limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
    body = {**BOUND[path], limit: 60, "temperature": 0}
    whole = text_in(path, client.post(path, json=body).json())
    found = json.loads(whole)
    assert isinstance(found["urgent"], bool)
    assert found["team"] in ("bug", "sales")
    with client.stream("POST", path, json={**body, "stream": True}) as response:
        assert "".join(text_in(path, each) for each in events(response.iter_lines())) == whole
    refused = json.loads(json.dumps(body).replace('"boolean"', '"nothing"'))
    answer = client.post(path, json=refused)
    assert answer.status_code == 400
    assert "urgent" in answer.json()["error"]["message"]


def test_responses_and_messages_take_seeds_stops_and_logprobs(client: Any) -> None:
    ask = "Tell me a story about a dog."
    chat = {"messages": ASK, "max_tokens": 20, "temperature": 1, "seed": 5}
    expected = client.post(CHAT, json={**chat, "logprobs": True, "top_logprobs": 2}).json()
    said = expected["choices"][0]["message"]["content"]
    for effort in ({"reasoning": {"effort": "none"}}, {}):  # off either way: the toy's default
        body = {"input": ask, "max_output_tokens": 20, "temperature": 1, "seed": 5, **effort}
        item = client.post("/v1/responses", json={**body, "top_logprobs": 2}).json()["output"][-1]
        part = item["content"][0]
        assert part["text"] == said
        assert part["logprobs"] == expected["choices"][0]["logprobs"]["content"]
    asked = {**body, "top_logprobs": 2, "stream": True}
    with client.stream("POST", "/v1/responses", json=asked) as response:
        told = [e for e in events(response.iter_lines()) if e["type"].endswith("text.delta")]
    assert [x for e in told for x in e["logprobs"]] == part["logprobs"]
    message = {"messages": ASK, "max_tokens": 20, "temperature": 1, "seed": 5}
    assert client.post("/v1/messages", json=message).json()["content"][0]["text"] == said
    stop = said.split()[2]
    cut = client.post("/v1/messages", json={**message, "stop_sequences": [stop]}).json()
    assert (cut["stop_reason"], cut["stop_sequence"]) == ("stop_sequence", stop)
    assert stop not in cut["content"][0]["text"]
    other = client.post("/v1/responses", json={**body, "stop": stop}).json()
    assert other["output"][-1]["content"][0]["text"] == cut["content"][0]["text"]
    # One answer is what these two protocols know.
    for path, whole in (("/v1/responses", body), ("/v1/messages", message)):
        refused = client.post(path, json={**whole, "n": 2})
        assert refused.status_code == 400
        assert "`n`" in refused.json()["error"]["message"]


def test_models_and_metrics(client: Any) -> None:
    model = client.get("/v1/models").json()["data"][0]
    assert client.get(f"/v1/models/{model['id']}").json() == model
    assert model["meta"]["n_ctx"] == 4096
    missing = client.get("/v1/models/gpt-9")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")

    def counted(name: str) -> float:
        text = client.get("/metrics").text
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    made = counted("qwen35cpp_completion_tokens_total")
    answered = counted(f'qwen35cpp_responses_total{{path="{CHAT}",status="200"}}')
    client.post(CHAT, json={**SHORT, "max_tokens": 3})
    assert counted("qwen35cpp_completion_tokens_total") == made + 3
    assert counted(f'qwen35cpp_responses_total{{path="{CHAT}",status="200"}}') == answered + 1


def test_decisions_are_those_of_the_library(client: Any, llama: Llama) -> None:
    fields = {"team": ["billing", "bug"], "urgent": "bool", "anger": {"range": [0, 3]}}
    texts = ["I paid twice.", "The app crashes!"]
    answer = client.post("/v1/decisions", json={"input": texts, "fields": fields}).json()
    for item, text in zip(answer["data"], texts, strict=True):
        expected = llama.decide(text, team=["billing", "bug"], urgent=bool, anger=range(3))
        assert item["values"] == {
            "team": expected.team, "urgent": expected.urgent, "anger": expected.anger
        }  # fmt: skip
        assert item["probabilities"]["team"] == expected.probabilities["team"]
        assert set(item["probabilities"]["urgent"]) == {"true", "false"}
        assert item["confidence"]["urgent"] == expected.confidence["urgent"]
    messages = [{"role": "user", "content": texts[0]}]
    one = client.post("/v1/decisions", json={"messages": messages, "fields": fields}).json()
    assert one["data"][0]["values"] == answer["data"][0]["values"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"fields": {"a": ["x", "y"]}},
        {"input": "a", "messages": ASK, "fields": {"a": ["x", "y"]}},
        {"input": "a", "fields": {}},
        {"input": "a", "fields": {"a": "number"}},
        {"input": "a", "fields": {"a": ["x"]}},
        {"input": "a", "fields": {"a": {"range": [0, 100000]}}},
        {"input": [], "fields": {"a": ["x", "y"]}},
    ],
)
def test_wrong_decisions_are_refused(client: Any, wrong: dict[str, Any]) -> None:
    answer = client.post("/v1/decisions", json=wrong)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


# ---- refusals -----------------------------------------------------------------------------------

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def asks(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}], "max_tokens": 2}


def image(source: Any) -> dict[str, Any]:
    return asks({"type": "image_url", "image_url": source})


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "no messages"),
        (CHAT, {**SHORT, "max_tokenz": 3}, "max_tokenz"),
        (CHAT, {**SHORT, "temperature": "hot"}, "temperature"),
        (CHAT, {**SHORT, "temperature": -1}, "temperature"),
        (CHAT, {**SHORT, "n": 9}, "n must be"),
        (CHAT, {**SHORT, "top_logprobs": 2}, "logprobs"),
        (CHAT, {**SHORT, "stop": ["x"] * 17}, "stop"),
        (CHAT, {**SHORT, "tools": [TOOL] * 129}, "tools"),
        (CHAT, {**SHORT, "functions": [{}]}, "functions"),
        (CHAT, {**SHORT, "logit_bias": {"a": 1}}, "logit_bias"),
        (CHAT, {**SHORT, "logit_bias": {"99999999": 1}}, "token"),
        (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        (CHAT, {"messages": [{"role": "user", "content": "dog " * 9000}]}, "tokens"),
        (CHAT, {"messages": [{"role": "user", "content": "dog " * 500_000}]}, "longer than"),
        ("/v1/completions", {"prompt": "dog " * 500_000}, "longer than"),
        (CHAT, asks(*[IMAGE] * 17), "at most 16"),
        (CHAT, image({"url": "/etc/passwd"}), "data: URLs"),
        (CHAT, image({"url": "file:///etc/passwd"}), "data: URLs"),
        (CHAT, image("pyproject.toml"), "data: URLs"),
        (CHAT, image({"url": ["data:,"]}), "data: URLs"),
        (CHAT, asks({"type": "text", "text": "x", "image": "pyproject.toml"}), "data: URLs"),
        (CHAT, asks({"type": "video", "video": "clip.mp4"}), "videos"),
        (CHAT, image({"url": "data:image/png;base64,AAAA"}), "picture"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [-1]}, "prompt"),
        ("/v1/completions", {"prompt": [[99999999]]}, "token"),
        ("/v1/completions", {"prompt": "x", "best_of": 3}, "best_of"),
        ("/v1/embeddings", {"input": ["x"] * 2049}, "at most 2048"),
        ("/v1/embeddings", {"input": "x", "dimensions": 257}, "dimensions"),
        ("/v1/responses", {"input": "x", "previous_response_id": "a"}, "previous_response_id"),
        ("/v1/responses", {"input": [{"type": "item_reference"}]}, "item_reference"),
        ("/v1/responses", {"input": "x", "tools": [{"type": "web_search"}]}, "web_search"),
        ("/v1/messages", {"messages": ASK}, "max_tokens"),
        ("/v1/messages", {"messages": ASK, "max_tokens": 2, "thinking": {"type": "x"}}, "thinking"),
        (
            "/v1/messages",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "image", "source": {"type": "url", "url": "http://localhost"}}
                        ],
                    }
                ],
                "max_tokens": 2,
            },
            "base64",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    client: Any, path: str, body: Any, says: str
) -> None:
    response = client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    assert "0x" not in error["message"]
    if path == "/v1/messages":
        assert response.json()["type"] == "error"
    else:
        assert set(error) == {"message", "type", "param", "code"}


def test_pictures_are_never_fetched(client: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.2)
        port = canary.getsockname()[1]
        for address in (f"http://127.0.0.1:{port}/a.png", f"//127.0.0.1:{port}/a.png"):
            assert client.post(CHAT, json=image({"url": address})).status_code == 400
        with pytest.raises(TimeoutError):
            canary.accept()


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"messages": "\xed\xa0\x80"}', "application/json", 400),
        (b'{"messages":' + b"[" * 100_000, "application/json", 400),
        (b'{"temperature": NaN, "messages": []}', "application/json", 400),
        (b"{}", "text/plain", 415),
        (b" " * (33 << 20), "application/json", 413),
    ],
)
def test_odd_bodies(client: Any, content: bytes, kind: str, status: int) -> None:
    response = client.post(CHAT, content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_a_body_of_unknown_length_is_counted(client: Any) -> None:
    parts = (b" " * (1 << 20) for _ in range(40))
    response = client.post(CHAT, content=parts, headers={"content-type": "application/json"})
    assert response.status_code == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:80", "origin": "http://evil.example:80"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost:8035"}, 200),
        ({"host": "[::1]:8035"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "localhost:1", "origin": "http://localhost:1"}, 200),
        ({"host": "localhost:1", "origin": "http://localhost:2"}, 403),
    ],
)
def test_other_names_and_origins_are_refused(
    client: Any, headers: dict[str, str], status: int
) -> None:
    response = client.post(CHAT, json={**SHORT, "max_tokens": 1}, headers=headers)
    assert response.status_code == status
    assert not [name for name in response.headers if name.startswith("access-control")]


def test_keys_and_named_origins(llama: Llama) -> None:
    settings = Settings(port=0, api_keys=("k1", "k2"), cors_origins=("https://a.example",))
    with serving(llama, settings) as url, httpx.Client(base_url=url) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/").status_code == 200
        for headers in ({}, {"authorization": "Bearer k"}, {"authorization": "Basic k1"}):
            refused = client.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert client.post("/v1/messages", json={}).json()["error"]["type"] == (
            "authentication_error"
        )
        for headers in ({"authorization": "Bearer k2"}, {"x-api-key": "k1"}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        page = {"origin": "https://a.example", "x-api-key": "k1"}
        allowed = client.get("/v1/models", headers=page)
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        page["access-control-request-method"] = "POST"
        assert client.options(CHAT, headers=page).status_code == 200
        assert client.get("/v1/models", headers={**page, "origin": "https://b.example"}).is_error
    with pytest.raises(InvalidArgument, match="API key"):
        Settings(host="0.0.0.0")
    assert Settings(host="0.0.0.0", api_keys=("k",)).accepts_host("box.local:8035")
    assert "k1" not in repr(settings)


# ---- clients that leave, wait or are slow -------------------------------------------------------


def test_a_client_that_leaves_stops_its_answer(client: Any, url: str, llama: Llama) -> None:
    body = {"messages": ASK, **endless(llama), "stream": True}
    with client.stream("POST", CHAT, json=body) as response:
        lines = events(response.iter_lines())
        for _ in range(3):
            next(lines)
        assert busy(client) == (1, 0)
    until(lambda: busy(client) == (0, 0), 2)
    # One that reads no stream, and leaves while its prompt is read.
    long = [{"role": "user", "content": "A dog sat on a mat. " * 500}]
    del body["stream"]
    for messages in (ASK, long):
        with pytest.raises(httpx.TimeoutException):
            httpx.post(url + CHAT, json={**body, "messages": messages}, timeout=0.1)
        until(lambda: busy(client) == (0, 0), 2)


def test_more_requests_wait_and_then_are_told_to_come_back(
    client: Any, url: str, llama: Llama
) -> None:
    body = {"messages": ASK, **endless(llama), "stream": True}
    results: list[str] = []

    def ask() -> None:
        results.append(httpx.post(url + CHAT, json=SHORT, timeout=60).text)

    with client.stream("POST", CHAT, json=body), client.stream("POST", CHAT, json=body):
        with pytest.raises(httpx.TimeoutException):  # leaves the queue
            httpx.post(url + CHAT, json=SHORT, timeout=0.2)
        until(lambda: busy(client) == (2, 0), 2)
        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: busy(client) == (2, 2))
        refused = client.post(CHAT, json=SHORT)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "busy"
        assert not results
    for thread in threads:
        thread.join(30)
    assert len(results) == 2
    assert all('"finish_reason":"length"' in result for result in results)
    until(lambda: busy(client) == (0, 0), 2)


def test_a_request_has_its_time(llama: Llama) -> None:
    settings = Settings(port=0, timeout=0.3)
    body = {"messages": ASK, **endless(llama)}
    with serving(llama, settings) as url, httpx.Client(base_url=url, timeout=60) as client:
        late = client.post(CHAT, json=body)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        with client.stream("POST", CHAT, json={**body, "stream": True}) as response:
            chunks = list(events(response.iter_lines()))
        assert chunks[-1]["error"]["code"] == "timeout"
        assert joined(chunks[1:-1])


def test_long_conversations_lose_their_oldest_turns_when_it_is_switched_on() -> None:
    rules = {"role": "system", "content": "Be brief."}
    talk: list[Any] = [rules]
    for i in range(40):
        talk += [{"role": "user", "content": f"Question {i}? " * 9}]
        talk += [{"role": "assistant", "content": f"Answer {i}."}]
    talk += [{"role": "user", "content": "And the last one?"}]
    chat = {"messages": talk, "max_tokens": 2, "think": False, "temperature": 0}
    claude = {**chat, "system": rules["content"], "messages": talk[1:]}
    del claude["think"]
    with Llama.tiny(n_ctx=1024, n_threads=1) as llama:
        with serving(llama, Settings(port=0)) as url, httpx.Client(base_url=url) as client:
            answer = client.post("/v1/chat/completions", json=chat)
            assert answer.status_code == 400
            assert "context" in answer.json()["error"]["message"]
        asked = llama._chat().request(
            talk, {"overflow": "drop", "max_tokens": 2}, think=False, seed=0
        )
        assert asked.messages[0] == rules
        assert 2 < len(asked.messages) < len(talk)
        settings = Settings(port=0, overflow="drop")
        with serving(llama, settings) as url, httpx.Client(base_url=url) as client:
            for stream in (False, True):
                body = {**chat, "stream": stream, "stream_options": {"include_usage": True}}
                answer = client.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                last = [*events(iter(answer.text.splitlines()))][-1] if stream else answer.json()
                assert last["usage"]["prompt_tokens"] == len(asked.request.tokens)
            answer = client.post("/v1/messages", json=claude)
            assert answer.status_code == 200, answer.text
            assert answer.json()["usage"]["input_tokens"] <= 1024


def test_half_sent_requests_hold_nobody_up(client: Any, url: str) -> None:
    port = int(url.rsplit(":", 1)[1])
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    whole = head + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    slow = []
    try:
        for index in range(200):
            slow.append(socket.create_connection(("127.0.0.1", port)))
            slow[-1].sendall(head if index % 2 else whole)
        assert client.post(CHAT, json={**SHORT, "max_tokens": 1}).status_code == 200
        until(lambda: busy(client) == (0, 0), 2)
    finally:
        for connection in slow:
            connection.close()


def test_health_answers_while_the_model_works(client: Any, llama: Llama) -> None:
    body = {"messages": ASK, **endless(llama), "stream": True}
    with client.stream("POST", CHAT, json=body):
        for _ in range(20):
            assert busy(client)[0] == 1


def test_requests_that_come_together_read_their_system_prompt_once() -> None:
    words = random.Random(1).choices(["dog", "lamp", "Oslo", "rain"], k=1200)
    asked = [
        {
            "messages": [
                {"role": "system", "content": " ".join(words)},
                {"role": "user", "content": f"{i}. Who?"},
            ],
            "max_tokens": 1,
        }
        for i in range(16)
    ]
    with (
        Llama.tiny(n_ctx=4096) as llama,
        serving(llama, Settings(port=0)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        ThreadPoolExecutor(16) as pool,
    ):
        answers = list(pool.map(lambda body: client.post(CHAT, json=body).json(), asked))
    prompt = answers[0]["usage"]["prompt_tokens"]
    assert prompt > 1200
    assert sum(answer["timings"]["prompt_n"] for answer in answers) < prompt + 16 * 64


# ---- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_and_ends_with_a_signal(end: signal.Signals, llama: Llama) -> None:
    command = [sys.executable, "-m", "qwen35cpp", "serve", "tiny", "--port", "0", "-q", "-t", "1"]
    server = subprocess.Popen(
        [*command, "--name", "toy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == "toy"
        body = {"messages": ASK, "max_tokens": 40, **endless(llama), "stream": True}
        with client.stream("POST", CHAT, json=body) as response:
            lines = events(response.iter_lines())
            chunks = [next(lines)]
            server.send_signal(end)
            chunks += lines
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"  # it was allowed to end
    _, errors = server.communicate(timeout=20)
    assert server.returncode == 0
    assert errors == ""


def test_the_command_needs_a_key_for_other_computers(tmp_path: Any) -> None:
    command = [sys.executable, "-m", "qwen35cpp", "serve", "tiny", "--host", "0.0.0.0"]
    environment = {name: value for name, value in os.environ.items() if "API_KEY" not in name}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "API key" in done.stderr
    keys = tmp_path / "keys"
    keys.write_text("\n")
    done = subprocess.run(
        [*command, "--api-key-file", str(keys)], capture_output=True, text=True, env=environment
    )
    assert "there is no key" in done.stderr


def test_a_port_in_use_is_said(url: str) -> None:
    port = url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "qwen35cpp", "serve", "tiny", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "cannot listen" in done.stderr


def test_pictures_are_shown_to_the_model(client: Any) -> None:
    def count(colour: str) -> int:
        response = client.post(CHAT, json=image({"url": data_url(colour)}))
        assert response.status_code == 200, response.text
        tokens: int = response.json()["usage"]["prompt_tokens"]
        return tokens

    bare = client.post(CHAT, json=asks({"type": "text", "text": ""}, {"type": "text", "text": "x"}))
    assert count("red") == count("blue") > bare.json()["usage"]["prompt_tokens"]
    # OpenAI's detail, and what cannot be followed.
    low = client.post(CHAT, json=image({"url": data_url("red"), "detail": "low"}))
    assert low.status_code == 200
    for url in ({"url": data_url("red"), "detail": "most"}, {"url": data_url("red"), "fps": 2}):
        refused = client.post(CHAT, json=image(url))
        assert refused.status_code == 400
        assert "messages[0]: content" in refused.json()["error"]["message"]
    part = {"type": "input_image", "image_url": data_url("red"), "detail": "most"}
    body = {"input": [{"role": "user", "content": [part]}]}
    assert client.post("/v1/responses", json=body).status_code == 400
    started = time.monotonic()
    refused = client.post(CHAT, json=image({"url": "data:image/png;base64," + "A" * (28 << 20)}))
    assert refused.status_code == 400
    assert time.monotonic() - started < 20


# ---- anything at all ----------------------------------------------------------------------------

TOOL_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
VALID: list[tuple[str, dict[str, Any]]] = [
    (
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "x"},
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
                {"role": "tool", "tool_call_id": "a", "content": "x"},
            ],
            "tools": [TOOL],
            "tool_choice": "auto",
            "max_tokens": 1,
            "stop": ["x"],
            "logit_bias": {"1": 1.0},
            "logprobs": True,
            "top_logprobs": 1,
            "stream_options": {"include_usage": True},
            "response_format": {"type": "text"},
            "chat_template_kwargs": {"enable_thinking": False},
            "seed": 1,
            "n": 1,
        },
    ),
    ("/v1/completions", {"prompt": ["x", [1, 2]], "max_tokens": 1, "logprobs": 1, "echo": True}),
    ("/v1/embeddings", {"input": ["x"], "encoding_format": "float", "dimensions": 2}),
    (
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "x"}]},
                {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "a", "output": "x"},
            ],
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "text"}},
            "reasoning": {"effort": "none"},
            "include": ["message.output_text.logprobs"],
            "max_output_tokens": 1,
        },
    ),
    (
        "/v1/messages",
        {
            "system": [{"type": "text", "text": "x"}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "x", "signature": ""},
                        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "a",
                            "content": [{"type": "text", "text": "x"}],
                        }
                    ],
                },
            ],
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
            "tool_choice": {"type": "auto"},
            "thinking": {"type": "enabled", "budget_tokens": 1},
            "output_config": {"effort": "low"},
            "max_tokens": 1,
        },
    ),
]
ODD = [None, True, -1, 0, 10**30, 1e308, "", "x", "\ud800", [], {}, [None], {"a": 1}, [[[]]]]


def mutated(rng: random.Random, value: Any) -> Any:
    """The value with one part replaced, removed or doubled."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        copy: Any = value.copy()
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        if rng.random() < 0.1:
            del copy[key]
        elif rng.random() < 0.1 and isinstance(value, list):
            copy.append(value[key])
        else:
            copy[key] = mutated(rng, value[key])
        return copy
    return rng.choice(ODD)


@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=pytest.mark.long)])
def test_odd_values_are_answered_or_refused(count: int) -> None:
    # A small context: some of the values take the limit off the answer.
    with (
        Llama.tiny(n_ctx=512, n_threads=1) as llama,
        serving(llama, Settings(port=0)) as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        for path, body in VALID:
            assert client.post(path, json=body).status_code == 200, path
            rng = random.Random(path)
            for _ in range(count):
                content = json.dumps(mutated(rng, body))
                headers = {"content-type": "application/json"}
                response = client.post(path, content=content, headers=headers)
                assert response.status_code in (200, 400), (path, content, response.text)
                if response.status_code == 400:
                    assert response.json()["error"]["message"], content


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None; from qwen35cpp.cli import main; "
        "sys.exit(main(['serve', 'tiny']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "qwen35cpp[server]"' in done.stderr
