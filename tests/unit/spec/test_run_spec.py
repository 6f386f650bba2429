"""What a request may say."""

from __future__ import annotations

import pytest

from aligntune.errors import SpecError
from aligntune.spec.layers import Layer
from aligntune.spec.resolve import resolve

NEEDED = {"algorithm": "sft", "model": "org/model", "dataset": "org/data"}


@pytest.mark.parametrize("image", ["", "/", "UPPER", "a b", "..", "a:b:c", "a@sha256:12"])
def test_what_is_no_image_is_refused(image: str) -> None:
    with pytest.raises(SpecError, match=r"must be an image, as name:tag"):
        resolve([Layer("test", {**NEEDED, "image": image})])


@pytest.mark.parametrize(
    "image",
    [
        "mine",
        "mine:1",
        "host.example:5000/a/b-c_d:v1.0",
        f"a@sha256:{'0' * 64}",
        f"sha256:{'0' * 64}",
        "localhost/x",
    ],
)
def test_images_are_named_as_docker_names_them(image: str) -> None:
    assert resolve([Layer("test", {**NEEDED, "image": image})]).spec.image == image
