"""What to say where the packages of the extra `kubeflow` are missing."""

from anchorage.errors import UsageError


def missing_packages(error: ImportError) -> UsageError:
    """The error to raise for a failed import of kfp, or of what TFX compiles with."""
    return UsageError(
        "E_EXTRA_MISSING",
        f"Kubeflow needs packages that are not installed ({error}). They come with the extra 'kubeflow': "
        "`uv sync --extra cpu --extra kubeflow`",
    )
