"""The Python functions as a notebook calls them, and what the commands say of odd wishes."""

import asyncio
import json

import pytest

import icnblocks
from icnblocks.errors import NotFoundError, TrustError
from icnblocks.testing.models import lora, write_llama


@pytest.fixture
def machine(tmp_path, monkeypatch, device):
    """This process as a device of its own."""
    for key, value in device.environ.items():
        monkeypatch.setenv(key, value)
    return device


@pytest.fixture
def published(tmp_path, origin, publisher):
    model = write_llama(tmp_path / "model", dtype="F32", seed=8)
    publisher.publish(model, "acme/model", origin.url)
    return model


async def test_a_notebook_pulls_and_loads_within_its_running_loop(published, machine, origin, same):
    path = icnblocks.pull("acme/model", sources=[origin.url], trust_first_use=True)
    assert same(published, path)
    origin.kill()
    tensors = icnblocks.load("acme/model")
    assert tensors["lm_head.weight"].shape == (2000, 256)
    with icnblocks.open_model("acme/model") as model:
        assert model.tensor("lm_head.weight").tobytes() == tensors["lm_head.weight"].tobytes()
    assert await asyncio.to_thread(icnblocks.pull, "acme/model", offline=True) == path


def test_a_fingerprint_that_is_asked_for_holds_for_what_was_pulled_before_too(
    published, machine, origin
):
    icnblocks.pull("acme/model", sources=[origin.url], trust_first_use=True)
    with pytest.raises(TrustError):
        icnblocks.pull("acme/model", sources=[origin.url], trust="ab" * 32)
    with pytest.raises(NotFoundError):
        icnblocks.pull("acme/absent", offline=True)


def test_a_durable_pull_is_the_same(published, origin, device, same):
    assert same(published, device.fetch("acme/model", origin.url, "--durable")["path"])


def test_publishing_an_adapter_that_names_a_local_base_warns(
    published, tmp_path, origin, publisher
):
    adapter = lora(tmp_path / "adapter", layers=4, hidden=256)
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/home/me/model"
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    before = (adapter / "adapter_config.json").read_bytes()
    ran = publisher.run(
        "publish", adapter, "acme/adapter", "--to", origin.url, "--base", "acme/model"
    )
    ran.done()
    assert any("/home/me/model" in event.get("message", "") for event in ran.events)
    assert (adapter / "adapter_config.json").read_bytes() == before
