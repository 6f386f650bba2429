"""A container's arguments: confined, without secrets, and with the inputs that its run reads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.hosts import GPU, make_host
from tests.helpers.plans import make_plan

from aligntune import contract
from aligntune.errors import EngineError
from aligntune_run.engines.docker.arguments import (
    SECRET_VARIABLES,
    Surroundings,
    container_arguments,
    look,
)
from aligntune_run.engines.docker.environment import for_sdk
from aligntune_run.engines.docker.mounts import Bind, input_mounts
from aligntune_run.host.types import Engine, Host
from aligntune_run.images.code import code_folder
from aligntune_run.images.recipes import recipe
from aligntune_run.plan import Image, Phase, Plan

TOKEN = "hf_thisIsNobodysToken"


def arguments(
    plan: Plan, host: Host, phase: Phase = "train", around: Surroundings | None = None
) -> dict[str, Any]:
    return container_arguments(plan, host, phase, around or Surroundings())


def targets(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {mount["target"]: mount for mount in given["mounts"]}


class TestContainerArguments:
    def test_they_are_json_and_the_same_every_time(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert json.loads(json.dumps(given)) == given == arguments(make_plan(), host)

    def test_a_container_is_confined(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert given["user"] == "1234:2345"
        assert given["read_only"] is True
        assert given["cap_drop"] == ["ALL"]
        assert given["security_opt"] == ["no-new-privileges"]
        assert given["init"] is True
        assert for_sdk(given)["log_config"]["type"] == "json-file"
        assert given["mem_limit"] == given["memswap_limit"] == 2**33
        assert given["pids_limit"] > 0
        assert given["shm_size"] > 64 * 2**20
        assert {"exec", "mode=1777"} <= set(given["tmpfs"]["/tmp"].split(","))

    def test_the_image_is_run_by_digest_and_by_name_only_before_it_has_one(
        self, host: Host
    ) -> None:
        plan = make_plan()
        assert arguments(plan, host)["image"] == "sha256:abc"
        image = Image("aligntune-trl:cpu-abc", None, "build", "f00")
        plan = replace(plan, choice=replace(plan.choice, image=image))
        assert arguments(plan, host)["image"] == "aligntune-trl:cpu-abc"

    def test_on_a_rootless_engine_container_root_is_the_caller(self, tmp_path: Path) -> None:
        rootless = make_host(tmp_path, engine=Engine(True, rootless=True))
        given = arguments(make_plan(), rootless, around=Surroundings(groups=(27,)))
        assert given["user"] == "0:0"
        assert given["group_add"] == []

    def test_the_callers_further_groups_are_kept(self, host: Host) -> None:
        given = arguments(make_plan(), host, around=Surroundings(groups=(27, 1000)))
        assert given["group_add"] == ["27", "1000"]

    def test_labels_and_name_say_which_run_it_is(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert given["name"] == "aligntune-20261123-sft-m-1a2b3c-train-1"
        assert given["labels"] == {
            contract.LABEL_RUN_ID: "20261123-sft-m-1a2b3c",
            contract.LABEL_RUN_DIR: "/runs/r",
            contract.LABEL_PHASE: "train",
        }

    def test_gpus_are_named_by_uuid_and_may_not_go_missing(self, host: Host) -> None:
        given = arguments(make_plan(gpus=(GPU,)), host)
        assert given["device_requests"] == [
            {"device_ids": [GPU], "capabilities": [["gpu", "compute", "utility"]]}
        ]
        assert given["labels"][contract.LABEL_GPUS] == GPU
        assert given["environment"]["UNSLOTH_DISABLE_CPU_FALLBACK"] == "1"
        assert "CUDA_VISIBLE_DEVICES" not in given["environment"]

    def test_a_run_on_the_cpu_sees_no_gpu(self, host: Host) -> None:
        given = arguments(make_plan(), host)
        assert given["device_requests"] == []
        assert given["environment"]["CUDA_VISIBLE_DEVICES"] == ""
        assert "UNSLOTH_DISABLE_CPU_FALLBACK" not in given["environment"]

    def test_training_has_no_network_and_knows_it(self, host: Host) -> None:
        given = arguments(make_plan("org/model", "org/data"), host)
        assert given["network_mode"] == "none"
        offline = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
        assert [given["environment"][name] for name in offline] == ["1", "1", "1"]

    @pytest.mark.parametrize("phase", ["fetch", "train"])
    def test_every_container_gets_the_callers_number_of_threads(
        self, tmp_path: Path, phase: Phase
    ) -> None:
        host = make_host(tmp_path, environment={"OMP_NUM_THREADS": "3"})
        given = arguments(make_plan("org/model"), host, phase)
        assert given["environment"]["OMP_NUM_THREADS"] == "3"

    def test_fetching_has_the_network_but_none_of_the_users_files_and_no_gpu(
        self, host: Host
    ) -> None:
        around = Surroundings(inputs=(Bind("/d.jsonl", "/in/d.jsonl"),))
        given = arguments(make_plan("org/model", gpus=(GPU,)), host, "fetch", around)
        assert given["network_mode"] == "bridge"
        assert given["command"][-1] == "--fetch"
        assert not [target for target in targets(given) if target.startswith("/in")]
        assert given["device_requests"] == []
        assert contract.LABEL_GPUS not in given["labels"]
        assert "HF_HUB_OFFLINE" not in given["environment"]

    @pytest.mark.parametrize(
        ("name", "value", "network"),
        [
            ("HF_ENDPOINT", "http://localhost:8080", "host"),
            ("https_proxy", "127.0.0.1:3128", "host"),
            ("HTTP_PROXY", "http://[::1]:3128", "host"),
            ("HF_ENDPOINT", "https://mirror.example.org", "bridge"),
            ("HTTPS_PROXY", "http://proxy.example.org:3128", "bridge"),
            ("NO_PROXY", "localhost,127.0.0.1", "bridge"),
        ],
    )
    def test_fetching_shares_the_hosts_network_only_for_what_is_on_its_loopback(
        self, tmp_path: Path, name: str, value: str, network: str
    ) -> None:
        host = make_host(tmp_path, environment={name: value})
        given = arguments(make_plan("org/model"), host, "fetch")
        assert given["network_mode"] == network
        assert given["environment"][name] == value

    def test_the_run_directory_and_caches_are_all_that_is_writable(self, host: Host) -> None:
        around = Surroundings(inputs=(Bind("/m", "/in/m"),))
        given = arguments(make_plan("/m", "org/data"), host, around=around)
        writable = [mount["target"] for mount in given["mounts"] if not mount["read_only"]]
        assert writable == ["/run-dir", "/cache", "/cache/huggingface/datasets"]

    def test_a_local_run_sees_none_of_the_hubs_caches(self, host: Host) -> None:
        assert list(targets(arguments(make_plan(), host))) == ["/run-dir", "/cache"]

    def test_the_hub_cache_can_be_written_while_fetching_only(self, host: Host) -> None:
        plan = make_plan("org/model")
        fetching, training = (arguments(plan, host, phase) for phase in ("fetch", "train"))
        assert targets(fetching)[contract.HUB_CACHE]["read_only"] is False
        assert targets(training)[contract.HUB_CACHE]["read_only"] is True
        assert contract.DATASETS_CACHE not in targets(fetching)

    def test_the_folder_that_holds_the_hub_token_is_never_mounted(self, host: Host) -> None:
        for phase in ("fetch", "train"):
            given = arguments(make_plan("org/model", "org/data"), host, phase)
            sources = {mount["source"] for mount in given["mounts"]}
            assert str(host.hub_cache.parent) not in sources

    def test_every_phase_runs_the_launchers_code_which_it_cannot_change(self, host: Host) -> None:
        plan = make_plan("org/model")
        code = look(plan, host, {}).code
        now = recipe("trl", "cpu").code_hash
        assert code == str(code_folder("trl", now, host.cache))
        for phase in plan.phases:
            mount = targets(arguments(plan, host, phase, Surroundings(code=code)))[
                contract.CODE_DIR
            ]
            assert (mount["source"], mount["read_only"]) == (code, True)

    def test_a_plan_keeps_its_code_while_it_waits_and_the_clone_is_edited(self, host: Host) -> None:
        plan = make_plan()
        image = Image("aligntune-trl:cpu-abc", "sha256:abc", "present", "f00", "0" * 64)
        plan = replace(plan, choice=replace(plan.choice, image=image))
        assert look(plan, host, {}).code == str(code_folder("trl", "0" * 64, host.cache))

    def test_the_users_own_image_runs_its_own_code(self, host: Host) -> None:
        plan = make_plan()
        plan = replace(plan, spec=plan.spec.model_copy(update={"image": "mine:1"}))
        around = look(plan, host, {})
        assert around.code is None
        assert contract.CODE_DIR not in targets(arguments(plan, host, around=around))

    def test_a_company_proxys_ca_bundle_is_given_to_fetching(self, host: Host) -> None:
        around = Surroundings(ca_bundle="/etc/ssl/company.pem")
        given = arguments(make_plan("org/model"), host, "fetch", around)
        place = given["environment"]["SSL_CERT_FILE"]
        assert targets(given)[place]["source"] == "/etc/ssl/company.pem"
        assert given["environment"]["REQUESTS_CA_BUNDLE"] == place


class TestSecrets:
    def test_a_token_file_is_mounted_for_fetching_only(self, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text(TOKEN)
        host = make_host(tmp_path, token=file)
        plan = make_plan("org/model")
        around = look(plan, host, {})
        fetching = arguments(plan, host, "fetch", around)
        assert targets(fetching)[contract.TOKEN_PATH]["source"] == str(file)
        assert targets(fetching)[contract.TOKEN_PATH]["read_only"] is True
        assert fetching["environment"]["HF_TOKEN_PATH"] == contract.TOKEN_PATH
        assert contract.TOKEN_PATH not in targets(arguments(plan, host, "train", around))

    def test_no_secret_is_in_any_argument(self, tmp_path: Path) -> None:
        environment = {"HF_TOKEN": TOKEN, "XDG_RUNTIME_DIR": str(tmp_path)}
        proxy = "http://me:letmein@proxy.example.org:3128"
        host = make_host(tmp_path, environment={"https_proxy": proxy, "no_proxy": "localhost"})
        plan = make_plan("org/model")
        around = look(plan, host, environment)
        for phase in ("fetch", "train"):
            told = json.dumps(arguments(plan, host, phase, around))
            assert TOKEN not in told
            assert "letmein" not in told

    def test_what_holds_a_password_is_read_from_a_file_by_the_container(
        self, tmp_path: Path
    ) -> None:
        host = make_host(tmp_path, environment={"https_proxy": "http://me:letmein@proxy:1"})
        plan = make_plan("org/model")
        given = arguments(plan, host, "fetch", look(plan, host, {}))
        assert SECRET_VARIABLES in targets(given)
        assert any(SECRET_VARIABLES in word for word in given["command"])

    def test_looking_writes_nothing(self, tmp_path: Path) -> None:
        look(make_plan("org/model"), make_host(tmp_path), {"HF_TOKEN": TOKEN})
        assert list(tmp_path.iterdir()) == []


class TestInputs:
    def test_a_path_is_mounted_below_in(self, tmp_path: Path) -> None:
        (tmp_path / "d.jsonl").touch()
        assert input_mounts([f"{tmp_path}/d.jsonl"]) == (
            Bind(f"{tmp_path}/d.jsonl", f"/in{tmp_path}/d.jsonl"),
        )

    def test_a_snapshot_of_a_hugging_face_cache_gets_its_blobs(self, tmp_path: Path) -> None:
        repository = tmp_path / "models--org--m"
        snapshot = repository / "snapshots" / "0123abc"
        (repository / "blobs").mkdir(parents=True)
        (snapshot / "sub").mkdir(parents=True)
        for name, link in (("aa", "config.json"), ("bb", "model.safetensors"), ("cc", "sub/x")):
            (repository / "blobs" / name).touch()
            up = "../" * (2 + link.count("/"))
            (snapshot / link).symlink_to(f"{up}blobs/{name}")
        assert input_mounts([str(snapshot)]) == (
            Bind(f"{repository}/blobs", f"/in{repository}/blobs"),
            Bind(str(snapshot), f"/in{snapshot}"),
        )

    def test_blobs_that_are_links_themselves_are_followed_to_their_end(
        self, tmp_path: Path
    ) -> None:
        snapshot, blobs, disk = (tmp_path / name for name in ("s/snapshots/1", "s/blobs", "disk"))
        for folder in (snapshot, blobs, disk):
            folder.mkdir(parents=True)
        (disk / "weights").touch()
        (blobs / "bb").symlink_to("../../disk/weights")
        (snapshot / "w").symlink_to("../../blobs/bb")
        assert Bind(f"{disk}/weights", f"/in{disk}/weights") in input_mounts([str(snapshot)])

    def test_of_another_folder_only_the_file_is_mounted(self, tmp_path: Path) -> None:
        model = tmp_path / "model"
        model.mkdir()
        (tmp_path / "id_rsa").touch()
        (tmp_path / "w.safetensors").touch()
        (model / "w.safetensors").symlink_to("../w.safetensors")
        assert input_mounts([str(model)]) == (
            Bind(str(model), f"/in{model}"),
            Bind(f"{tmp_path}/w.safetensors", f"/in{tmp_path}/w.safetensors"),
        )

    def test_an_absolute_link_finds_its_target_at_the_same_path(self, tmp_path: Path) -> None:
        model, store = tmp_path / "model", tmp_path / "store"
        model.mkdir()
        store.mkdir()
        (store / "w").touch()
        (model / "w").symlink_to(store / "w")
        assert Bind(f"{store}/w", f"{store}/w") in input_mounts([str(model)])

    def test_a_linked_folder_is_mounted_with_what_its_own_links_lead_to(
        self, tmp_path: Path
    ) -> None:
        data, part, deep = (tmp_path / name for name in ("data", "part", "deep"))
        for folder in (data, part, deep):
            folder.mkdir()
        (deep / "rows.jsonl").touch()
        (part / "rows.jsonl").symlink_to("../deep/rows.jsonl")
        (data / "part").symlink_to("../part")
        sources = {bind.source for bind in input_mounts([str(data)])}
        assert sources == {str(data), str(part), f"{deep}/rows.jsonl"}

    def test_a_path_that_is_a_link_is_mounted_as_what_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "latest").symlink_to("real")
        assert input_mounts([f"{tmp_path}/latest"]) == (
            Bind(f"{tmp_path}/real", f"/in{tmp_path}/latest"),
        )

    def test_links_that_stay_inside_lead_nowhere_or_go_in_circles_add_nothing(
        self, tmp_path: Path
    ) -> None:
        model = tmp_path / "model"
        model.mkdir()
        (model / "a").touch()
        (model / "b").symlink_to("a")
        (model / "c").symlink_to("b")
        (model / "gone").symlink_to("../nothing")
        (model / "self").symlink_to("self")
        (model / "up").symlink_to("..")
        assert input_mounts([str(model)]) == (Bind(str(model), f"/in{model}"),)

    def test_what_is_inside_another_input_is_mounted_once(self, tmp_path: Path) -> None:
        (tmp_path / "rows.jsonl").touch()
        assert input_mounts([f"{tmp_path}/rows.jsonl", str(tmp_path)]) == (
            Bind(str(tmp_path), f"/in{tmp_path}"),
        )

    @pytest.mark.parametrize("place", ["/etc/passwd", "/proc/self/environ", "/usr"])
    def test_a_link_to_what_a_container_has_of_its_own_is_refused(
        self, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "config.json").symlink_to(place)
        with pytest.raises(EngineError, match=r"config\.json is a link to"):
            input_mounts([str(tmp_path)])
