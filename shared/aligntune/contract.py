"""The contract between the launcher and a training container, and its version.

A launcher runs an image only if the image's ``contract`` label is a version from
:data:`OLDEST_CONTRACT` to :data:`CONTRACT_VERSION`.
"""

CONTRACT_VERSION = 2
"""Kept by images that are built now. 2: the worker's code is at :data:`CODE_DIR`."""

OLDEST_CONTRACT = 1
"""The oldest version that this launcher still runs. 1: the worker's code is in site-packages."""

CODE_DIR = "/opt/aligntune/code"
"""The worker's code: a copy in the image, over which the launcher mounts its own."""

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
"""Hash of everything that decides the environment; the code is not part of it."""
LABEL_CODE = LABEL_PREFIX + "code"
"""Hash of the image's own copy of the worker's code."""
LABEL_VERSIONS = LABEL_PREFIX + "versions"
LABEL_CUDA = LABEL_PREFIX + "cuda"
LABEL_MIN_DRIVER = LABEL_PREFIX + "min-driver"
LABEL_MIN_CAPABILITY = LABEL_PREFIX + "min-compute-capability"

LABEL_RUN_ID = LABEL_PREFIX + "run"
LABEL_RUN_DIR = LABEL_PREFIX + "run-dir"
LABEL_PHASE = LABEL_PREFIX + "phase"
LABEL_GPUS = LABEL_PREFIX + "gpus"
"""UUIDs, joined by commas, of the GPUs that a container has for as long as it runs."""
