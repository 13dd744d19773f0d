"""A schedule that would never start a run is rejected before a server starts."""

import pytest

from gan_core.errors import SettingsError
from pipelines.flow.schedule import check_schedule


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/15 9-17 * * mon-fri", "0 0 1,15 * *"])
@pytest.mark.parametrize("timezone", [None, "UTC", "Europe/Berlin"])
def test_a_valid_schedule_is_accepted(cron: str, timezone: str | None) -> None:
    check_schedule(cron, timezone)


@pytest.mark.parametrize(
    ("cron", "timezone", "message"),
    [
        ("nonsense", None, r"--cron 'nonsense' must have five fields. .* daily at 3:00"),
        ("0 3 * * * *", None, r"must have five fields"),
        ("61 3 * * *", None, r"--cron '61 3 \* \* \*' is not a valid schedule: bad minute"),
        ("0 3 * * 5L", None, r"--cron '0 3 \* \* 5L': Prefect does not know 5L"),
        ("0 0 30 2 *", None, r"is not a valid schedule: bad day-of-month"),
        (
            "0 3 * * *",
            "Europe/Berlim",
            r"--timezone 'Europe/Berlim' is not a known time zone. Did you mean 'Europe/Berlin'",
        ),
        ("0 3 * * *", "", r"--timezone '' is not a known time zone. Write a name such as Europe/Berlin"),
    ],
)
def test_an_invalid_schedule_is_an_error(cron: str, timezone: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_schedule(cron, timezone)
