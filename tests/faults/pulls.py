"""Pulls that must end well, and the time limits of edges that tests wait for."""

QUICK = (
    "--upstream-retry", "1s", "--upstream-timeout", "1s", "--upstream-wait", "20s",
    "--alive-interval", "500ms",
)  # fmt: skip
ASKED = ("acme/model", "--trust-first-use", "--from")


def pulled(process):
    """Wait for a device's pull, which must end well."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out[-900:], err[-900:])
    assert b"Traceback" not in err
