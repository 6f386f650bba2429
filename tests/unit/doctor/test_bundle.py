"""The archive for a bug report: what it holds, and above all what it does not."""

from __future__ import annotations

import gzip
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.command import TRACEBACK, run
from tests.helpers.findings import HEALTHY, on_host

from aligntune.errors import OutputError
from aligntune.record.run_dir import RunDir
from aligntune_run.doctor.bundle import LIMIT, contents, pack
from aligntune_run.doctor.diagnose import Diagnosis, examine
from aligntune_run.doctor.probe import Findings
from aligntune_run.doctor.redact import REMOVED, Redactor

ENVIRONMENT = {
    "HF_TOKEN": "hf_EnvironmentTokenThatIsLong",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "MY_PASSWORD": 'odd "quoted" \\ pass é word',
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "HTTPS_PROXY": "http://alice:proxy%23Secret@proxy.test:3128",
    "PIP_INDEX_URL": "https://reader:indexSecret1@index.test/simple",
    "HF_ENDPOINT": "https://carol:endpointSecret2@hub.test",
}
KNOWN = (
    *("hf_EnvironmentTokenThatIsLong", "0123456789abcdef0123456789abcdef01234567", "quoted"),
    *("wJalrXUtnFEMI", "proxy%23Secret", "proxy#Secret", "indexSecret1", "endpointSecret2"),
    "tokenOfTheFile99",
)
LOOKS_LIKE = {
    "hub": "hf_AbCdEfGhIjKlMnOpQrStUv",
    "openai": "sk-proj-abcdefghijklmnop1234",
    "wandb": "89abcdef0123456789abcdef0123456789abcdef",
    "aws": "AKIAIOSFODNN7EXAMPLE",
    "github": "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.c2lnbmF0dXJl",
    "bearer": "Bearer abc.def-123",
    "basic": "Authorization: Basic YWxpY2U6c2VjcmV0",
    "address": "https://bob:hunter2@example.test/x",
    "named": "api_key='notAnyKnownForm'",
    "json": '"password": "with some blanks"',
    "assigned": "MY_TOKEN=plainPlainPlain",
    "query": "https://x.test/f?X-Amz-Signature=deadbeefdead",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA7\n-----END RSA PRIVATE KEY-----",
}
INNER = (
    *("AbCdEfGhIj", "proj-abcdef", "89abcdef0123", "IOSFODNN7", "abcdefghijklmnopqr"),
    *("eyJzdWIi", "abc.def-123", "YWxpY2U6", "hunter2", "notAnyKnownForm", "some blanks"),
    *("plainPlainPlain", "deadbeefdead", "MIIEowIBAAK"),
)
"""The secret in each of them."""

SAMPLES = ("my private diary", "what the model made of it", "You are Ann's helper", "asked of it")

HOME = Path("/home/alice")


@pytest.fixture
def alice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(HOME))


@pytest.fixture
def found(tmp_path: Path) -> Findings:
    token = tmp_path / "hub-token"
    token.write_text("tokenOfTheFile99\n")
    return replace(on_host(token=token), environment=ENVIRONMENT)


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """A run of alice's with every secret in each of its files, in more than one form."""
    made = RunDir(tmp_path / "run")
    made.path.mkdir()
    secrets = [*ENVIRONMENT.values(), *LOOKS_LIKE.values(), "tokenOfTheFile99", "proxy#Secret"]
    what = "the reward f raised ValueError: sample 1 of 4 (prompt 'my private diary')"
    error = {"kind": "RewardError", "what": what, "remedy": "Mend it"}
    told = {"hf_token": "shortOne", "notes": secrets, **{text: text for text in secrets}}
    made.update(
        id="x",
        status="failed",
        run_dir=f"{HOME}/runs/x",
        error=error,
        result={
            "samples": [{"prompt": SAMPLES[0]}],
            "predictions": [{"text": SAMPLES[1]}],
            "loss": 0.5,
        },
        task={"prompts": [SAMPLES[3]]},
        spec={"dataset": {"system_prompt": SAMPLES[2]}},
        fetched={"model": {"commit": "c" * 40, "path": f"/snapshots/{'c' * 40}"}},
        machine={"more": told},
    )
    made.spec.write_text(
        yaml.safe_dump({"dataset": {"system_prompt": SAMPLES[2]}, "trainer_args": told})
    )
    with made.events.open("w") as file:
        for values in (
            {"event": "error", **error},
            {"event": "end", "result": {"samples": [SAMPLES[0]]}},
            {"event": "note", "message": " and ".join(secrets), **told},
        ):
            file.write(json.dumps(values) + "\n")
        file.write("no event, but " + " ".join(secrets) + "\n")
    lines = [f"{text}\n{text!r}\n{json.dumps(text)}\n" for text in secrets]
    made.log.write_text(
        f'File "{HOME}/train.py"\n/in{HOME}/data\n/scratch/alice/x\n{what}\n{"".join(lines)}'
    )
    (made.path / "model").mkdir()
    (made.path / "model" / "weights").write_text("weights")
    (made.path / "data.jsonl").write_text("data")
    return made.path


