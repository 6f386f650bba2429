"""The planner: what it decides and holds, and what it decides again before a start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.helpers.hosts import make_host

from aligntune.errors import HardwareError
from aligntune_run import images
from aligntune_run.check import Verdict
from aligntune_run.engines import gpu_leases
from aligntune_run.engines.local.engine import ProcessEngine
from aligntune_run.host.types import Gpu, Host, ImageState
from aligntune_run.models.facts import ModelFacts
from aligntune_run.planning.planner import Inspection, Obtaining, Planner
from aligntune_run.selection.select import bare_request

GPU = Gpu(0, "GPU-aaaa", "NVIDIA H100", (9, 0), 2**36, 2**36)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    states = tuple(
        ImageState(
            recipe.backend, recipe.flavour, recipe.ref, recipe.lock_hash, "sha256:1", "present"
        )
        for recipe in images.recipes()
    )
    return make_host(
        tmp_path,
        gpus=(GPU, replace(GPU, index=1, uuid="GPU-bbbb")),
        images=states,
        driver="580.95.05",
    )


def planner(host: Host, gpus: str = "1", wait: bool = False) -> Planner:
    spec = bare_request(engine="process", gpus=gpus)
    inspection = Inspection(host, ModelFacts(model_type="llama"))
    return Planner(spec, inspection, Obtaining(wait=wait), trains=False)


def held(host: Host, *uuids: str) -> Host:
    gpus = (replace(gpu, leased="a-run") if gpu.uuid in uuids else gpu for gpu in host.gpus)
    return replace(host, gpus=tuple(gpus))


def test_choosing_again_is_the_same_choice_on_what_is_free_then(host: Host) -> None:
    made = planner(host)
    first = made.outcome.require()
    assert first.gpus == ("GPU-aaaa",)
    again = made.choose_on(held(host, "GPU-aaaa"))
    assert again.gpus == ("GPU-bbbb",)
    assert (again.backend, again.lock_hash) == (first.backend, first.lock_hash)
    with pytest.raises(HardwareError, match="is in use by a-run"):
        made.choose_on(held(host, "GPU-aaaa", "GPU-bbbb"))


def test_whoever_waits_is_planned_as_if_the_gpus_were_free(host: Host) -> None:
    busy = held(host, "GPU-aaaa", "GPU-bbbb")
    assert isinstance(planner(busy).outcome.refusal, HardwareError)
    waiting = planner(busy, wait=True)
    assert waiting.waits
    assert waiting.outcome.require().gpus


def test_looking_again_sees_who_holds_a_gpu_by_now(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locks").mkdir(mode=0o1777)
    monkeypatch.setattr(gpu_leases, "PLACES", (str(tmp_path / "locks"),))
    made = planner(host)
    with gpu_leases.Lease.take([GPU]) as lease:
        lease.sign("a-run (pid 1)")
        assert [gpu.leased for gpu in made.look_again().gpus] == ["a-run (pid 1)", None]
    assert made.look_again() == host


def test_what_is_wrong_with_an_input_is_the_refusal(host: Host) -> None:
    error = HardwareError("the data is on fire")
    finding = Verdict("data", "", "fail", error.what, kind="HardwareError")
    inspection = Inspection(host, None, (finding,))
    made = Planner(bare_request(engine="process"), inspection, Obtaining(), trains=False)
    assert isinstance(made.outcome.refusal, HardwareError)
    assert made.outcome.refusal.what == error.what


def test_an_engine_is_made_once(host: Host) -> None:
    made = planner(host)
    assert isinstance(made.engine("process"), ProcessEngine)
    assert made.engine("process") is made.engine("process")
    with pytest.raises(AssertionError, match="found to be reachable"):
        made.engine("docker")
