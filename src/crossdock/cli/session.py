"""What all commands share: the global options, the configuration, and how asynchronous work is run and stopped."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import click

from crossdock.cli import exits
from crossdock.errors import ConfigError

if TYPE_CHECKING:
    import asyncio

    from crossdock.config import Config, Location
    from crossdock.storage.storage import Storage

__all__ = ["Interrupted", "Session", "common", "enough_files", "new_loop", "opened", "run_in_child"]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_FILES = 16
"""Below that, uvloop cannot even be closed again, and the interpreter fails to load what would say why."""
_SOON = 2.0
"""Seconds that stopping may take without a word."""


class Interrupted(Exception):
    """The user stopped the command; everything has been cleaned up."""


class Session:
    """One call of the program. Commands get it by `click.pass_obj`."""

    def __init__(self) -> None:
        self.config_file: str | None = None
        self.verbose = 0
        self.quiet = False
        self._interrupted = False

    @cached_property
    def config(self) -> Config:
        from pathlib import Path

        from crossdock.config import load

        return load(Path(self.config_file) if self.config_file else None)

    def has_config(self, config: Config) -> bool:
        """Whether it is in force; nothing is read."""
        return self.__dict__.get("config") is config

    def forget_config(self) -> None:
        """The next look at `config` reads the file again."""
        self.__dict__.pop("config", None)

    def locate(self, text: str) -> Location:
        """A location as it is written. A mistake in the configuration is one only where a name of it may be meant, or
        where the file was named on the command line. Raises `ConfigError`."""
        from crossdock.config import Config, is_url, may_name_endpoint

        nothing = Config()
        if self.config_file is None and not may_name_endpoint(text):
            return nothing.locate(text)
        try:
            config = self.config
        except ConfigError:
            if self.config_file is not None or (":" in text and not is_url(text)):
                raise
            config = nothing
        return config.locate(text)

    def say(self, text: str) -> None:
        """A line for a human, on stderr, below what was written to stdout before; silent with -q."""
        if not self.quiet:
            sys.stdout.flush()
            click.echo(text, err=True)

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run to the end. Ctrl-C, SIGTERM or SIGHUP cancels and waits for the clean-up, Ctrl-C after that ends at once.

        The other two may come twice of one cause: timeout(1) and a terminal that is closed do so.
        """
        import asyncio
        import signal
        import warnings

        self._log()
        # cryptography's, in two lines of Python, about what the server's operator alone can change.
        warnings.filterwarnings("ignore", "Diffie-Hellman over finite fields", module="asyncssh")

        ending = [signal.SIGINT, signal.SIGTERM]
        # Else nohup asked to go on without the terminal.
        if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
            ending.append(signal.SIGHUP)

        async def whole() -> T:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            assert task is not None
            for number in ending:
                loop.add_signal_handler(number, self.interrupt, task, number == signal.SIGINT)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
            return await work()

        collect_less_often()
        # From here on there may be something to clean up: they wait for the loop, which knows how.
        signal.pthread_sigmask(signal.SIG_BLOCK, ending)
        with asyncio.Runner(loop_factory=new_loop) as runner:
            try:
                return runner.run(whole())
            except asyncio.CancelledError:
                if self._interrupted:
                    raise Interrupted from None
                raise

    def interrupt(self, task: asyncio.Task[Any], insist: bool = True) -> None:
        """Break off what `run` was given, whose task this is; it cleans up. If somebody insists, end at once."""
        if self._interrupted:
            if not insist:
                return
            os.write(2, b"\ncrossdock: stopped without cleaning up; 'crossdock doctor' finds what is left\n")
            os._exit(exits.INTERRUPTED)
        self._interrupted = True
        task.get_loop().call_later(_SOON, self.say, "stopping: what is under way is taken back; Ctrl-C ends at once")
        task.cancel()

    def _log(self) -> None:
        import logging

        from crossdock.cli.logs import OneLine

        if not self.verbose:
            if logging.lastResort is not None:
                logging.lastResort.setFormatter(OneLine())
            return
        formatter = OneLine("%(asctime)s.%(msecs)03dZ %(levelname).1s %(name)s %(message)s", "%Y-%m-%d %H:%M:%S")
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter)
        logger = logging.getLogger("crossdock")
        logger.handlers[:] = [handler]
        logger.setLevel(logging.DEBUG if self.verbose > 1 else logging.INFO)


