"""What leaves this machine names nothing of it."""

import json

import pytest

from sso_data.publishing.public import public_json, public_text


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("model", "/data/mine/models/base", "./base"),
        ("model", "~/models/base", "./base"),
        ("model", "Qwen/Qwen3-8B", "Qwen/Qwen3-8B"),
        ("model", "./base", "./base"),
        ("principles", "../mine/principles", "./principles"),
        ("sources", ["/data/in.jsonl", "team/prompts"], ["./in.jsonl", "team/prompts"]),
        ("download_dir", "/data/hub/cache", "./cache"),
        ("template_kwargs", {"prefix": "/no_think/at/all"}, {"prefix": "/no_think/at/all"}),
        ("suffix", "/no_think", "/no_think"),
        ("text", "a/b and c/d", "a/b and c/d"),
        ("text", "token hf_" + "a" * 30, "token <token>"),
        ("model", "", ""),
        ("servers", ["http://10.0.0.5:8000"], []),
        ("cluster", "ray://10.0.0.5:10001", None),
        ("endpoint", "http://10.0.0.5:8000", None),
        ("limit", 3, 3),
        ("identity", {"model": "/data/mine"}, {"identity": "kept"}),
    ],
)
def test_manifests(key: str, value: object, shown: object) -> None:
    if key == "identity":
        shown = value
    once = public_json({"config": {key: value}})
    assert json.loads(once) == {"config": {key: shown}}
    assert public_json(json.loads(once)) == once


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/mine/in.jsonl:7: not JSON", "in.jsonl:7: not JSON"),
        ("~/data/in.jsonl:7: bad", "in.jsonl:7: bad"),
        ("team/prompts:train:row 3: blank", "team/prompts:train:row 3: blank"),
        ("1/2 of the context, and/or more", "1/2 of the context, and/or more"),
        ("https://example.org/a/b is no prompt", "https://example.org/a/b is no prompt"),
    ],
)
def test_messages(text: str, shown: str) -> None:
    assert public_text(text) == shown