def raw(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Every member, by name, with its bytes."""
    with tarfile.open(archive) as opened:
        for member in opened.getmembers():
            file = opened.extractfile(member)
            assert file is not None
            yield member.name, file.read()


@pytest.mark.usefixtures("alice")
def test_no_planted_secret_or_sample_or_name_is_anywhere_in_it(
    found: Findings, failed: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "report.tar.gz"
    members = pack(archive, found, examine(found, failed), failed)
    assert {name for name, _ in members} >= {
        f"run/{name}" for name in ("run.json", "spec.yaml", "events.jsonl", "train.log")
    }
    content = gzip.decompress(archive.read_bytes())
    for secret in (*KNOWN, *INNER, *SAMPLES, "shortOne", "alice"):
        where = [name for name, text in raw(archive) if secret.encode() in text]
        assert where == [], secret
        assert secret.encode() not in content


@pytest.mark.usefixtures("alice")
def test_text_that_explains_a_failure_stays(found: Findings, failed: Path, tmp_path: Path) -> None:
    files = contents(found, examine(found, failed), failed)
    record = json.loads(files["run/run.json"])
    assert record["status"] == "failed"
    assert record["result"]["loss"] == 0.5
    assert record["error"]["kind"] == "RewardError"
    assert record["fetched"]["model"] == {"commit": "c" * 40, "path": f"/snapshots/{'c' * 40}"}
    assert b'File "~/train.py"' in files["run/train.log"]
    assert json.loads(files["doctor.json"])["checks"]
    assert json.loads(files["host.json"])["gpus"][0]["name"] == "NVIDIA H200"
    assert b"hub.test" in files["environment.json"]


def test_its_readme_says_what_is_in_it_and_what_is_not(found: Findings, failed: Path) -> None:
    files = contents(found, examine(found, failed), failed)
    readme = files["README.txt"].decode()
    assert all(name in readme for name in files if name != "README.txt")
    assert "samples, predictions, prompts" in readme


def test_nothing_but_the_four_files_of_a_run_is_packed(found: Findings, failed: Path) -> None:
    names = [name for name in contents(found, Diagnosis(()), failed) if name.startswith("run/")]
    assert sorted(names) == [
        "run/events.jsonl",
        "run/run.json",
        "run/spec.yaml",
        "run/train.log",
    ]


def test_only_its_owner_can_read_it_and_the_bytes_are_reproducible(
    found: Findings, tmp_path: Path
) -> None:
    first, second = tmp_path / "1.tar.gz", tmp_path / "2.tar.gz"
    assert pack(first, found, Diagnosis(())) == pack(second, found, Diagnosis(()))
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("link", [False, True])
def test_no_file_is_overwritten(link: bool, found: Findings, tmp_path: Path) -> None:
    target = tmp_path / "report.tar.gz"
    if link:
        target.symlink_to(tmp_path / "elsewhere")
    else:
        target.write_text("mine")
    with pytest.raises(OutputError, match="already exists"):
        pack(target, found, Diagnosis(()))
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_reported(found: Findings, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file"):
        pack(tmp_path / "none" / "report.tar.gz", found, Diagnosis(()))


def test_no_link_and_no_device_of_a_run_is_followed(
    found: Findings, failed: Path, tmp_path: Path
) -> None:
    (tmp_path / "shadow").write_text("root:secretHash")
    for name in ("train.log", "events.jsonl"):
        (failed / name).unlink()
    (failed / "train.log").symlink_to(tmp_path / "shadow")
    os.mkfifo(failed / "events.jsonl")
    files = contents(found, Diagnosis(()), failed)
    assert "run/train.log" not in files
    assert "run/events.jsonl" not in files


def test_the_end_of_a_long_log_is_packed_in_whole_lines(found: Findings, failed: Path) -> None:
    (failed / "train.log").write_text("x" * 999 + "\n" + ("y" * 99 + "\n") * (LIMIT // 100))
    packed = contents(found, Diagnosis(()), failed)["run/train.log"]
    assert LIMIT - 200 < len(packed) <= LIMIT
    assert packed.startswith(b"y" * 99 + b"\n")


@pytest.mark.parametrize("text", ["{", "[" * 10**5, "{}" + " " * LIMIT])
def test_a_record_that_cannot_be_read_is_left_out(text: str, found: Findings, failed: Path) -> None:
    (failed / "run.json").write_text(text)
    (failed / "spec.yaml").write_text(text)
    files = contents(found, Diagnosis(()), failed)
    assert files["run/run.json"].startswith(b"(left out)")


@given(st.text(min_size=6, max_size=60).filter(lambda text: len(text.strip()) >= 6))
def test_a_variable_s_secret_is_found_however_it_is_written(secret: str) -> None:
    redactor = Redactor({"SOME_TOKEN": secret})
    for text in (f"a {secret} b", json.dumps([f"a{secret}b"]), f"{[secret]!r}"):
        if secret.lower() not in ("default", "enabled", "disabled"):
            assert secret not in redactor.text(text).replace(REMOVED, "")


def test_ordinary_text_stays() -> None:
    redactor = Redactor(
        {"TOKENIZERS_PARALLELISM": "false", "USE_TOKEN": "true"}, home=Path("/root")
    )
    for text in (
        "tokens: 123456, tokens_per_second: 72.1",
        "'eos_token': '<|im_end|>', pad_token=<pad>",
        "sha256:b198f9383c90e86a29746fdf8bc1f00fb2b2a14652c419a99d335aec7c0285b9",
        "transformers.hf_argparser: false, true",
        "task-specific-parameters-of-the-model",
        "https://huggingface.co/org/model@main",
        "/rooted/x",
    ):
        assert redactor.text(text) == text
    kept: dict[str, Any] = {"tokenizer": "a/b", "num_input_tokens_seen": 7, "eos_token": "<e>"}
    assert redactor.values(kept) == kept


@pytest.mark.parametrize(
    "word",
    ["hf_", "://", "eyJ", "token=", "token='\\", "sk-", "Bearer ", "-----BEGIN PRIVATE KEY-----"],
)
def test_a_hostile_log_is_cleaned_in_bounded_work(word: str) -> None:
    assert Redactor({}).text(word * (LIMIT // len(word))) is not None


def test_the_command_lists_what_is_in_it(
    environment: dict[str, str], failed: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "report.tar.gz"
    words: list[str | Path] = ["doctor", failed, "--offline", "--bundle", archive]
    done = run(*words, environment=environment | ENVIRONMENT)
    assert TRACEBACK not in done.stderr
    listed = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("   ")]
    inside = [name.removeprefix("aligntune-report/") for name, _ in raw(archive)]
    assert [name for name in listed if name in inside] == inside
    for secret in KNOWN[:-1]:
        assert secret.encode() not in gzip.decompress(archive.read_bytes()), secret
    again = run(*words, environment=environment)
    assert again.returncode == 5
    assert again.stdout == ""


def test_a_healthy_machine_s_archive_can_be_made_without_a_run() -> None:
    files = contents(HEALTHY, Diagnosis(()))
    assert not [name for name in files if name.startswith("run/")]
