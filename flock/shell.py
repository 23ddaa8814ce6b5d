"""`flockctl shell`: a Python prompt in the middle of the flock.

`FlockOfChefs` is the flock and `me` this process (None: it only asks). With
IPython if that is installed (the extra `shell`), else with Python's own
prompt; both complete names of nodes and actors inside the brackets and
methods behind the dot, show a remote method's signature and documentation
(`help(api.run_chef)`, `api.run_chef?`), print an error of the flock in one
line, and say after Ctrl-C that the work over there goes on.
"""

from __future__ import annotations

import code
import pydoc
import sys
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import Any

import click

from flock.batch import BatchFuture
from flock.calls import CallFuture
from flock.completion import complete, walk
from flock.ctl.names import note_names
from flock.ctl.options import CommandLine, pass_line, reachable
from flock.ctl.output import Output
from flock.errors import FlockError
from flock.failures import RemoteTraceback
from flock.proxy import ActorProxy, MethodProxy, NodeProxy, method_of, offered_by, points_at

_ASK_WITHIN = 5.0


@click.command()
@click.option("--plain", is_flag=True, help="Python's own prompt, also where IPython is installed")
@reachable
@pass_line
def shell(line: CommandLine, *, plain: bool) -> None:
    """Open a Python prompt with FlockOfChefs and me.

    Tab completes nodes, actors and methods; help(...) or a ? behind a method
    shows what it does; Ctrl-C gives up waiting; Ctrl-D leaves. With --json
    the prompt is Python's own, and prints each value as JSON.
    """
    with line.visitor() as fleet:
        names = list(fleet)
        note_names(line.settings(), names)
        namespace = {"FlockOfChefs": fleet, "me": fleet.me, "help": Help()}
        banner = (
            f"FlockOfChefs is {fleet.registry.url}: {_counted(names)}. Tab completes, "
            "help(...) explains, Ctrl-C gives up waiting, Ctrl-D leaves."
        )
        if line.output.wants_json:
            sys.displayhook = _as_json(line.output)
            PlainShell(namespace).run(banner)
        elif plain or not sys.stdin.isatty() or not _has_ipython():
            PlainShell(namespace).run(banner)
        else:
            run_ipython(namespace, banner)


def _as_json(output: Output) -> Callable[[Any], None]:
    """Return what prints a value that was typed, as Python's own does, for programs."""

    def show(value: Any) -> None:
        if value is not None:
            output.value(value)

    return show


