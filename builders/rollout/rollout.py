"""Rollout and rollback of a model's version on a running server.

While a version is verified it is hidden: whatever happens to the server or to this
process, the next start serves the version before. Only after the candidate has passed
is it made the latest version again, rendered into the configs, and loaded. Triton loads
it beside the old one, switches, and retires the old one when its requests are answered.
Ensembles are loaded with it, because their configs name the weights of their steps.

A supervisor may restart the server at any moment of this, because a process has died.
A rollout that fails therefore hides the version first, and ends when the server runs
the version before, or has not come back within RETURN_TIMEOUT_S. A version that was
refused stays withdrawn. One that was not judged stays pending for the next rollout.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builders.progress import Progress, no_progress
from builders.repository.layout import ARTEFACTS, Repository, origin_from_record
from builders.repository.render import render_repository
from builders.repository.versions import (
    PENDING,
    WITHDRAWN,
    hide_versions,
    latest_pending,
    pending_path,
    show_version,
)
from builders.rollout.candidate import (
    find_target,
    read_config,
    serve_candidate,
)
from builders.rollout.control import LoadError, ModelControl, RolloutError
from builders.spec.catalogue import catalogue
from builders.spec.ensemble import Ensemble
from builders.spec.model import Network
from builders.verify.comparison import (
    Comparison,
    compare_outputs,
    require_tolerance,
    tolerance_text,
)
from builders.verify.inputs import server_runner
from builders.verify.reference import ReferenceAnswers, VerificationError
from builders.weights import Origin
from personserve import (
    Client,
    IncompatibleServerError,
    InvalidInputError,
    PersonServeError,
    ServerError,
)

ComputeReference = Callable[[Origin, str], ReferenceAnswers]
"""Returns the answers that a version must give, for its weights and precision."""

RETURN_TIMEOUT_S = 90.0
"""Time for a server to come back that a supervisor restarts."""

RETURN_INTERVAL_S = 0.25

JUDGEMENTS = (
    *(LoadError, VerificationError),
    *(IncompatibleServerError, InvalidInputError, ServerError),
)
"""Errors that a version itself has caused. The others say something about the server:
it is restarted, overloaded, or late."""

CPU_TARGETS = ("cpu", "onnxruntime", "openvino")

Comparisons = tuple[Comparison, ...]


@dataclass(frozen=True)
class VersionChange:
    """A change of the version that a server runs.

    Attributes:
        model: Name of the model.
        before: Version that was served.
        after: Version that is served now; the same if there was nothing to do.
        origin: Text form of the weights that are served now.
        comparisons: Results of the verification through the server; empty after a
            rollback.
    """

    model: str
    before: int
    after: int
    origin: str
    comparisons: Comparisons = ()


def roll_out(
    model: Network,
    repository: Repository,
    control: ModelControl,
    compute_reference: ComputeReference,
    progress: Progress = no_progress,
) -> VersionChange:
    """Serve the latest version of a model, once it has answered rightly on the server.

    Args:
        model: Network to roll out.
        repository: Repository that the server reads.
        control: The server.
        compute_reference: Returns the answers that the version must give.
        progress: Callback for the current work.

    Returns:
        What changed.

    Raises:
        RolloutError: The version cannot be loaded or run. The server runs the version
            that it ran before, and the next start does, too.
        VerificationError: The version answers outside the model's tolerance; likewise.
    """
    with _lock(repository, model.name):
        served = _Served.from_server(model, repository, control)
        pending = latest_pending(served.folder)  # of a rollout that was interrupted
        if pending is not None and pending > repository.version(model.name):
            show_version(served.folder, pending)
        version = repository.version(model.name)
        origin, precision = served.read_record(version)
        if version == served.version:
            return VersionChange(model.name, version, version, str(origin))
        served.read_record(served.version)  # there must be something to go back to
        progress("computing the reference")
        reference = compute_reference(origin, precision)
        if reference.origin != str(origin):
            raise VerificationError(
                f"version {version} was built from {origin}, the reference from "
                f"{reference.origin}"
            )
        check = _Check(served, reference, precision, version)
        try:
            served.hide_above(served.version, PENDING)
            with control.access.open_client() as client:
                progress(f"verifying version {version} beside {served.version}")
                check.verify_candidate(client)
                progress(f"switching to version {version}")
                show_version(served.folder, version)
                served.switch_to(version)
                comparisons = check.verify(client, model.name)
        except BaseException as exc:
            raise _give_up(served, version, exc, progress) from exc
    return VersionChange(model.name, served.version, version, str(origin), comparisons)


def roll_back(
    model: Network, repository: Repository, control: ModelControl
) -> VersionChange:
    """Serve the version before the one that a server runs, and withdraw that.

    Args:
        model: Network to roll back.
        repository: Repository that the server reads.
        control: The server.

    Returns:
        What changed.

    Raises:
        RolloutError: There is no version before, or it cannot be loaded; the server
            runs what it ran before.
    """
    with _lock(repository, model.name):
        served = _Served.from_server(model, repository, control)
        version = repository.previous_version(model.name, served.file, served.version)
        if version is None:
            raise RolloutError(
                f"{model.name} has no version before {served.version} that is built "
                f"for target {served.target}; build the weights that you want to serve "
                "and roll them out"
            )
        origin, _ = served.read_record(version)
        hide_versions(served.folder, above=version)
        try:
            served.switch_to(version)
        except BaseException as exc:
            show_version(served.folder, served.version)
            state = served.return_to(served.version)
            if isinstance(exc, RolloutError):
                raise RolloutError(f"{exc}\n{state}") from exc
            raise
    return VersionChange(model.name, served.version, version, str(origin))


def _give_up(
    served: _Served, version: int, exc: BaseException, progress: Progress
) -> BaseException:
    """Return a server and the repository to the version before; the error to raise."""
    name, before = served.model.name, served.version
    is_refused = isinstance(exc, JUDGEMENTS)
    served.hide_above(before, WITHDRAWN if is_refused else PENDING)
    progress(f"waiting until the server runs version {before}")
    state = served.return_to(before)
    if not isinstance(exc, (RolloutError, VerificationError, PersonServeError)):
        return exc
    state += (
        f"; version {version} is withdrawn; build {name} again"
        if is_refused
        else f"; version {version} was not judged, so roll it out again"
    )
    error = VerificationError if isinstance(exc, VerificationError) else RolloutError
    return error(f"{exc}\n{state}")


@dataclass(frozen=True)
class _Served:
    """A model as a server runs it."""

    model: Network
    repository: Repository
    control: ModelControl
    version: int
    target: str

    @classmethod
    def from_server(
        cls, model: Network, repository: Repository, control: ModelControl
    ) -> _Served:
        versions = control.list_versions()
        if model.name not in versions:
            raise RolloutError(
                f"{control.access.address} does not serve {model.name}; start it with "
                f"python -m builders serve --model {model.name}"
            )
        target = find_target(model, control.read_config(model.name))
        return cls(model, repository, control, versions[model.name], target)

    @property
    def file(self) -> str:
        return ARTEFACTS[self.target]

    @property
    def folder(self) -> Path:
        return self.repository.folder(self.model.name)

    def read_record(self, version: int) -> tuple[Origin, str]:
        """Return weights and precision of a version, which must be whole."""
        path = self.repository.artefact_path(self.model.name, self.file, version)
        record = self.repository.record(path)
        if record is None:
            raise RolloutError(
                f"{path} does not exist, or is not the file that its record describes; "
                f"run python -m builders build --target {self.target} "
                f"{self.model.name}, and restart the server if it runs a version that "
                "is no longer there"
            )
        return origin_from_record(record), record.get("precision", "fp32")

    def hide_above(self, version: int, name: str) -> None:
        hide_versions(self.folder, above=version, name=name)
        self.render(version)

    def return_to(self, version: int) -> str:
        """Have the server run a version, also after a restart; return a text of it.

        The version must be the latest one of the repository.
        """
        name, deadline = self.model.name, time.monotonic() + RETURN_TIMEOUT_S
        while True:
            try:
                if self.control.list_versions().get(name) != version:
                    self.switch_to(version)
                else:
                    self.render(version)
            except RolloutError as exc:
                if time.monotonic() > deadline:
                    return (
                        f"{exc}\n{name} is served in version {version} when the server "
                        "starts again"
                    )
                time.sleep(RETURN_INTERVAL_S)
            else:
                return f"{name} is served in version {version} as before"

    def render(self, version: int) -> None:
        """Have all configs describe the weights of a version."""
        origin, _ = self.read_record(version)
        self.repository.set_origin(self.model.name, origin)
        render_repository(self.repository)

    def switch_to(self, version: int) -> None:
        """Load the latest version of the repository, and see that it is this one."""
        self.render(version)
        ensembles = self._find_ensembles()
        # an ensemble is loaded with its changed steps at once; the others follow with
        # the configs that they had (Triton 2.51)
        self.control.load(next(iter(ensembles), self.model.name))
        loaded = self.control.list_versions().get(self.model.name)
        if loaded != version:
            raise RolloutError(
                f"{self.control.access.address} runs version {loaded} and not "
                f"{version}: it does not read {self.repository.root}"
            )
        for name in ensembles:
            rendered = read_config(self.repository, name)
            if rendered["parameters"] != self.control.read_config(name)["parameters"]:
                self.control.load(name)

    def _find_ensembles(self) -> list[str]:
        """Return the ensembles of the model that the server runs."""
        loaded = self.control.list_versions()
        return [
            each.name
            for each in catalogue().values()
            if isinstance(each, Ensemble)
            and each.name in loaded
            and self.model.name in {step.model.name for step in each.steps}
        ]


@dataclass(frozen=True)
class _Check:
    """The verification of a version through a server."""

    served: _Served
    reference: ReferenceAnswers
    precision: str
    version: int

    def verify_candidate(self, client: Client) -> None:
        """Verify the hidden version under another name."""
        served = self.served
        path = pending_path(served.folder, self.version)
        with serve_candidate(
            served.control, served.model, served.repository, served.target, path
        ) as name:
            self.verify(client, name)

    def verify(self, client: Client, name: str) -> Comparisons:
        model, target = self.served.model, self.served.target
        comparisons = compare_outputs(
            model,
            self.reference,
            server_runner(client, name),
            "cpu" if target in CPU_TARGETS else target,
            self.precision,
        )
        require_tolerance(
            comparisons,
            f"version {self.version} of {model.name}, run by the server,",
            tolerance_text(model.tolerance, self.precision),
        )
        return tuple(comparisons)


@contextmanager
def _lock(repository: Repository, model: str) -> Iterator[None]:
    """Let one rollout of a model run at a time."""
    descriptor = os.open(repository.folder(model), os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as exc:
        raise RolloutError(f"{model} is being rolled out by another process") from exc
    finally:
        os.close(descriptor)
