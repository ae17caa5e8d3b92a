"""Whose name the base of an adapter may carry: an adapter's publisher vouches for bytes only."""

from pathlib import Path

from icnblocks.testing.device import Device
from icnblocks.testing.models import lora, write_llama
from icnblocks.testing.processes import start_edge


def test_an_adapter_cannot_plant_bytes_under_another_publishers_name(
    tmp_path, origin, publisher, device, same
):
    base = write_llama(tmp_path / "base", layers=2, hidden=64)
    bent = write_llama(tmp_path / "bent", layers=2, hidden=64, seed=66)
    adapter = lora(tmp_path / "adapter", layers=2, hidden=64)
    publisher.publish(base, "acme/other", origin.url)
    device.fetch("acme/other", origin.url)  # so acme's key is known
    evil = Device(tmp_path / "evil")
    with start_edge(tmp_path / "evil-origin") as lair:
        evil.publish(bent, "acme/base", lair.url)
        evil.publish(adapter, "evil/adapter", lair.url, "--base", "acme/base")
        done = device.fetch("evil/adapter", lair.url)
    assert same(bent, done["base_path"])
    assert not (device.root / "models" / "acme" / "base").exists()
    assert Path(done["base_path"]).name.startswith("base--")


def test_a_base_that_its_publisher_vouches_for_has_its_own_place(
    tmp_path, origin, publisher, device
):
    base = write_llama(tmp_path / "base", layers=2, hidden=64)
    adapter = lora(tmp_path / "adapter", layers=2, hidden=64)
    publisher.publish(base, "acme/base", origin.url)
    publisher.publish(adapter, "acme/adapter", origin.url, "--base", "acme/base")
    done = device.fetch("acme/adapter", origin.url)
    assert done["base_path"] == str(device.root / "models" / "acme" / "base")


def test_a_base_does_not_go_among_files_of_the_users_beside_the_adapter(
    tmp_path, origin, publisher, device, same
):
    """A publisher who is trusted for data chose the directory by the base's name: a program's."""
    base = write_llama(tmp_path / "base", layers=2, hidden=64)
    adapter = lora(tmp_path / "adapter", layers=2, hidden=64)
    publisher.publish(base, "acme/app", origin.url)
    publisher.publish(adapter, "acme/adapter", origin.url, "--base", "acme/app")
    program = tmp_path / "srv" / "app" / "main.py"
    program.parent.mkdir(parents=True)
    program.touch()
    done = device.fetch("acme/adapter", origin.url, "--to", str(program.parents[1] / "adapter"))
    assert list(program.parent.iterdir()) == [program]
    assert same(base, done["base_path"])
    assert Path(done["base_path"]).name.startswith("app--")
