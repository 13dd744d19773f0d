"""The versions of Gantry and of the packages at its heart."""

import importlib.metadata


def versions() -> str:
    """Gantry's version and those of torch, Ray, MLflow, Prefect and DVC, in one line."""
    packages = {"gantry": "gantry-gan"} | {name: name for name in ("torch", "ray", "mlflow", "prefect", "dvc")}
    return ", ".join(f"{name} {importlib.metadata.version(package)}" for name, package in packages.items())
