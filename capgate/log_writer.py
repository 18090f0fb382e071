"""Writes log records on a thread of its own, so that no handler of :mod:`logging` holds up whoever decides.

A record is made, and filtered by its logger, where it is logged. Handlers that never block get it there and then: see
:func:`never_blocks`. All others get it from the one thread of :data:`WRITER`, in order, in the context variables of
whoever logged. At most :data:`MOST_RECORDS` wait for that thread; what comes then is lost, counted, and told in one
line of the logger ``capgate`` once there is room again.

A logger that is ``disabled`` writes all the same. :func:`logging.config.fileConfig` and
:func:`logging.config.dictConfig` disable every logger that they do not name, unless told otherwise, and nobody means
denials by that. A level above ``WARNING`` silences them, as does :func:`logging.disable`.

At exit the thread has :data:`FLUSHING` seconds to write what waits. A child of a fork has a thread and a queue of its
own; what waited is its parent's to write.
"""

from __future__ import annotations

import atexit
import io
import logging
import logging.handlers
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from logging import LogRecord, getLevelName, getLogRecordFactory
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

#: Records that wait at most.
MOST_RECORDS: Final = 10_000
#: Seconds in which the records that wait are written when the process ends, those of :data:`CLOSING` included.
FLUSHING: Final = 1.0
#: The same when a gate closes: a process that another one made may run nothing at its end.
CLOSING: Final = 0.5
#: Seconds that a fork waits for the handler that is writing: its locks would be held for ever in the child.
_FORKING: Final = 0.2


class RecordLost(Exception):
    """As many records wait as may, so this one is not written."""


class _Kinds(dict[type, str]):
    """Whether the handlers of a class block, each class looked at once."""

    def __missing__(self, kind: type[logging.Handler]) -> str:
        self[kind] = answer = self._look(kind)
        return answer

    def _look(self, kind: type[logging.Handler]) -> str:
        if hasattr(kind, "never_blocks"):
            return _SAYS_SO
        if issubclass(kind, logging.StreamHandler):
            return _HAS_STREAM
        puts = issubclass(kind, logging.handlers.QueueHandler) and kind.enqueue is logging.handlers.QueueHandler.enqueue
        nothing = issubclass(kind, logging.NullHandler) and kind.handle is logging.NullHandler.handle
        return _NEVER if puts or nothing else _MAY


_NEVER: Final = "never"
_MAY: Final = "may"
_SAYS_SO: Final = "says so"
_HAS_STREAM: Final = "has a stream"
_KINDS: Final = _Kinds()


def never_blocks(handler: logging.Handler) -> bool:
    """Say whether ``handler`` takes a record without waiting for anything.

    So do a ``NullHandler``, a ``QueueHandler`` that puts in its own way, and one that writes to an
    :class:`io.StringIO`, as pytest's ``caplog`` does. So does every handler whose class has an attribute
    ``never_blocks`` that is ``True``.
    """
    return not split([handler], handler.level)[1]


def split(handlers: Sequence[logging.Handler], level: int) -> tuple[list[logging.Handler], list[logging.Handler]]:
    """Return those of ``handlers`` that never block, and the others; of each those that take records of ``level``."""
    at_once: list[logging.Handler] = []
    later: list[logging.Handler] = []
    for handler in handlers:
        if level >= handler.level:
            kind = _KINDS[type(handler)]
            if (
                kind is _NEVER
                or (kind is _HAS_STREAM and type(handler.stream) is io.StringIO)  # type: ignore[attr-defined]  # by its kind it has one
                or (kind is _SAYS_SO and handler.never_blocks is True)  # type: ignore[attr-defined]  # by its kind it has it
            ):
                at_once.append(handler)
            else:
                later.append(handler)
    return at_once, later


def is_enabled(logger: logging.Logger, level: int) -> bool:
    """Say whether ``logger`` writes records of that level, also where it is ``disabled``."""
    if logger.isEnabledFor(level):
        return True
    return logger.disabled and logger.manager.disable < level and level >= logger.getEffectiveLevel()


#: What a record of logging says, as far as it is known here; from Python 3.12 on it has a task's name too.
_FACTS: Final = frozenset(
    (
        *("name", "msg", "args", "levelname", "levelno", "pathname", "filename", "module", "lineno", "funcName"),
        *("exc_info", "exc_text", "stack_info", "created", "msecs", "relativeCreated"),
        *("thread", "threadName", "processName", "process"),
    )
)


#: What :class:`Records` does in its own way, unless it is somebody else's.
_MAKE_RECORD: Final = logging.Logger.makeRecord


