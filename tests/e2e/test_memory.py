"""Memory does not grow with the model: peaks of real processes while 2 GB pass through."""

import pytest

from icnblocks.testing.device import Device
from icnblocks.testing.models import write_llama_2gb
from icnblocks.testing.processes import peak_mb, poll_until


@pytest.mark.slow
def test_two_gigabytes_pass_through_tens_of_megabytes(tmp_path, origin, edge):
    """Cold edge: origin, edge and client all handle every block; none may gather them."""
    publisher, device = Device(tmp_path / "publisher"), Device(tmp_path / "device")
    publisher.publish(write_llama_2gb(tmp_path / "model"), "acme/model", origin.url)
    process = device.start("fetch", "acme/model", "--from", edge.url, "--trust-first-use")
    peaks = []
    poll_until(
        lambda: peaks.append(peak_mb(process.pid)) or process.poll() is not None, timeout_s=120
    )
    out, err = process.communicate()
    assert process.returncode == 0, (out, err)
    assert max(peaks) < 100
    assert peak_mb(edge.process.pid) < 150
    assert peak_mb(origin.process.pid) < 150
