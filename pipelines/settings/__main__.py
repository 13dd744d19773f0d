"""``python -m pipelines.settings``: check the params.yaml of the current directory and print the first error to stdout.

A run of another revision starts this module by its name, with that revision's code.
"""

import sys

from gan_core.errors import GantryError
from pipelines.settings.schema import load_settings


def main() -> None:
    """Exit with status 1 if a setting is invalid."""
    try:
        load_settings().check_pictures()
    except GantryError as error:
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
