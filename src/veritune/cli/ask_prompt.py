"""The line that questions are typed on: history, several lines, the commands completed."""

from __future__ import annotations

import os
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings

from veritune.places import cache_folder

COMMANDS = ("/adapted", "/base", "/both", "/run", "/save", "/help", "/quit")
_HISTORY = "ask_history"


class LineReader:
    """Reads questions from the terminal.

    Args:
        settings: further arguments of ``PromptSession``, such as ``input`` in tests.
    """

    def __init__(self, **settings: Any) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(),
            completer=WordCompleter(list(COMMANDS), sentence=True),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="… ",
            **settings,
        )

    def read(self, label: str) -> str | None:
        """The next question, without outer blank lines; None when the user leaves."""
        while True:
            try:
                return self._session.prompt(f"{label}> ")
            except KeyboardInterrupt:
                continue  # Ctrl-C clears the line
            except EOFError:
                return None


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _send(event: Any) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _new_line(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history() -> History:
    """Earlier questions, readable by this user only; in memory where they cannot be kept."""
    path = cache_folder() / _HISTORY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