def enough_files(processes: int = 0) -> None:
    """Raises `ConfigError` where so few files may be open that nothing would work, with a socket to each process."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < _FILES + processes:
        why = f", too few for {processes} processes" if limit >= _FILES else ""
        raise ConfigError(f"only {limit} files may be open at once here{why}", hint="raise the limit: ulimit -n 1024")


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it can be had. Raises `ConfigError` as `enough_files` does."""
    import asyncio

    enough_files()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run_in_child(main: Coroutine[Any, Any, None]) -> None:
    """What a process of `--processes` runs its work with."""
    import asyncio

    collect_less_often()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main)


def collect_less_often() -> None:
    """Tell the garbage collector that much is made here, little of it in cycles: a sixth of the time of a long listing.

    What is loaded so far stays for good, and need not be looked at again.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@asynccontextmanager
async def opened(
    *locations: Location, bandwidth: float | None = None, retries: int = 0, looking: bool = False
) -> AsyncIterator[Sequence[Storage]]:
    """The storages of the locations, opened side by side; locations at one endpoint share one.

    `bandwidth`, in bytes a second, limits the last location's: what is read from elsewhere passes through it.
    `looking`: nothing is to be written anywhere, or it may replace what is there: then it is not asked whether a store
    could refuse to, which takes eight round trips.
    """
    import asyncio
    from dataclasses import replace

    places: list[Location] = []
    which: list[int] = []
    for location in reversed(locations):
        if looking:
            location = replace(location, settings=location.settings.looking())
        same = (place.name == location.name and place.settings == location.settings for place in places)
        number = next((number for number, found in enumerate(same) if found), len(places))
        if number == len(places):
            places.append(location)
        which.insert(0, number)

    async def begin(number: int) -> Storage:
        limit = None if number else bandwidth
        # In a thread: the libraries of one endpoint are loaded while another is connected to.
        storage = await asyncio.to_thread(places[number].storage, bandwidth=limit, retries=retries)
        try:
            return await stack.enter_async_context(storage)
        except ConfigError as error:
            # Such as a secret that is not there: it does not know whose it is.
            raise type(error)(f"endpoint {places[number].name}: {error.message}", hint=error.hint) from error

    async with AsyncExitStack() as stack:
        opening = [asyncio.ensure_future(begin(number)) for number in range(len(places))]
        try:
            storages = await asyncio.gather(*opening)
        except BaseException:
            # All must have ended before the stack closes what was opened.
            for task in opening:
                task.cancel()
            await asyncio.gather(*opening, return_exceptions=True)
            raise
        yield [storages[number] for number in which]


def common(function: F) -> F:
    """The global options; every command takes them too, so that their place on the command line does not matter."""

    def config(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        if value is not None:
            context.ensure_object(Session).config_file = value

    def verbose(context: click.Context, parameter: click.Parameter, value: int) -> None:
        context.ensure_object(Session).verbose += value

    def quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            context.ensure_object(Session).quiet = True

    options: dict[str, Any] = {"expose_value": False}
    function = click.option("-q", "--quiet", is_flag=True, callback=quiet, help="No progress, no summary.", **options)(
        function
    )
    function = click.option(
        "-v", "--verbose", count=True, callback=verbose, help="Log to stderr; -vv logs every operation.", **options
    )(function)
    return click.option(
        "--config",
        metavar="FILE",
        callback=config,
        help="The configuration; else $CROSSDOCK_CONFIG, else crossdock.yaml here.",
        **options,
    )(function)
