"""``python -m pipelines.settings``: check the params.yaml of the current directory; what is wrong goes to stdout.

A run of another revision calls it by this name, with that revision's code.
"""

import sys

from gan_core.errors import GantryError
from pipelines.settings.schema import load_settings


def main() -> None:
    """Exit status 1 where a setting is wrong."""
    try:
        load_settings().check_pictures()
    except GantryError as error:
        print(error)
        sys.exit(1)


if __name__ == "__main__":
    main()
