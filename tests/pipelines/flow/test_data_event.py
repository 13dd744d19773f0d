"""Changed raw data is published, without a Prefect server. Those with one are in tests/pipelines/commands/test_deploy.py."""

import pytest

from gan_core.errors import StageError
from pipelines.flow.data_event import publish_data
from pipelines.flow.prefect_yaml import Options, new_entry, write_entry
from pipelines.flow.web import address_of, listen
from pipelines.runtime.checkout import Checkout
from tests.pipelines.toy import dvc


def test_a_server_that_does_not_take_the_event_is_an_error(flow_project, monkeypatch):
    checkout = Checkout.at(flow_project)
    write_entry(checkout, "toy", "nightly", new_entry("nightly", "toy", Options()))
    (checkout.raw / "pictures").mkdir(parents=True)
    (checkout.raw / "pictures" / "one").write_text("one")
    dvc("add", "-q", "data/raw/pictures", cwd=flow_project)
    with listen(0) as closed:
        nobody = f"{address_of(closed)}/api"
    monkeypatch.setenv("PREFECT_API_URL", nobody)
    with pytest.raises(StageError, match=rf"The Prefect server at {nobody} does not answer.*PREFECT_API_URL names it"):
        publish_data(checkout, "pictures")
