"""Pictures of requests: only what the request itself brings.

In Python a picture may be a path; over HTTP that would hand out the server's files, and an address
would let anyone make the server fetch from its own network. So only data: URLs pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import bad

_IMAGES, _VIDEOS = ("image", "image_url"), ("video", "video_url")


def check_media(messages: Sequence[Mapping[str, Any]], most: int) -> None:
    """Refuses pictures that are not data: URLs, too many of them, and videos."""
    count = 0
    for where, part in _parts(messages):
        kind = part.get("type")
        if "video" in str(kind) or any(key in part for key in _VIDEOS):
            raise bad(f"{where}: videos are not taken over HTTP; send some pictures of it", where)
        for key in _IMAGES:
            if part.get(key) is None:
                continue
            source = part[key]
            if isinstance(source, Mapping):
                source = source.get("url")
            if not isinstance(source, str) or source[:5].lower() != "data:":
                raise bad(
                    f"{where}: pictures must be data: URLs, such as data:image/png;base64,...;"
                    " files and addresses are not opened",
                    where,
                )
            count += 1
    if count > most:
        raise bad(f"the request has {count} pictures, at most {most} are taken", "messages")


def _parts(messages: Sequence[Mapping[str, Any]]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for index, message in enumerate(messages):
        content = message.get("content")
        if isinstance(content, Sequence) and not isinstance(content, str):
            for i, part in enumerate(content):
                if isinstance(part, Mapping):
                    yield f"messages[{index}].content[{i}]", part
