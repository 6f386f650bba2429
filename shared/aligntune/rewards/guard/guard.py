"""Checks that a reward returns a number or None for each sample, in time."""

from __future__ import annotations

import asyncio
import inspect
import math
import numbers
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligntune.contract import INPUT_ROOT_VARIABLE
from aligntune.errors import AligntuneError, RewardError
from aligntune.failures import foreseen, named
from aligntune.rewards.guard.timeout import Limit, TimeUp
from aligntune.rewards.guard.watchdog import Backstop
from aligntune.rewards.inputs import excerpt

LARGEST = (2 - 2**-24) * 2.0**127
"""Larger numbers are infinite in float32, in which trainers keep rewards."""


@dataclass(frozen=True)
class Batch:
    """The samples of one call."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    rest: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.completions)

    def only(self, index: int) -> Batch:
        """One sample: lists of the batch's length are columns; other values stay unchanged."""
        rest = {
            key: [value[index]] if isinstance(value, list) and len(value) == len(self) else value
            for key, value in self.rest.items()
        }
        return Batch([self.prompts[index]], [self.completions[index]], rest)

    def shown(self, index: int) -> str:
        """A sample, for error messages."""
        prompt, completion = excerpt(self.prompts[index]), excerpt(self.completions[index])
        return f"sample {index + 1} of {len(self)} (prompt {prompt}, completion {completion})"

    def arguments(self) -> dict[str, Any]:
        return {"prompts": self.prompts, "completions": self.completions, **self.rest}


