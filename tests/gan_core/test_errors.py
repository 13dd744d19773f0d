"""Every error that a user may see is a GantryError, and for misspelt names the closest valid one is suggested."""

import inspect

from gan_core import errors


def test_every_error_of_the_module_is_a_gantry_error() -> None:
    classes = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    kinds = [kind for kind in classes if kind.__module__ == errors.__name__]
    assert len(kinds) > 5
    assert all(issubclass(kind, errors.GantryError) for kind in kinds)


def test_nearest_names_the_closest_valid_name() -> None:
    assert (
        errors.did_you_mean("generator_l", ["generator_lr", "discriminator_lr", "steps"])
        == " Did you mean 'generator_lr'?"
    )


def test_nearest_lists_all_names_when_none_is_close() -> None:
    assert errors.did_you_mean("zzz", ["steps", "batch"]) == " Valid: batch, steps."
