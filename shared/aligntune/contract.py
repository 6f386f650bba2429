"""The contract between the launcher and a training container, and its version.

A launcher runs an image only if the image's ``contract`` label equals :data:`CONTRACT_VERSION`.
"""

CONTRACT_VERSION = "1"

INPUT_ROOT = "/in"
"""Local path P on the host is mounted read-only at ``/in`` + P; the worker adds the prefix."""

RUN_DIR = "/run-dir"
"""The run directory: the one writable mount beside caches and ``/tmp``."""

CACHE_DIR = "/cache"
"""Compile caches and processed data; the caller's Hugging Face caches are mounted below it."""

HUB_CACHE = f"{CACHE_DIR}/huggingface/hub"
DATASETS_CACHE = f"{CACHE_DIR}/huggingface/datasets"

SECRETS_DIR = "/run/secrets"
TOKEN_PATH = f"{SECRETS_DIR}/hf_token"

INPUT_ROOT_VARIABLE = "ALIGNTUNE_INPUT_ROOT"
"""Set to ``/in`` by the images; unset in the process engine, where paths are the host's own."""

LABEL_PREFIX = "org.aligntune."
LABEL_CONTRACT = LABEL_PREFIX + "contract"
LABEL_BACKEND = LABEL_PREFIX + "backend"
LABEL_FLAVOUR = LABEL_PREFIX + "flavour"
LABEL_LOCK = LABEL_PREFIX + "lock"
LABEL_RECIPE = LABEL_PREFIX + "recipe"
LABEL_VERSIONS = LABEL_PREFIX + "versions"
LABEL_CUDA = LABEL_PREFIX + "cuda"
LABEL_MIN_DRIVER = LABEL_PREFIX + "min-driver"
LABEL_MIN_CAPABILITY = LABEL_PREFIX + "min-compute-capability"

LABEL_RUN_ID = LABEL_PREFIX + "run"
LABEL_RUN_DIR = LABEL_PREFIX + "run-dir"
LABEL_PHASE = LABEL_PREFIX + "phase"
LABEL_GPUS = LABEL_PREFIX + "gpus"
"""UUIDs, joined by commas, of the GPUs that a container has for as long as it runs."""
