"""Whether the version that a checkout registered last is still in the registry.

DVC does not run the stage again for that, because its inputs are as they were.
"""

from gan_core.errors import DamagedFileError
from gan_core.files import read_json
from pipelines.registry.find import get_version
from pipelines.runtime.checkout import Checkout
from pipelines.runtime.redaction import redact_credentials
from pipelines.settings.tracking_uri import project_tracking_uri
from pipelines.tracking.store import database_is_missing


def lost_registration(checkout: Checkout) -> str:
    """Why the version in registered.json is not in the registry of ``checkout``; empty if it is, or nothing was registered.

    A version of the same number that belongs to another run is another version: the database was restored from a backup, or the
    registered model was deleted and made again.

    Raises:
        TrackingError: the registry cannot be reached.
        SettingsError: its address is invalid.
    """
    uri = project_tracking_uri(checkout.root)
    try:
        known = read_json(checkout.registered)
        name, number, run = str(known["name"]), str(known["version"]), str(known["run_url"]).rpartition("/")[2]
    except (FileNotFoundError, DamagedFileError, KeyError, TypeError):
        return ""  # the stage has not run here, or it is not Gantry's
    if uri is None:
        return ""
    found = None if database_is_missing(uri) else get_version(name, number, tracking_uri=uri)
    if found is not None and str(found.run_id) == run:
        return ""
    what = f"{name} version {number}, which an earlier run registered, is"
    return f"{what} {'another one' if found else 'not'} in the registry at {redact_credentials(uri)}"
