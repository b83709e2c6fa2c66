"""What the command lines share: how they end, how they say what is going on, how they are asked."""

from isbi_infer.terminal.exits import exit_codes, require_packages
from isbi_infer.terminal.words import counted, one_line, printable

__all__ = ["counted", "exit_codes", "one_line", "printable", "require_packages"]
