"""Checkpoints converted once per session, and a way to show what was measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from parity import Models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="session")
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a measured figure even when output is captured."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n  {line}", end="")

    return show
