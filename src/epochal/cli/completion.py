"""Completion in bash, zsh and fish. Imported only where a shell asks."""

from __future__ import annotations

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
)


class _Files(ShellComplete):
    """What is no command, option or choice may be a file: most arguments are runs, texts, recipes
    or settings, all of them plain words to click, for which it would complete nothing."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = super().get_completions(args, incomplete)
        return found or [CompletionItem(incomplete, type="file")]


def complete_files() -> None:
    """Let the shells complete files, too."""
    for shell in (BashComplete, ZshComplete, FishComplete):
        add_completion_class(type(shell.__name__, (_Files, shell), {}))
