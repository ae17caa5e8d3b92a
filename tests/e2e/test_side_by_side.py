"""Several commands on one machine at one moment, which share its index and its directories."""

from pathlib import Path

import pytest

from icnblocks.testing.models import half_frozen, write_llama


@pytest.fixture
def models(tmp_path, origin, publisher):
    base = write_llama(tmp_path / "base", seed=3)
    variant = half_frozen(base, tmp_path / "variant")
    publisher.publish(base, "acme/base", origin.url)
    publisher.publish(variant, "acme/variant", origin.url)
    return base, variant


def finished(processes, codes=(0,)):
    """Their exit codes; all run at once, so `processes` is a list."""
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode in codes, (out, err)
    return [process.returncode for process in processes]


def test_pulls_of_related_models_into_several_places_do_not_disturb_each_other(
    models, origin, device, same, tmp_path
):
    base, variant = models
    targets = [tmp_path / f"to{number}" for number in range(4)]
    names = ["acme/base", "acme/variant"] * 2
    finished(
        [
            device.start("fetch", name, "--from", origin.url, "--trust-first-use", "--to", target)
            for name, target in zip(names, targets, strict=True)
        ]
    )
    for number, target in enumerate(targets):
        assert same(models[number % 2], target)
        assert device.run("verify", target).code == 0
        assert not list(target.rglob("*.partial"))
        assert not (target / ".icnblocks" / "map").exists()
    assert base != variant


def test_two_models_into_one_directory_leave_one_of_them_whole(models, origin, device, same):
    """The later one is refused, or takes the place of the earlier; never a mixture of both."""
    target = device.root / "shared"
    codes = finished(
        [
            device.start("fetch", name, "--from", origin.url, "--trust-first-use", "--to", target)
            for name in ("acme/base", "acme/variant")
        ],
        codes=(0, 15),
    )
    assert 0 in codes
    whole = [same(model, target) for model in models]
    assert whole in ([True, False], [False, True])
    assert codes[whole.index(True)] == 0
    assert device.run("verify", target).code == 0


def test_a_pull_while_its_name_is_published_anew_is_one_version_or_the_other(
    models, origin, publisher, device, same, tmp_path
):
    base, variant = models
    publishing = publisher.start("publish", variant, "acme/base", "--to", origin.url)
    pulls = [
        device.start(
            "fetch", "acme/base", "--from", origin.url, "--trust-first-use", "--to", tmp_path / to
        )
        for to in ("x", "y")
    ]
    finished([publishing, *pulls])
    for to in ("x", "y"):
        assert same(base, tmp_path / to) or same(variant, tmp_path / to)
    assert same(variant, Path(device.fetch("acme/base", origin.url)["path"]))
