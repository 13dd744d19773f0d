"""A schedule that would never start a run is refused before a server is started for it."""

import pytest

from gan_core.errors import SettingsError
from pipelines.flow.schedule import check_schedule


@pytest.mark.parametrize("cron", ["0 3 * * *", "*/15 9-17 * * mon-fri", "0 0 1,15 * *"])
@pytest.mark.parametrize("timezone", [None, "UTC", "Europe/Berlin"])
def test_a_schedule_that_comes_true_is_taken(cron: str, timezone: str | None) -> None:
    check_schedule(cron, timezone)


@pytest.mark.parametrize(
    ("cron", "timezone", "message"),
    [
        ("nonsense", None, r"--cron 'nonsense' has not five fields. .* daily at three"),
        ("0 3 * * * *", None, r"has not five fields"),
        ("61 3 * * *", None, r"--cron '61 3 \* \* \*' is no schedule: bad minute"),
        ("0 0 30 2 *", None, r"is no schedule: bad day-of-month"),
        ("0 3 * * *", "Europe/Berlim", r"no time zone 'Europe/Berlim'. Did you mean 'Europe/Berlin'"),
        ("0 3 * * *", "", r"no time zone ''. Write one such as Europe/Berlin"),
    ],
)
def test_one_that_does_not_is_named(cron: str, timezone: str | None, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_schedule(cron, timezone)