def _counted(names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    count = f"{len(names)} node{'' if len(names) == 1 else 's'}"
    return f"{count} ({shown})" if names else "no nodes"


def _has_ipython() -> bool:
    from importlib.util import find_spec

    return find_spec("IPython") is not None


# --- what both say -------------------------------------------------------------


class Help:
    """`help(...)`: asks the node about what is there, and Python about all else."""

    def __call__(self, *things: Any) -> None:
        """Print what a method, an actor or a node offers; without arguments Python's own help."""
        if len(things) == 1 and (text := explained(things[0])) is not None:
            print(text)  # noqa: T201 - the prompt's answer
        else:
            pydoc.help(*things)

    def __repr__(self) -> str:
        """Say how it is used."""
        return "help(FlockOfChefs['NODE']['ACTOR'].METHOD), or of anything else"


def explained(thing: Any) -> str | None:
    """Return what is to be known of a method, an actor or a node; None for anything else.

    Raises:
        CallError: the node did not answer.
    """
    if isinstance(thing, MethodProxy):
        actor, name = method_of(thing) or (None, "")
        assert actor is not None
        offered = offered_by(actor, _ASK_WITHIN)
        place = "/".join(points_at(actor) or ())
        if name not in offered:
            return f"{place} offers no method {name!r}; it has: {', '.join(sorted(offered))}"
        signature, documentation = offered[name]
        return f"{place}.{name}{signature}\n\n{documentation or '(not documented)'}"
    if isinstance(thing, ActorProxy):
        place = "/".join(points_at(thing) or ())
        lines = [
            f"  {name}{signature}{_summary(documentation)}"
            for name, (signature, documentation) in sorted(offered_by(thing, _ASK_WITHIN).items())
        ]
        return "\n".join([f"actor {place}", *lines])
    if isinstance(thing, NodeProxy):
        return f"node {thing.name} at {thing.address}\n  actors: {', '.join(thing.record.actors)}"
    return None


def _summary(documentation: str) -> str:
    first = documentation.strip().partition("\n")[0]
    return f"\n      {first}" if first else ""


def error_text(error: BaseException) -> str:
    """Return an error of the flock in one line, and what was raised over there, if anything ran."""
    text = f"{type(error).__name__}: {error}"
    cause = error.__cause__
    # Of a refusal the traceback shows nothing but how we refuse.
    has_run = getattr(error, "may_have_run", True)
    return f"{cause}\n{text}" if has_run and isinstance(cause, RemoteTraceback) else text


def _is_from_the_flock(error: BaseException) -> bool:
    """Say whether an error is one of the flock, or was raised over there.

    Where we are when it arrives here is of no interest.
    """
    return isinstance(error, FlockError) or isinstance(error.__cause__, RemoteTraceback)


def interrupted_text(traceback: TracebackType | None) -> str:
    """Return what to say after Ctrl-C: whether a call was waited for, and that it goes on."""
    while traceback is not None:
        waited_for = _waited_for(traceback.tb_frame.f_locals.get("self"))
        if waited_for:
            return f"gave up waiting for {waited_for}: the work over there goes on"
        traceback = traceback.tb_next
    return "KeyboardInterrupt"


def _waited_for(waiting: Any) -> str:
    """Return what somebody waits for, as it is called; empty if he waits for no call."""
    if isinstance(waiting, MethodProxy):
        actor, name = method_of(waiting) or (None, "")
        return f"{'/'.join(points_at(actor) or ())}.{name}()"
    if isinstance(waiting, CallFuture):
        return waiting.label
    if isinstance(waiting, BatchFuture):
        return "the calls of a batch"
    return ""


# --- Python's own prompt -------------------------------------------------------


class PlainShell(code.InteractiveConsole):
    """Python's prompt with our completion, errors and Ctrl-C."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        """Make it; `namespace` is what names mean, and grows."""
        super().__init__(namespace, "<shell>")

    def run(self, banner: str) -> None:
        """Read and do until the end of the input."""
        self._set_completion()
        # People are told on standard error; piped in, only what was asked for is printed.
        self.interact(banner if sys.stdin.isatty() else "", exitmsg="")

    def raw_input(self, prompt: str = "") -> str:
        """Read a line; without a terminal there is no prompt."""
        return super().raw_input(prompt if sys.stdin.isatty() else "")

    def runsource(self, source: str, filename: str = "<input>", symbol: str = "single") -> bool:
        """Run a line; one that ends with `?` is explained."""
        asked = source.strip()
        if asked.endswith("?"):
            source = f"help({asked.strip('?')})"
        return super().runsource(source, filename, symbol)

    def runcode(self, code: CodeType) -> None:
        """Run what was typed; Ctrl-C ends the wait and says what that means."""
        try:
            exec(code, self.locals)  # noqa: S102 - it is what a prompt does
        except SystemExit:
            raise
        except KeyboardInterrupt as error:
            self.write(f"\n{interrupted_text(error.__traceback__)}\n")
        except Exception as error:  # noqa: BLE001 - whatever it is, the prompt shows it and goes on
            if _is_from_the_flock(error):
                self.write(f"{error_text(error)}\n")
            else:
                self.showtraceback()

    def _set_completion(self) -> None:
        try:
            import readline
        except ImportError:
            return
        found: list[str] = []

        def offer(text: str, state: int) -> str | None:
            if state == 0:
                line, end = readline.get_line_buffer(), readline.get_endidx()
                offered = complete(line[:end], line[end:], self.locals)
                kept = text.removesuffix(offered.replaced) if offered.replaced else text
                is_whole = text.endswith(offered.replaced)
                found[:] = [kept + each for each in offered.candidates] if is_whole else []
            return found[state] if state < len(found) else None

        readline.set_completer(offer)
        # Nothing parts words: a name in brackets and quotes may hold anything.
        readline.set_completer_delims("")
        # libedit, which some Pythons have in its place, is told otherwise.
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        if not libedit:
            readline.parse_and_bind("set show-all-if-ambiguous on")
            readline.parse_and_bind("set bell-style none")


# --- IPython -------------------------------------------------------------------


def run_ipython(namespace: dict[str, Any], banner: str) -> None:
    """Read and do with IPython until the end of the input."""
    from IPython.core.completer import SimpleCompletion, context_matcher
    from IPython.terminal.interactiveshell import TerminalInteractiveShell
    from traitlets.config import Config

    config = Config()
    config.TerminalInteractiveShell.confirm_exit = False
    # Jedi imports and guesses; what it does not know it offers nonsense for.
    config.Completer.use_jedi = False
    prompt: Any = TerminalInteractiveShell.instance(config=config, user_ns=dict(namespace))

    def match(context: Any) -> dict[str, Any]:
        line = context.full_text.split("\n")[context.cursor_line]
        until, after = line[: context.cursor_position], line[context.cursor_position :]
        offered = complete(until, after, prompt.user_ns)
        # IPython asks others, too, where nothing is offered: what was typed is more than nothing.
        nothing = [offered.replaced] if offered.is_ours and offered.replaced else []
        return {
            "completions": [
                SimpleCompletion(each, type="") for each in offered.candidates or nothing
            ],
            "matched_fragment": offered.replaced,
            "suppress": offered.is_ours,
        }

    as_matcher: Any = context_matcher
    prompt.Completer.custom_matchers.append(as_matcher(identifier="flock", priority=200)(match))

    def show(
        _: Any, kind: type[BaseException], error: BaseException, trace: Any, **__: Any
    ) -> None:
        is_interrupt = issubclass(kind, KeyboardInterrupt)
        if not is_interrupt and not _is_from_the_flock(error):
            prompt.showtraceback((kind, error, trace), running_compiled_code=True)
            return
        text = f"\n{interrupted_text(trace)}" if is_interrupt else error_text(error)
        print(text, file=sys.stderr)  # noqa: T201 - the prompt's answer

    prompt.set_custom_exc((KeyboardInterrupt, Exception), show)

    explain = prompt.find_line_magic("pinfo")

    def pinfo(parameter: str = "") -> None:
        try:
            text = explained(walk(parameter.strip(" ?"), prompt.user_ns))
        except (LookupError, AttributeError):
            text = None
        except FlockError as error:
            text = error_text(error)
        if text is None:
            explain(parameter)
        else:
            print(text)  # noqa: T201 - the prompt's answer

    prompt.register_magic_function(pinfo, "line", "pinfo")

    def explain_brackets(lines: list[str]) -> list[str]:
        """Ask for the whole of `x['a'].b?`: by itself IPython looks at `b` alone."""
        asked = "".join(lines).strip()
        if not asked.endswith("?") or "[" not in asked or asked.startswith(("!", "%")):
            return lines
        return [f"get_ipython().run_line_magic('pinfo', {asked.rstrip('?')!r})\n"]

    prompt.input_transformers_cleanup.append(explain_brackets)
    # Its own banner is printed by its application, which this is not.
    print(banner, file=sys.stderr)  # noqa: T201
    prompt.mainloop()