class Records:
    """Makes the records of ``logger`` for one place in the code: ``message``, in ``function`` of the file ``path``.

    They are what :class:`logging.LogRecord` makes, in half the time: that takes the path of the file apart each time.
    So a record is a copy of one that was made so, and what changes from record to record is written anew. Where
    somebody has records made in another way, or has facts left out of them, logging makes each. So it does on a version
    of Python whose records have facts that are not known here.
    """

    def __init__(self, logger: logging.Logger, message: str, path: str, function: str) -> None:
        self._logger = logger
        self._message, self._path, self._function = message, path, function
        # Not by logging's factory: that may be the application's, and this is done when it imports capgate.
        self._first = vars(LogRecord(logger.name, logging.NOTSET, path, 0, message, (), None, function))
        self._is_known = self._first.keys() - {"taskName"} == _FACTS and _is_of_logging(_MAKE_RECORD)

    def make(self, level: int, arguments: tuple[object, ...], extra: Mapping[str, Any]) -> LogRecord:
        """Return a record of these ``arguments``, with ``extra`` for attributes besides those of every record."""
        by = self._logger.makeRecord
        if (
            not self._is_known
            or type(by) is not MethodType  # what wraps a method may show that one's attributes
            or by.__func__ is not _MAKE_RECORD
            or getLogRecordFactory() is not LogRecord
            or not (logging.logThreads and logging.logProcesses and logging.logMultiprocessing)
        ):
            return self._made_by_logging(level, arguments, extra)
        first, now = self._first, time.time()
        facts = first.copy()
        facts.update(extra)
        facts["args"] = arguments
        facts["levelno"] = level
        facts["levelname"] = getLevelName(level)
        facts["created"] = now
        facts["msecs"] = now % 1 * 1_000 // 1
        facts["relativeCreated"] = first["relativeCreated"] + (now - first["created"]) * 1_000
        facts["thread"] = threading.get_ident()
        facts["threadName"] = threading.current_thread().name
        facts["process"] = os.getpid()
        multiprocessing: Any = sys.modules.get("multiprocessing")
        if multiprocessing is not None:  # else this is the process that it was at the first record
            try:
                facts["processName"] = multiprocessing.current_process().name
            except Exception:  # it is being imported
                facts["processName"] = "MainProcess"
        if sys.version_info >= (3, 12):
            asyncio: Any = sys.modules.get("asyncio") if logging.logAsyncioTasks else None
            try:
                facts["taskName"] = asyncio.current_task().get_name()
            except Exception:  # no loop of asyncio's runs here, or nobody has imported it
                facts["taskName"] = None
        record = LogRecord.__new__(LogRecord)
        record.__dict__ = facts
        return record

    def _made_by_logging(self, level: int, arguments: tuple[object, ...], extra: Mapping[str, Any]) -> LogRecord:
        logger, path, message = self._logger, self._path, self._message
        return logger.makeRecord(logger.name, level, path, 0, message, arguments, None, self._function, extra)


def _is_of_logging(function: Any) -> bool:
    """Say whether ``function`` is one of :mod:`logging`, and not what somebody put in its place."""
    return getattr(function, "__globals__", None) is vars(logging)


class _Item(NamedTuple):
    handlers: Sequence[logging.Handler]
    record: LogRecord
    context: Context
    failed: Callable[[], None] | None


