"""What runs inside the sandbox: one program, then what is asked of it.

The parent puts ``values.py`` in front of this text and starts it with two descriptors: the
request comes in on one as marshalled messages with a length in front, answers leave on the
other as lines.  Every line begins with the parent's nonce, so that nothing a program prints
is taken for an answer.  Whatever a program does to this process, all it can send is data.
"""

from __future__ import annotations

import builtins
import io
import marshal
import os
import resource
import sys
import types

from veritune.sandbox.values import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Channel:
    """The two descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self.nonce = ""

    def receive(self) -> Any:
        """The next message, or None at the end."""
        head = self._exactly(8)
        if head is None:
            return None
        body = self._exactly(int.from_bytes(head, "big"))
        return None if body is None else marshal.loads(body)

    def send(self, *fields: str) -> None:
        """One line of JSON values, the first of them the nonce."""
        line = f'["{self.nonce}",{",".join(fields)}]\n'.encode("ascii")
        while line:
            line = line[os.write(self._outgoing, line) :]

    def _exactly(self, size: int) -> bytes | None:
        parts = []
        while size:
            part = os.read(self._incoming, min(size, 1 << 20))
            if not part:
                return None
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def limit(limits: dict[str, int]) -> None:
    """Lower every hard limit; without privileges there is no way back."""
    for name, wanted in limits.items():
        number = getattr(resource, name)
        _, hard = resource.getrlimit(number)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(number, (value, value))
    sys.set_int_max_str_digits(0)


def new_module(name: str) -> dict[str, Any]:
    """The namespace a program runs in; registered, since dataclasses look it up."""
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module.__dict__


def describe(error: BaseException) -> str:
    """An exception as fields: type, names of its bases, message."""
    names = [kind.__name__ for kind in type(error).__mro__]
    try:
        message = str(error)[:2000]
    except BaseException:
        message = ""
    extra = getattr(error, "name", None) if isinstance(error, ImportError) else None
    return encode([names, message, extra if isinstance(extra, str) else None])


def attempt(channel: Channel, stage: object, work: Any, *arguments: Any) -> bool:
    """Run one step; an exception is reported and True comes back."""
    try:
        work(*arguments)
    except BaseException as error:
        channel.send(encode("error"), encode(stage), describe(error))
        return True
    return False


def load_answer(channel: Channel, request: Any, names: dict[str, Any]) -> bool:
    """Run the program, then the set-up of its tests; True if either failed.

    A function taken out of its module needs the module's names already where it is defined
    (decorators, defaults), so a program that misses one is run again after the set-up.
    """

    def run(part: str) -> None:
        exec(compile(request[part], f"<{part}>", "exec"), names)

    def program() -> None:
        try:
            run("code")
        except NameError:
            if not request["setup"]:
                raise
            run("setup")
            run("code")

    return attempt(channel, "answer", program) or (
        bool(request["setup"]) and attempt(channel, "setup", run, "setup")
    )


def run_script(channel: Channel, request: Any) -> None:
    """The program as a script: it ends as it likes."""
    names = new_module("__main__")
    sys.argv = ["answer.py"]

    def program() -> None:
        exec(compile(request["code"], "<answer>", "exec"), names)

    try:
        program()
    except SystemExit:
        raise
    except BaseException as error:
        channel.send(encode("error"), encode("answer"), describe(error))
        os._exit(1)


def run_steps(channel: Channel, request: Any) -> None:
    """The program, then every step of its tests: only values leave, nothing is judged here."""
    names = new_module("answer")
    if load_answer(channel, request, names):
        return
    for number, (kind, source) in enumerate(request["steps"]):
        if attempt(channel, number, STEPS[kind], channel, number, source, names):
            return
    channel.send(encode("end"))


def step_statement(channel: Channel, number: int, source: str, names: dict[str, Any]) -> None:
    """Statements without a verdict."""
    exec(compile(source, "<test>", "exec"), names)
    channel.send(encode("done"), encode(number), "null")


def step_value(channel: Channel, number: int, source: str, names: dict[str, Any]) -> None:
    """An expression; its value leaves as plain data."""
    value = eval(compile(source, "<test>", "eval"), names)
    channel.send(encode("value"), encode(number), encode(value))


def step_example(channel: Channel, number: int, source: str, names: dict[str, Any]) -> None:
    """A doctest example; what it prints leaves, or the exception that ended it."""
    printed = io.StringIO()

    def show(value: object) -> None:
        if value is not None:
            names["_"] = value
            printed.write(repr(value) + "\n")

    before = sys.stdout, sys.displayhook
    sys.stdout, sys.displayhook = printed, show
    raised = None
    try:
        exec(compile(source, "<doctest>", "single"), names)
    except Exception as error:
        import traceback

        raised = traceback.format_exception_only(type(error), error)[-1]
    finally:
        sys.stdout, sys.displayhook = before
    channel.send(encode("printed"), encode(number), encode([printed.getvalue(), raised]))


STEPS = {"statement": step_statement, "value": step_value, "example": step_example}


def serve_calls(channel: Channel, request: Any) -> None:
    """The program, then calls of its functions by name, one after the other."""
    names = new_module("answer")
    if load_answer(channel, request, names):
        return
    channel.send(encode("ready"))
    while (message := channel.receive()) is not None:
        token, name, arguments, keywords = message
        try:
            value = names[name](*decode(arguments), **decode(keywords))
        except BaseException as error:
            channel.send(encode("raised"), encode(token), describe(error))
        else:
            channel.send(encode("value"), encode(token), encode(value))


class RemoteFunction:
    """A function of the answer, which lives in another sandbox; only data comes back."""

    def __init__(self, channel: Channel, name: str) -> None:
        self._channel = channel
        self.__name__ = name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:  # noqa: D102
        self._channel.send(
            encode("call"), encode(self.__name__), encode(list(arguments)), encode(keywords)
        )
        message = self._channel.receive()
        if message is None:
            os._exit(1)
        kind, content = message
        if kind == "value":
            return decode(content)
        names, text, _ = decode(content)
        for name in names:
            kind = getattr(builtins, str(name), None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                raise kind(text)
        raise RuntimeError(f"the answer ended by {names[0]}: {text}")


def run_check(channel: Channel, request: Any) -> None:
    """The tests, in a process that never holds anything of the answer but plain data."""
    names = new_module("tests")

    def setup() -> None:
        exec(compile(request["setup"], "<test_setup>", "exec"), names)
        for name in request["remote"]:
            names[name] = RemoteFunction(channel, name)

    def tests() -> None:
        exec(compile(request["tests"], "<tests>", "exec"), names)
        if request["check"]:
            names[request["check"]](RemoteFunction(channel, request["entry_point"]))

    if not attempt(channel, "setup", setup) and not attempt(channel, "tests", tests):
        channel.send(encode("end"))


MODES = {"script": run_script, "steps": run_steps, "calls": serve_calls, "check": run_check}


def main() -> None:
    """Set the limits, say hello, do what the request asks."""
    channel = Channel(int(sys.argv[1]), int(sys.argv[2]))
    request = channel.receive()
    channel.nonce = request["nonce"]
    # Interactive conveniences that scripts rely on; the site module that makes them is left out.
    vars(builtins).update(exit=sys.exit, quit=sys.exit)
    limit(request["limits"])
    channel.send(encode("hello"))
    MODES[request["mode"]](channel, request)
    if request["mode"] != "script":
        sys.stdout.flush()
        os._exit(0)
