"""Names that lead into trouble are refused with what is wrong."""

import pytest

from gan_core.errors import DataError
from pipelines.data.names import MAX_CLASS_LETTERS, check_class_names, check_dataset_name


@pytest.mark.parametrize("name", ["a", "fashion-mnist", "2024.06_v1", "x" * 200, "console", "con-cats"])
def test_plain_names_are_taken(name: str) -> None:
    check_dataset_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pets\n", r"'pets\\n' cannot be a dataset's name: use letters"),
        ("..", "begin with a letter or a digit"),
        (".hidden", "begin with a letter or a digit"),
        ("-rf", "begin with a letter or a digit"),
        ("", "use letters"),
        ("a/b", "use letters"),
        ("é", "use letters"),
        ("n" * 300, r"^'n{60}\.\.\.' cannot be a dataset's name: it has 300 letters, more than 200"),
        ("con", "Windows allows no such folder"),
        ("LPT1.pets", "Windows allows no such folder"),
        ("pets.", "Windows allows no such folder"),
        ("pets.dvc", "DVC calls its own files so"),
        ("dvc.lock", "DVC calls its own files so"),
    ],
)
def test_names_that_some_system_cannot_have_are_refused(name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_dataset_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x" * (MAX_CLASS_LETTERS + 1), "a class name has 201 letters, more than 200 .*--label-column"),
        ("cat\nregistered: yes", r"'cat\\nregistered: yes' cannot be a class name"),
        ("\x1b[31mred", "control characters"),
        ("a\u2028b", "control characters"),
        ("  ", "it is blank"),
    ],
)
def test_a_class_has_a_name_that_fits_on_one_line(name: str, message: str) -> None:
    with pytest.raises(DataError, match="^labels.csv: .*" + message):
        check_class_names(["cat", name], "labels.csv")


def test_usual_class_names_are_taken() -> None:
    check_class_names(["T-shirt/top", "猫", "<script>", "x" * MAX_CLASS_LETTERS, "-1"], "labels.csv")
