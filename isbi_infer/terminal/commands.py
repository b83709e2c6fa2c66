"""How a command is asked: its help in groups with examples, its versions, and what it answers to a slip of the finger.

Help is plain text, so that it reads the same on a terminal, in a log and at any width.
"""

from __future__ import annotations

import importlib.metadata as metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from copy import copy
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from isbi_infer._version import __version__
from isbi_infer.terminal.exits import exit_codes
from isbi_infer.terminal.words import did_you_mean, printable

_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # of which all that a parser raises is a kind
_NOT_ONE_OF = re.compile(r"'([^']*)' is not one of (.+?)\.?$")
_NO_COMMAND = re.compile(r"No such command '([^']*)'")
_NARROW = 60  # columns, below which explanations stand beneath their options
_PLAIN = {  # for what Typer says of values
    r"Input should be a valid integer.*|'[^']*' is not a valid integer": "expected a whole number",
    r"Input should be a valid number.*|'[^']*' is not a valid float": "expected a number",
}
_VERSION = "--version"
GENERAL = "General"
"""The heading of what all commands have."""

RUNTIMES = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "torch", "tifffile", "tensorstore")
"""Packages whose versions matter to a result."""

Debug = Annotated[
    bool,
    typer.Option("--debug", help="Show a traceback when something goes wrong.", rich_help_panel=GENERAL),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no summary.", rich_help_panel=GENERAL)]


def _width() -> int:
    """Return how wide help may be: Typer takes no less than 50 columns otherwise, though terminals may have fewer."""
    return max(20, min(80, shutil.get_terminal_size().columns) - 2)


def new_app(**settings: Any) -> typer.Typer:
    """Return a Typer application with the manners of all programs; `settings` are more of Typer's."""
    return typer.Typer(
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "terminal_width": _width()},
        **{"add_completion": False, **settings},
    )


def listed(heading: str, *lines: tuple[str, str]) -> str:
    """Return a block for the end of a help text: commands, and what each is for."""
    return "\n".join((f"{heading}:", *("\t".join(line) for line in lines))) + "\n\n"


