"""The versions of Gantry and of its main dependencies."""

import importlib.metadata

TORCH = "gantry.torch_version"
"""Tag of a run: the version of torch. One that was interrupted may have several."""


def versions() -> str:
    """The versions of Gantry, torch, Ray, MLflow, Prefect and DVC, in one line."""
    packages = {"gantry": "gantry-gan"} | {name: name for name in ("torch", "ray", "mlflow", "prefect", "dvc")}
    return ", ".join(f"{name} {importlib.metadata.version(package)}" for name, package in packages.items())


def version_tags() -> dict[str, str]:
    """The versions of Gantry, torch and CUDA as tags of an MLflow run; CUDA is ``none`` in a build of torch without it."""
    import torch

    return {
        "gantry.gantry_version": importlib.metadata.version("gantry-gan"),
        TORCH: torch.__version__,
        "gantry.cuda_version": torch.version.cuda or "none",
    }
