"""Check the schedule of a served pipeline before anything starts."""

import datetime
import re
import zoneinfo

from cronsim import CronSim, CronSimError

from gan_core.config import check
from gan_core.errors import SettingsError, did_you_mean

_OF_CRONSIM = re.compile(r"LW|\dL", re.IGNORECASE)
"""Forms that this check's parser knows and Prefect's does not: the last working day, and the last Friday (5L) of a month."""


def check_schedule(cron: str, timezone: str | None) -> None:
    """Raise SettingsError unless ``cron`` has five valid fields and ``timezone`` is known on this machine."""
    remedy = "Write minute, hour, day of the month, month and day of the week: '0 3 * * *' is daily at 3:00."
    check(len(cron.split()) == 5, f"--cron '{cron}' must have five fields. {remedy}")
    try:
        CronSim(cron, datetime.datetime.now())
    except CronSimError as error:
        raise SettingsError(f"--cron '{cron}' is not a valid schedule: {str(error).lower()}. {remedy}") from None
    unknown = _OF_CRONSIM.search(cron)
    check(unknown is None, f"--cron '{cron}': Prefect does not know {unknown and unknown[0]}. {remedy}")
    zones = zoneinfo.available_timezones()
    if timezone is not None and timezone not in zones:
        raise SettingsError(f"--timezone '{timezone}' is not a known time zone.{_near(timezone, zones)}")


def _near(timezone: str, zones: set[str]) -> str:
    """A hint with the nearest name, or an example if there is none. (Otherwise it would list all six hundred zones.)"""
    hint = did_you_mean(timezone, zones)
    return hint if hint.startswith(" Did") else " Write a name such as Europe/Berlin."