def version_option(program: str, *packages: str) -> Any:
    """Return the option that prints the versions of a program and of the packages that matter to it."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(versions(program, packages))
            raise typer.Exit

    return typer.Option(
        _VERSION,
        "-V",
        callback=show,
        is_eager=True,
        help="Print the versions of what matters.",
        rich_help_panel=GENERAL,
    )


def versions(program: str, packages: Sequence[str]) -> str:
    """Return a program and its version, and on a second line Python and the packages that are installed."""
    found = [f"python {platform.python_version()}"]
    for package in packages:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"{program} {__version__}\n{', '.join(found)}"


class _Manners:
    """What commands and groups of commands share; mixed into both."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run, and answer what cannot be understood with one line."""
        run: Callable[..., Any] = super().main  # type: ignore[misc]
        if not standalone_mode:
            return run(args, prog_name, complete_var, standalone_mode, **extra)
        with exit_codes(prog_name or os.path.basename(sys.argv[0])):
            return self._run(run, args, prog_name, complete_var, extra)

    def _run(
        self,
        run: Callable[..., Any],
        args: Sequence[str] | None,
        prog_name: str | None,
        complete_var: str | None,
        extra: dict[str, Any],
    ) -> NoReturn:
        given = sys.argv[1:] if args is None else args
        if (
            not given
            and self._asks_for_something()
            and not any(name.endswith("_COMPLETE") for name in os.environ)
        ):
            typer.echo(self._short_help(prog_name or os.path.basename(sys.argv[0])))
            sys.exit(2)
        try:
            code = run(args, prog_name, complete_var, standalone_mode=False, **extra)
        except _USAGE as error:
            context = getattr(error, "ctx", None)
            path = context.command_path if context else prog_name or os.path.basename(sys.argv[0])
            answer = _answer(error)
            hint = "" if answer.endswith("?") else f"; {path} --help shows what there is"
            print(f"{path}: {answer}{hint}", file=sys.stderr)
            sys.exit(2)
        except typer.Abort:
            sys.exit(130)
        sys.exit(code if isinstance(code, int) else 0)

    def _asks_for_something(self) -> bool:
        found = any(each.required for each in self.params if each.param_type_name == "argument")  # type: ignore[attr-defined]
        return found or hasattr(self, "commands")

    def _short_help(self, program: str) -> str:
        """Return what a program is for and how it is called, for who calls it without anything."""
        context: Any = self.make_context(program, [], resilient_parsing=True)  # type: ignore[attr-defined]
        formatter = context.make_formatter()
        self.format_usage(context, formatter)  # type: ignore[attr-defined]
        self.format_help_text(context, formatter)  # type: ignore[attr-defined]
        commands = getattr(self, "format_commands", None)
        if commands:
            commands(context, formatter)
        self.format_epilog(context, formatter)
        return f"{formatter.getvalue().rstrip()}\n\n{program} --help lists all options."

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a block of options for each heading, in the order of their first options; what all have comes last."""
        blocks: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            argument = parameter.param_type_name == "argument"
            general = not {"--help", "--install-completion", "--show-completion"}.isdisjoint(parameter.opts)
            other = "Arguments" if argument else GENERAL if general else "Options"
            heading = getattr(parameter, "rich_help_panel", None) or other
            blocks.setdefault(heading, []).append((_plain_type(record[0]), record[1]))
        if GENERAL in blocks:
            blocks[GENERAL] = blocks.pop(GENERAL)
        for heading, records in blocks.items():
            with formatter.section(heading):
                formatter.write_dl(records, col_max=30 if formatter.width >= _NARROW else 6)
        commands = getattr(self, "format_commands", None)
        if commands:
            commands(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write what is listed as it is, and prose wrapped."""
        for part in (getattr(self, "epilog", None) or "").split("\n\n"):
            heading, _, lines = part.partition(":\n")
            if "\t" in lines:
                rows = [(line.partition("\t")[0], line.partition("\t")[2]) for line in lines.splitlines()]
                widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
                beside = sum(widths) + 4 <= formatter.width  # else each stands above what it is for
                with formatter.section(heading):
                    formatter.write_dl(rows, col_max=widths[0] if beside else 2)
            elif part:
                formatter.write_paragraph()
                formatter.write_text(part)


class Command(_Manners, TyperCommand):  # type: ignore[misc]  # Typer names all of what it takes
    """A command of one of the programs; one of several has the version of its program, too."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return arguments and options, with the program's version where the command does not print its own."""
        found = list(super().get_params(ctx))
        group = ctx.parent.command.params if ctx.parent else []
        of_program = [copy(each) for each in group if _VERSION in each.opts]
        if of_program and not any(_VERSION in each.opts for each in found):
            of_program[0].expose_value = False
            found.append(of_program[0])
        return found


class Group(_Manners, TyperGroup):  # type: ignore[misc]
    """A program of several commands."""


def _plain_type(names: str) -> str:
    """Return an option with its type as people call it."""
    return (
        (re.sub(r" <list\[Path\]>", "", names) if names.isupper() else names)
        .replace("<list[str]>", "<str>")
        .replace("<list[Path]>", "<path>")
        .replace(" range>", ">")
    )


def _answer(error: Exception) -> str:
    """Return what a parser has to say on one line, with what was probably meant."""
    said = getattr(error, "format_message", error.__str__)()
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if getattr(error, "possibilities", None) is not None and option and context:
        known = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        return printable(f"no such option {option}{did_you_mean(option, known)}")
    said = " ".join(said.replace("Value error, ", "").split()).rstrip(".")
    for words, plain in _PLAIN.items():
        said = re.sub(words, plain, said)
    unknown = _NO_COMMAND.match(said)
    if unknown and context:
        return printable(f"no such command {unknown[1]}{did_you_mean(unknown[1], context.command.commands)}")
    choice = _NOT_ONE_OF.search(said)
    if choice:
        said += did_you_mean(choice[1], re.findall(r"'([^']*)'", choice[2]))
    return printable(said[:1].lower() + said[1:])
