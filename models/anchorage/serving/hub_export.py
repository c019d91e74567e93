"""Upload of a release to the Hugging Face Hub, where its repository becomes a folder of releases.

    README.md     the model card of the release
    current       its version
    3/...         its files as they are, which `open_release` verifies after a download

Several versions can be in one repository.
"""

import os
import warnings
from typing import TYPE_CHECKING

from anchorage.errors import ResourceError, UsageError
from anchorage.extras import needs_extra
from anchorage.release.reading import POINTER

if TYPE_CHECKING:
    from anchorage.release import Release

_CARD = "MODEL_CARD.md"


def push_release(release: "Release", repository: str, *, public: bool = False) -> str:
    """Upload a release in one commit, which creates the repository if needed.

    The token is the one of `hf auth login`, or of the environment variable HF_TOKEN; HF_ENDPOINT names another hub.

    Args:
        release: a verified release.
        repository: `NAME`, or `ORGANIZATION/NAME`.
        public: whether everybody can see a new repository; an existing one stays as it is.

    Returns:
        The address of the repository.

    Raises:
        UsageError: `E_EXTRA_MISSING`, `E_HUB_NAME`.
        ResourceError: `E_HUB_REFUSED` if the hub cannot be reached or refuses; nothing of the release is visible then.
    """
    with needs_extra("huggingface", "The Hugging Face Hub"):
        import httpx
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import disable_progress_bars
    disable_progress_bars()
    api, version = HfApi(endpoint=os.environ.get("HF_ENDPOINT")), str(release.version)
    files = sorted(path for path in release.path.rglob("*") if path.is_file())
    uploads = [
        CommitOperationAdd(f"{version}/{path.relative_to(release.path).as_posix()}", os.fspath(path)) for path in files
    ]
    uploads.append(CommitOperationAdd(POINTER, f"{version}\n".encode()))
    if (card := release.path / _CARD).is_file():
        uploads.append(CommitOperationAdd("README.md", os.fspath(card)))
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that Parquet files are usually those of a data set
            api.create_commit(made.repo_id, uploads, commit_message=f"Release {version}")
    except HFValidationError as error:
        received = f"Received: {repository!r}. {error}"
        raise UsageError("E_HUB_NAME", f"Expected NAME or ORGANIZATION/NAME. {received}") from error
    except (httpx.HTTPError, OSError) as error:
        place, reason = f"{repository} on {api.endpoint}", " ".join(str(error).split())[:300]
        raise ResourceError(
            "E_HUB_REFUSED", f"Expected to write to {place}. Received: {reason}. Log in with `hf auth login`"
        ) from error
    return str(made)
