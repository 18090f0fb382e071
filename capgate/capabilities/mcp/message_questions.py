"""Reads from an MCP message what it asks for: an action on a resource, with arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final, Union

import msgspec

from ...actions import VOCABULARY
from ...enforcement.given_facts import checked_facts, name_of
from ...errors import ConfigError, FactsUnavailable, MalformedInput, PolicyError
from ...log_writer import BackgroundLogger
from ...model import Resource
from ..tools import KIND, NO_HASH, ArgumentNames, argument_names, canonical_hash, check_action
from . import jsonrpc as rpc

_log = BackgroundLogger("capgate")

TOOLS_CALL: Final = "tools/call"
#: The member of ``params`` that names what a method is about.
NAMES: Final[Mapping[str, str]] = {
    TOOLS_CALL: "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
}

#: The action of a tool, by its name; ``None`` for a tool that nobody may call.
ActionOf = Union[str, Mapping[str, str], Callable[[str], Union[str, None]]]
#: What the policy sees of arguments: by the tool's name, names of arguments; or a function of tool and arguments.
ArgumentsOf = Union[Mapping[str, ArgumentNames], Callable[[str, dict[str, Any]], Mapping[str, Any]]]


class MessageQuestion(msgspec.Struct, frozen=True):
    """What one message asks for. ``problem`` says why it is denied whatever the answer."""

    action: str
    resource: Resource
    hash: str
    problem: PolicyError | None = None
    args: dict[str, Any] = {}


class MessageQuestions:
    """What is asked about messages: ``tools/call`` with the action of the tool, and ``methods`` with theirs.

    Raises :class:`~capgate.errors.ConfigError` for an action that is not registered, and for ``args`` that are none.
    """

    def __init__(self, action: ActionOf, methods: Mapping[str, str], args: ArgumentsOf | None = None) -> None:
        self._args_of = _args_of({} if args is None else args)
        self._action_of = _action_of(action)
        self._methods = _checked_methods(methods)
        self._folded = {method.lower() for method in (TOOLS_CALL, *self._methods)}

    def of(self, message: rpc.Message) -> MessageQuestion | None:
        """Return what ``message`` asks for, ``None`` where it passes unasked.

        Raises :class:`~.jsonrpc.ProtocolError`.
        """
        method, params = message.method, message.params
        if method != TOOLS_CALL and method not in self._methods:
            if method is not None and method.lower() in self._folded:  # for a server that does not care about case
                raise rpc.ProtocolError(rpc.METHOD_NOT_FOUND, "Method not found", status=404, id=message.id)
            return None
        if rpc.differ_in_case_only(params):
            raise rpc.ProtocolError(rpc.INVALID_PARAMS, "params that differ in case only", id=message.id)
        id = params.get(NAMES[method]) if method in NAMES else method
        if type(id) is not str or not id:
            raise rpc.ProtocolError(rpc.INVALID_PARAMS, f"{NAMES[method]} is text", id=message.id)
        if method != TOOLS_CALL:
            action = self._methods[method]
            known = VOCABULARY.get(action)
            hashed = {name: value for name, value in params.items() if name != "_meta"}
            return _question(action, Resource((known and known.kind) or KIND, id), hashed)
        arguments = params.get("arguments")
        if arguments is not None and type(arguments) is not dict:
            raise rpc.ProtocolError(rpc.INVALID_PARAMS, "arguments are an object", id=message.id)
        question = _question(self._action_of(id), Resource(KIND, id), arguments or {})
        if question.problem is None:
            try:
                return msgspec.structs.replace(question, args=self._args_of(id, arguments or {}))
            except PolicyError as error:
                return msgspec.structs.replace(question, problem=error)
        return question


def _question(action: str, resource: Resource, arguments: dict[str, Any]) -> MessageQuestion:
    problem = None if action else MalformedInput("the tool has no action")
    try:
        return MessageQuestion(action, resource, canonical_hash(arguments), problem)
    except MalformedInput as error:
        return MessageQuestion(action, resource, NO_HASH, error)


def _action_of(action: ActionOf) -> Callable[[str], str]:
    """Return a function from a tool's name to its action, ``""`` for none."""
    if isinstance(action, str):
        check_action("action", action)
        return lambda name: action
    if isinstance(action, Mapping):
        for name, action_of_tool in action.items():
            check_action(f"action.{name}", action_of_tool)
        table = dict(action)
        return lambda name: table.get(name, "")
    if not callable(action):
        raise ConfigError("action", action, "an action, a mapping from tool names to actions, or a function of a name")
    chosen = action

    def choose(name: str) -> str:
        try:
            action_of_tool: object = chosen(name)
        except Exception as error:
            _log.error("no action for a tool: %s", type(error).__name__, exc_info=error)
            return ""
        return action_of_tool if isinstance(action_of_tool, str) else ""

    return choose


def _args_of(args: ArgumentsOf) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Return a function from a tool's name and its arguments to those that the policy sees.

    It raises :class:`~capgate.errors.PolicyError` where that is not certain.
    """
    if isinstance(args, Mapping):
        table = {tool: argument_names(names, f"args.{tool}") for tool, names in args.items()}

        def look_up(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
            names = table.get(tool)
            if not names:
                return {}
            if rpc.differ_in_case_only(arguments):
                raise MalformedInput("arguments that differ in case only")
            return {name: arguments[called] for name, called in names.items() if called in arguments}

        return look_up
    if not callable(args):
        raise ConfigError("args", args, "a mapping from tool names to names of arguments, or a function")
    chosen = args

    def choose(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            given = chosen(tool, deepcopy(arguments))  # what is hashed is what the server gets
        except Exception as error:
            raise FactsUnavailable(name_of(chosen), f"raised {type(error).__name__}") from error
        return dict(checked_facts(chosen, given))

    return choose


def _checked_methods(methods: Mapping[str, str]) -> dict[str, str]:
    for method, action in methods.items():
        if not isinstance(method, str) or not method or method == TOOLS_CALL:
            raise ConfigError("methods", method, f"other JSON-RPC methods than {TOOLS_CALL}")
        if action not in VOCABULARY:
            raise ConfigError(f"methods.{method}", action, f"one of {', '.join(sorted(VOCABULARY.names))}")
    return dict(methods)
