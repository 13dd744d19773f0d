"""Invalid names of datasets and classes are refused with the reason."""

import pytest

from gan_core.errors import DataError
from pipelines.data.names import MAX_CLASS_LETTERS, check_class_names, check_dataset_name


@pytest.mark.parametrize("name", ["a", "fashion-mnist", "2024.06_v1", "x" * 200, "console", "con-cats"])
def test_plain_names_are_accepted(name: str) -> None:
    check_dataset_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pets\n", r"'pets\\n' is not a valid name of a dataset\. Use letters"),
        ("..", "start with a letter or digit"),
        (".hidden", "start with a letter or digit"),
        ("-rf", "start with a letter or digit"),
        ("", "Use letters"),
        ("a/b", "Use letters"),
        ("é", "Use letters"),
        ("n" * 300, r"^'n{60}\.\.\.' is not a valid name of a dataset: it has 300 letters, more than 200"),
        ("con", "Windows does not allow it"),
        ("LPT1.pets", "Windows does not allow it"),
        ("pets.", "Windows does not allow it"),
        ("pets.dvc", "DVC uses it for its own files"),
        ("dvc.lock", "DVC uses it for its own files"),
    ],
)
def test_names_that_are_invalid_on_some_system_are_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_dataset_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * (MAX_CLASS_LETTERS + 1), "a class name has 201 letters, more than 200 .*--label-column"),
        ("cat\nregistered: yes", r"'cat\\nregistered: yes' is not a valid class name"),
        ("\x1b[31mred", "control characters"),
        ("a\u2028b", "control characters"),
        ("  ", "it is blank"),
    ],
)
def test_blank_long_or_multiline_class_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match="^labels.csv: .*" + message):
        check_class_names(["cat", name], "labels.csv")


def test_usual_class_names_are_accepted() -> None:
    check_class_names(["T-shirt/top", "猫", "<script>", "x" * MAX_CLASS_LETTERS, "-1"], "labels.csv")
