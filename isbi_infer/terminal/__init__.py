"""What the command lines share: how they end, how they say what is going on, how they are asked."""

from isbi_infer.terminal.exits import exit_codes, printed_log, require_packages
from isbi_infer.terminal.words import counted, did_you_mean, nearest_file, one_line, printable, shown

__all__ = [
    "counted",
    "did_you_mean",
    "exit_codes",
    "nearest_file",
    "one_line",
    "printable",
    "printed_log",
    "require_packages",
    "shown",
]
