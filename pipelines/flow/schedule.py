"""When a served pipeline is to run, checked before anything is started for it."""

import datetime
import zoneinfo

from cronsim import CronSim, CronSimError

from gan_core.config import check
from gan_core.errors import SettingsError, nearest


def check_schedule(cron: str, timezone: str | None) -> None:
    """Raise SettingsError unless ``cron`` is five fields that some time fits, and ``timezone`` is known here."""
    remedy = "Write minute, hour, day of the month, month and day of the week: '0 3 * * *' is daily at three."
    check(len(cron.split()) == 5, f"--cron '{cron}' has not five fields. {remedy}")
    try:
        CronSim(cron, datetime.datetime.now())
    except CronSimError as error:
        raise SettingsError(f"--cron '{cron}' is no schedule: {str(error).lower()}. {remedy}") from None
    zones = zoneinfo.available_timezones()
    if timezone is not None and timezone not in zones:
        raise SettingsError(f"--timezone: there is no time zone '{timezone}'.{_near(timezone, zones)}")


def _near(timezone: str, zones: set[str]) -> str:
    """A hint, unless it would be the list of all six hundred."""
    hint = nearest(timezone, zones)
    return hint if hint.startswith(" Did") else " Write one such as Europe/Berlin."
