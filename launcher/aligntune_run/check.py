"""Checks: small functions from one subject to results, grouped by the subject that they look at.

There are five groups (:class:`Scope`): the rules about a machine and about a backend
(:mod:`aligntune_run.selection.rules`), the checks of a request's inputs
(:mod:`aligntune_run.planning.preflight`), and doctor's checks of a machine and of a run
(:mod:`aligntune_run.doctor.checks`). To add a check, write a function in the module of its group::

    @MACHINE.check("platform", HardwareError, "Run on x86-64 Linux")
    def platform(at: Situation) -> Result:
        return pass_if(at.host.system == "Linux", at.host.system)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from aligntune.errors import KINDS, AligntuneError

Level = Literal["pass", "warn", "fail"]

About = Literal["machine", "backend", "request"]
"""What a failure says something about: the machine, what a backend supports, or the request."""

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Verdict:
    """What one check says, with its evidence.

    Attributes:
        rule: the name of the check.
        backend: the backend that was judged; empty if the check does not judge a backend.
        level: ``warn`` is shown and does not prevent the run.
        remedy: what to do about a failure or a warning.
        kind: of a failure, the class of its error (:data:`aligntune.errors.KINDS`).
    """

    rule: str
    backend: str
    level: Level
    evidence: str
    remedy: str = ""
    kind: str = ""

    @property
    def passed(self) -> bool:
        return self.level != "fail"

    @property
    def error(self) -> AligntuneError | None:
        """The error of a failure."""
        if self.passed:
            return None
        kind = KINDS.get(self.kind, AligntuneError)  # a record of an older version names none
        return kind(self.evidence, self.remedy)


@dataclass(frozen=True)
class Result:
    """What a check returns; ``remedy`` and ``kind`` override those of the :class:`Check`."""

    level: Level
    evidence: str
    remedy: str = ""
    kind: type[AligntuneError] | None = None


def passes(evidence: str) -> Result:
    return Result("pass", evidence)


def warns(evidence: str, remedy: str = "") -> Result:
    """Something to know; the run works anyway."""
    return Result("warn", evidence, remedy)


def fails(evidence: str, remedy: str = "") -> Result:
    return Result("fail", evidence, remedy)


def failed(error: AligntuneError) -> Result:
    """A failure that ends with this error."""
    return Result("fail", error.what, error.remedy, type(error))


def pass_if(passed: bool, evidence: str, remedy: str = "") -> Result:
    return Result("pass" if passed else "fail", evidence, remedy)


Function = Callable[[Subject], Result | Iterable[Result] | None]
"""Returns nothing if it does not apply. It may raise an ``AligntuneError`` instead of failing."""


@dataclass(frozen=True)
class Check(Generic[Subject]):
    """One check, with the class and the remedy of its failures."""

    name: str
    function: Function[Subject]
    kind: type[AligntuneError]
    remedy: str
    about: About

    def results(self, subject: Subject) -> Iterator[Result]:
        try:
            returned = self.function(subject)
            if isinstance(returned, Result):
                yield returned
            else:
                yield from returned or ()
        except AligntuneError as error:
            yield failed(error)


class Scope(Generic[Subject]):
    """All checks of one subject, by name, in the order in which they are defined."""

    def __init__(self) -> None:
        self.checks: dict[str, Check[Subject]] = {}

    def check(
        self, name: str, kind: type[AligntuneError], remedy: str = "", about: About = "machine"
    ) -> Callable[[Function[Subject]], Function[Subject]]:
        """Add the decorated function as a check.

        Args:
            name: shown to users, and unique in this scope.
            kind: the class of its failures.
            remedy: what to do about a failure or a warning, if the result does not say.
            about: what a failure says something about.
        """

        def add(function: Function[Subject]) -> Function[Subject]:
            assert name not in self.checks, name
            self.checks[name] = Check(name, function, kind, remedy, about)
            return function

        return add

    def judge(
        self, subject: Subject, backend: str = "", about: About | None = None
    ) -> tuple[Verdict, ...]:
        """The verdicts of every check on one subject.

        Args:
            subject: what the checks look at.
            backend: the backend that is judged.
            about: run only the checks about this.
        """
        return tuple(
            _verdict(check, result, backend)
            for check in self.checks.values()
            if about in (None, check.about)
            for result in check.results(subject)
        )


def _verdict(check: Check[Subject], result: Result, backend: str) -> Verdict:
    remedy = "" if result.level == "pass" else result.remedy or check.remedy
    kind = (result.kind or check.kind).__name__ if result.level == "fail" else ""
    return Verdict(check.name, backend, result.level, result.evidence, remedy, kind)
