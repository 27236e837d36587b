"""A server for OpenAI's and Anthropic's clients, with a chat page.

    request ─> guard.py        may this caller ask? Host, Origin, key
            ─> app.py          reads the body, finds the endpoint
            ─> chat_completions.py, completions.py, responses.py, messages.py
                               a protocol's JSON -> options of Llama; its answer -> that JSON
            ─> jobs.py         bounded threads in which the model works, a queue before them
            ─> reply.py        JSON or events; stops the job when the client leaves

No protocol renders, samples or parses anything itself: all of them end in the chat of
qwen35cpp.chat. answers.py has what they share, settings.py the limits, errors.py what is said when
something is refused, run.py the way to start it all, page/ the chat page.

    with serving(Llama("model.gguf"), Settings(port=0)) as url: ...

Everything but Settings needs the extra: pip install "qwen35cpp[server]".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:
    from .app import create_app
    from .run import serve, serving

__all__ = ["Settings", "create_app", "serve", "serving"]

_MODULES = {"create_app": "app", "serve": "run", "serving": "run"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from ..errors import MissingExtra

    try:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in ("msgspec", "starlette", "uvicorn"):
            raise MissingExtra(
                f"the server needs the package {error.name}",
                hint='pip install "qwen35cpp[server]"',
            ) from error
        raise
