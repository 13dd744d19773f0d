"""Override settings in the params.yaml of a checkout, and check the result with the code of that checkout."""

import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import yaml

from gan_core.errors import SettingsError, did_you_mean
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.dvc_yaml import edit_yaml, quote_ambiguous
from pipelines.settings.params import parse_value, read_params

_ALTERNATIVES = {"train.steps": "minutes", "train.minutes": "steps"}
"""For a setting by dotted name, the one of its section that it replaces."""


def parse_override(text: str) -> tuple[str, Any]:
    """Parse ``train.steps=100`` into ("train.steps", 100). The value is YAML, read as in params.yaml.

    Raises:
        SettingsError: there is no ``=``, or the value is not valid YAML or cannot be a setting.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise SettingsError(f"--set '{text}' is not an assignment. Write NAME=VALUE, such as train.steps=100.")
    try:
        return name.strip(), parse_value(value)
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {name}: the value is not valid YAML: {value}") from error
    except SettingsError as error:
        raise SettingsError(f"--set {name}: {error}") from None


def apply_overrides(checkout: Checkout, overrides: Mapping[str, Any]) -> None:
    """Set values by dotted name in params.yaml; comments and order are kept. (With YAML aliases, they are written out, and the
    comments of nested settings are lost.)

    ``train.steps`` and ``train.minutes`` exclude each other: the one that is set here removes the other one from the file.

    Raises:
        SettingsError: a name is not in the file or names a whole section. In a project of Gantry's own stages, a setting that
            params.yaml leaves out, with its section or without, is allowed too, because :func:`check_settings` checks it
            afterwards.
    """
    if not overrides:
        return
    params = checkout.params
    if not params.is_file():
        raise SettingsError(f"Cannot set {', '.join(overrides)}: there is no {params.name}.")
    read_params(params)
    own = has_own_settings(checkout)
    aliased = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(params.read_text(encoding="utf-8-sig")))
    with edit_yaml(params) as values:
        if aliased:  # a value set below must not change the other places that share its section
            values.update({name: quote_ambiguous(section) for name, section in values.items()})
        for name, value in overrides.items():
            place: Any = values
            *sections, last = name.split(".")
            for section in sections:
                if own and place.get(section) is None:
                    place[section] = {}
                if not isinstance(place.get(section), dict):
                    raise SettingsError(f"There is no setting '{name}' in {params.name}.{did_you_mean(section, place)}")
                place = place[section]
            if last not in place and not (sections and own):
                raise SettingsError(f"There is no setting '{name}' in {params.name}.{did_you_mean(last, place)}")
            # Within a section, a value may be a mapping or a word (tune.space: auto). check_settings checks that.
            if not sections and isinstance(place.get(last), dict) and not isinstance(value, dict):
                raise SettingsError(
                    f"'{name}' is a section of {params.name}. Set one of its settings: {', '.join(place[last])}."
                )
            place[last] = quote_ambiguous(value)
            other = _ALTERNATIVES.get(name)
            if other and value is not None and f"{sections[0]}.{other}" not in overrides:
                place.pop(other, None)


def check_settings(checkout: Checkout, environment: Mapping[str, str]) -> None:
    """Check params.yaml with the code of ``checkout``, which may be of another commit, in a separate interpreter.

    Does nothing in a project that uses Gantry's flow only for its own stages, whose parameters Gantry does not know.
    """
    if not has_own_settings(checkout):
        return
    command = [sys.executable, "-m", "pipelines.settings"]
    done = subprocess.run(
        command, cwd=checkout.root, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode:
        trouble = done.stderr.strip().splitlines() or ["params.yaml is invalid."]
        raise SettingsError(done.stdout.strip() or trouble[-1])


def has_own_settings(checkout: Checkout) -> bool:
    """Whether params.yaml holds Gantry's settings, that is, whether dvc.yaml has any of Gantry's stages."""
    stages = checkout.dvc_yaml
    text = stages.read_text(encoding="utf-8", errors="replace") if stages.is_file() else ""
    return re.search(r"^ +cmd: gantry stage ", text, re.MULTILINE) is not None
