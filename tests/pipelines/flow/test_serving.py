"""One process of a checkout serves a deployment."""

import os

import pytest

from gan_core.errors import StageError
from pipelines.flow.serving import only_server, served_description
from pipelines.runtime.checkout import Checkout


def test_one_process_serves_a_deployment(tmp_path):
    checkout = Checkout.at(tmp_path)
    with only_server(checkout, "nightly"):
        message = rf"pipeline/nightly of {tmp_path} \(process {os.getpid()}, since .*choose another name"
        with pytest.raises(StageError, match=message), only_server(checkout, "nightly"):
            pass
        with only_server(checkout, "weekly / of Jürgen"):
            pass
    with only_server(checkout, "nightly"):
        assert str(tmp_path) in served_description(checkout)
