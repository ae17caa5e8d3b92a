"""What is said when blocks cannot be had: of several failures, whose fault it is and what to do."""

from __future__ import annotations

from random import Random

import pytest

import icnblocks
from icnblocks.client.gathering import Gathering
from icnblocks.client.scheduler import Bundle, RetryOptions
from icnblocks.errors import (
    CorruptError,
    IncompleteError,
    NotFoundError,
    RefusedError,
    SourceError,
    VersionError,
)
from icnblocks.testing.exchange import make_model
from icnblocks.testing.lying import Lie, LyingServer, Reply
from icnblocks.wire.frames import Reason
from tests.client.test_scheduler import digests, drawn, fail_until_refused, make, wants


def test_beside_wrong_bytes_it_is_said_why_the_others_gave_nothing() -> None:
    """Catches: "corrupt at A", and not a word of B, where the token or the network is at fault."""
    scheduler = make(1, 1)
    scheduler.add(wants(1), "h", 0.0)
    bundle = drawn(scheduler, 0)
    assert not scheduler.corrupt(bundle, bundle.wants[0].digest, 0.0)
    scheduler.finished(bundle, 0, 0)
    bundle = drawn(scheduler, 1)
    assert not scheduler.failed(bundle, digests(bundle.wants), RefusedError("B: status 403"), 0.0)
    scheduler.finished(bundle, 0, 0)
    doubted = drawn(scheduler, 0, 10.0)
    [refusal] = scheduler.corrupt(doubted, doubted.wants[0].digest, 10.0)
    assert isinstance(refusal.error, CorruptError)
    assert str(refusal.error).endswith("is corrupt at source0; B: status 403")


def test_what_may_pass_at_one_is_worth_another_try_whatever_the_others_say() -> None:
    scheduler = make(1, 1, retry_s=1.0)
    scheduler.add(wants(2), "h", 0.0)
    bundle = drawn(scheduler, 0)
    scheduler.failed(bundle, digests(bundle.wants), RefusedError("no", hint="get a token"), 0.0)
    scheduler.finished(bundle, 0, 0)
    _, refusals = fail_until_refused(scheduler, 1)
    assert {type(refusal.error) for refusal in refusals} == {IncompleteError}
    assert (refusals[0].error.hint, refusals[0].error.retry) == (IncompleteError.advice, True)
    assert "no; down" in str(refusals[0].error)


def test_a_neighbour_that_was_let_go_is_not_blamed_for_what_no_source_has() -> None:
    """Catches: "the neighbour cannot be reached; run it again" for a block that the edge lacks."""
    [want] = wants(1)
    some: Gathering[str] = Gathering(
        [("edge", 1)], Random(1), RetryOptions(), blocks=[want.digest], hint="h"
    )
    some.add([want], "h", 0.0)
    neighbour = some.join("neighbour")
    some.drop(neighbour, SourceError("the neighbour cannot be reached"), 0.0)
    bundle = some.next_bundle(0, 0.0)
    assert isinstance(bundle, Bundle)
    [refusal] = some.nacked(bundle, want.digest, Reason.NOT_FOUND, "", 0.0)
    assert isinstance(refusal.error, NotFoundError)
    assert "edge" in str(refusal.error)


def test_a_pull_says_what_helps_where_running_it_again_does_not(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: "run it again to go on from here" where only a newer program can."""
    monkeypatch.setenv("ICN_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("ICN_KNOWN_PUBLISHERS", str(tmp_path / "known"))
    model = make_model(size=70_000)

    def respond(request):
        if request.path.startswith("/v1/records/"):
            return Reply(200, model.record())
        return Reply(200, model.raw)

    with LyingServer(model.blocks, Lie.VERSION, respond=respond) as server:
        with pytest.raises(IncompleteError, match="version 7") as caught:
            icnblocks.pull(
                str(model.name), sources=server.url, to=tmp_path / "model", trust_first_use=True
            )
    assert (caught.value.hint, caught.value.retry) == (VersionError.advice, False)