class Guard:
    """A guarded reward, as a trainer calls it.

    Args:
        function: the reward; it may be a coroutine function.
        name: its name in logs.
        timeout: seconds that a call may take. A function that limits each sample itself has an
            attribute ``needs``, which returns the seconds that a batch of a given size may take.
        backstop: ends this process if a call never returns to the interpreter.
        weight: the factor that the trainer multiplies scores by, in float32.

    Raises:
        RewardError: on a call, if the reward raises, does not return in time, or does not return a
            number or None for each sample that is finite in float32. The message names reward and
            sample.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        timeout: float,
        backstop: Backstop | None,
        weight: float = 1.0,
    ) -> None:
        self.__name__ = name
        self._weight = weight
        self._function = function
        self._timeout = timeout
        self._backstop = backstop

    def __call__(self, prompts: Any, completions: Any, **rest: Any) -> list[float | None]:
        batch = Batch(prompts, completions, rest)
        if not len(batch):
            return []
        try:
            with self._in_time(self._seconds(batch), self._never(self._first_of(batch))) as limit:
                returned = self._ask(batch)
        except (AligntuneError, TimeUp):
            raise
        except BaseException as error:  # also KeyboardInterrupt: a real one is a request to stop
            if (
                foreseen(error) is not None
            ):  # out of memory or a full disk, not a fault of the function
                raise
            traceback.print_exc()
            raise self._raised(batch, error) from error
        if limit.over:
            raise self._too_slow(batch)
        scores = self._numbers(batch, returned)
        self._log_counts(batch)
        return scores

    def _ask(self, batch: Batch) -> Any:
        returned = self._function(**batch.arguments())
        return _result_of(returned) if inspect.isawaitable(returned) else returned

    def _log_counts(self, batch: Batch) -> None:
        """Log what a built-in counted, as ``rewards/NAME/timeouts`` and ``rewards/NAME/errors``."""
        log = batch.rest.get("log_metric")
        if log is None:
            return
        for name, count in getattr(self._function, "counts", {}).items():
            log(f"rewards/{self.__name__}/{name}", count)

    def _seconds(self, batch: Batch) -> float:
        needs = getattr(self._function, "needs", None)
        return max(self._timeout, needs(len(batch))) if needs else self._timeout

    @contextmanager
    def _in_time(self, seconds: float, error: RewardError) -> Iterator[Limit]:
        with ExitStack() as stack:
            if self._backstop is not None:
                stack.enter_context(self._backstop.watching(seconds, error))
            yield stack.enter_context(Limit(seconds))

    def _numbers(self, batch: Batch, returned: Any) -> list[float | None]:
        scores = _as_list(returned)
        if scores is None:
            raise self._error(
                f"returned {_described(returned)}, not a list of {len(batch)} numbers, for "
                f"{self._first_of(batch)}"
            )
        if len(scores) != len(batch):
            raise self._wrong_length(batch, len(scores))
        found: list[float | None] = []
        for index, score in enumerate(scores):
            value = _number(score)
            if value is None and score is not None:
                raise self._error(
                    f"returned {_described(score)}, which is not a number, for {batch.shown(index)}"
                )
            if value is not None and not math.isfinite(value):
                raise self._error(f"returned {value} for {batch.shown(index)}")
            if value is not None and max(abs(value), abs(value * self._weight)) > LARGEST:
                weighted = "" if abs(value) > LARGEST else f" times its weight {self._weight:g}"
                raise self._error(
                    f"returned {value:g}, which{weighted} is infinite in the trainer's "
                    f"float32, for {batch.shown(index)}"
                )
            found.append(value)
        return found

    def _raised(self, batch: Batch, error: BaseException) -> RewardError:
        """Find the sample that it raises for, by calling it for one at a time."""
        for index, _, again, limit in self._one_by_one(batch):
            if again is not None or limit.over:
                return self._error(f"raised {_where(again or error)} for {batch.shown(index)}")
        return self._error(f"raised {_where(error)} for {self._first_of(batch)}")

    def _too_slow(self, batch: Batch) -> RewardError:
        """Find the sample that takes longer than the whole batch may take."""
        for index, _, _, limit in self._one_by_one(batch):
            if limit.over:
                return self._never(batch.shown(index))
        return self._error(
            f"did not return within {self._timeout:g} s for {len(batch)} samples together, but "
            "did for each sample alone",
            "Raise the reward's timeout, or make the function faster",
        )

    def _wrong_length(self, batch: Batch, length: int) -> RewardError:
        what = f"returned {length} numbers for {len(batch)} samples"
        for index, returned, _, _ in self._one_by_one(batch):
            alone = _as_list(returned)
            if alone is not None and len(alone) != 1:
                return self._error(f"{what}, and {len(alone)} for {batch.shown(index)} alone")
        return self._error(f"{what}, starting with {batch.shown(0)}")

    def _one_by_one(self, batch: Batch) -> Iterator[tuple[int, Any, BaseException | None, Limit]]:
        """Call it for each sample alone, within the time of one batch."""
        left = self._seconds(batch)
        for index in range(len(batch)):
            returned, failed = None, None
            with self._in_time(left, self._never(batch.shown(index))) as limit:
                try:
                    returned = self._ask(batch.only(index))
                except TimeUp:
                    raise
                except BaseException as error:
                    failed = error
            yield index, returned, failed, limit
            left = max(left - limit.spent, 0.01)

    def _never(self, where: str) -> RewardError:
        return self._error(
            f"did not return within {self._timeout:g} s for {where}",
            "Fix the function, or raise the reward's timeout",
        )

    def _first_of(self, batch: Batch) -> str:
        if len(batch) == 1:
            return batch.shown(0)
        return f"a batch of {len(batch)} samples, starting with {batch.shown(0)}"

    def _error(self, what: str, remedy: str = "Fix the function") -> RewardError:
        return RewardError(f"the reward {self.__name__} {what}", remedy)


def _result_of(awaitable: Any) -> Any:
    """Wait for a coroutine, also where an event loop is running, as in a notebook."""

    async def awaited() -> Any:
        return await awaitable

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(awaited())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, awaited()).result()


def _as_list(returned: Any) -> list[Any] | None:
    """A function's result as a list; arrays are accepted, text and mappings are not."""
    if isinstance(returned, (str, bytes, Mapping)):
        return None
    try:
        return list(returned)
    except TypeError:
        return None


def _number(score: Any) -> float | None:
    """A number, including numpy's and torch's, or None."""
    if not isinstance(score, numbers.Real) and hasattr(score, "item"):
        try:
            score = score.item()
        except (ValueError, RuntimeError):  # more than one element
            return None
    try:
        return float(score) if isinstance(score, numbers.Real) else None
    except OverflowError:
        return math.inf


def _described(value: Any) -> str:
    text = repr(value)
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{short} ({type(value).__name__})"


def _where(error: BaseException) -> str:
    """An error on one line, with the last line of the function's code."""
    message = named(error)
    others = ("<", sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(others):
            name = frame.filename.removeprefix(os.environ.get(INPUT_ROOT_VARIABLE, ""))
            return f"{message} ({name}, line {frame.lineno})"
    return message