class LogWriter:
    """Hands records to handlers: to those that never block at once, to the others on its thread."""

    def __init__(self, most: int = MOST_RECORDS) -> None:
        self._most = most
        self._ended = False
        self.forget_thread()

    def forget_thread(self) -> None:
        """Start anew, in the child of a fork: nothing waits, and nobody writes."""
        # Destructors and signal handlers put to it as well, which no other queue of the standard library allows.
        self._waiting: queue.SimpleQueue[_Item | threading.Event] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.RLock()
        self._handing_over = threading.RLock()
        self._to: logging.Handler | None = None
        self._lost = self._told = 0
        self._waited = 0.0  # in vain, for what was to be flushed
        self._forking = threading.local()  # of each thread: whether it waited with success

    # -- where it is logged

    def write(self, logger: logging.Logger, record: LogRecord, failed: Callable[[], None] | None = None) -> None:
        """Have the handlers of ``logger``, and of those above it, take ``record``.

        Raises :class:`RecordLost`, and what a handler raises that gets it at once. What another one raises later
        nobody hears of, but ``failed`` is called.
        """
        filtered: object = logger.filter(record)
        if not filtered:
            return
        if isinstance(filtered, LogRecord):  # as filters may return it since Python 3.12
            record = filtered
        at_once, later = split(handlers_of(logger), record.levelno)
        try:
            if later:
                self._have_written(_Item(later, record, copy_context(), failed))
        finally:
            for handler in at_once:
                handler.handle(record)

    def _have_written(self, item: _Item) -> None:
        if self._ended:  # the thread is gone, or will be in a moment
            if self._to is not None:
                raise RecordLost
            self._hand_over(item)
            return
        if self._waiting.qsize() >= self._most:
            self._lost += 1
            raise RecordLost
        self._waiting.put(item)
        if self._thread is None:
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="capgate-log", daemon=True)
                self._thread = thread
                try:
                    thread.start()
                except RuntimeError:  # too many threads, or the interpreter is about to end
                    self._thread = None
                    self._write_here()

    def _write_here(self) -> None:
        while not self._waiting.empty():
            self._take(self._waiting.get())

    def flush(self, seconds: float = FLUSHING) -> bool:
        """Wait until what was logged so far is written, at most so many seconds. Says whether it is."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return self._waiting.empty()
        written = threading.Event()
        self._waiting.put(written)
        started = time.monotonic()
        if written.wait(seconds):
            return True
        self._waited += time.monotonic() - started
        return False

    # -- on the thread

    def _run(self) -> None:
        while True:
            self._take(self._waiting.get())
            if self._lost > self._told and self._waiting.qsize() <= self._most // 2:
                with suppress(Exception):  # of a handler at which it cannot even be looked
                    self._tell()

    def _take(self, item: _Item | threading.Event) -> None:
        if isinstance(item, threading.Event):
            item.set()
        else:
            with self._handing_over:
                item.context.run(self._hand_over, item)

    def _hand_over(self, item: _Item) -> None:
        for handler in item.handlers:
            self._to = handler
            try:
                handler.handle(item.record)
            except BaseException:  # somebody has to go on writing, whatever a handler does
                if item.failed is not None:
                    item.failed()
        self._to = None

    def _tell(self) -> None:
        lost, self._told = self._lost - self._told, self._lost
        logger = logging.getLogger("capgate")
        text = "%d log records were lost: more than %d waited for handlers that are too slow"
        record = logger.makeRecord(logger.name, logging.ERROR, __file__, 0, text, (lost, self._most), None, "_tell")
        at_once, later = split(handlers_of(logger), logging.ERROR)
        self._take(_Item([*at_once, *later], record, copy_context(), None))

    # -- forking and ending

    def before_fork(self) -> None:
        """Wait a little for the handler that is writing: in the child, its locks would be held for ever."""
        self._forking.waited = self._handing_over.acquire(timeout=_FORKING)

    def after_fork(self) -> None:
        """Go on, in the parent."""
        if self._forking.waited:
            self._handing_over.release()

    def end(self) -> None:
        """Write what waits, for :data:`FLUSHING` seconds at most. What is logged afterwards is written at once.

        Unless a handler is stuck: then the rest is lost, and nobody else waits for that handler either.
        """
        flushed = self.flush(max(0.0, FLUSHING - self._waited))
        self._ended = True
        stuck = self._to
        if not flushed and stuck is not None:
            _abandon(stuck)


def handlers_of(logger: logging.Logger) -> list[logging.Handler]:
    """Return the handlers that the records of ``logger`` go to."""
    handlers = logger.handlers.copy()
    above = logger
    while above.propagate and above.parent is not None:
        above = above.parent
        handlers += above.handlers
    if not handlers and logging.lastResort is not None:
        handlers = [logging.lastResort]
    return handlers


def _abandon(handler: logging.Handler) -> None:
    """Keep the end of the process from waiting for a handler that is stuck in a write, with its lock and its stream's.

    :func:`logging.shutdown` would, and the interpreter, which flushes the standard streams.
    """
    for method in ("acquire", "release", "flush", "close"):
        setattr(handler, method, _do_nothing)
    stream = getattr(handler, "stream", None)
    for name in ("stdout", "stderr"):
        if stream is not None and getattr(sys, name) is stream:
            setattr(sys, name, None)


def _do_nothing() -> None:
    pass


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:  # cannot be subscripted before Python 3.11
    _Adapter = logging.LoggerAdapter


class BackgroundLogger(_Adapter):
    """A logger whose handlers get their records from :data:`WRITER`. Never raises for want of room."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log as :meth:`logging.Logger.log` does."""
        logger = self.logger
        if not is_enabled(logger, level):
            return
        error = kwargs.get("exc_info")
        if error is True:
            error = sys.exc_info()[1]
        told = (type(error), error, error.__traceback__) if isinstance(error, BaseException) else None
        frame = sys._getframe(2)
        where = (frame.f_code.co_filename, frame.f_lineno)
        record = logger.makeRecord(logger.name, level, *where, msg, args, told, frame.f_code.co_name)
        with suppress(Exception):  # whatever a handler of the application does
            WRITER.write(logger, record)


#: The one writer of this process.
WRITER: Final = LogWriter()

os.register_at_fork(before=WRITER.before_fork, after_in_parent=WRITER.after_fork, after_in_child=WRITER.forget_thread)
atexit.register(WRITER.end)
