"""Demand at a running daemon: its trace, its plans, what it remembers, and changes of policy."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from aiohttp import web

from icnblocks.cache.planning import Problem
from icnblocks.cache.policies.lru import Lru
from icnblocks.cache.replay.lines import read_trace
from icnblocks.errors import StorageError
from icnblocks.limits import MIB
from icnblocks.testing.exchange import bundle, call, make_model, missing, publish
from icnblocks.testing.processes import poll_until, start_edge
from icnblocks_daemon import policy_state, solving
from icnblocks_daemon.config import Config
from icnblocks_daemon.http.app import make_app
from icnblocks_daemon.node import Node
from icnblocks_daemon.trace_log import TraceLog


@pytest.fixture(scope="module")
def library(origin):
    """Six models of 4 MiB on the shared origin."""
    made = [make_model(f"acme/demand{n}", size=4 * MIB, seed=900 + n) for n in range(6)]
    for model in made:
        publish(origin, model)
    return made


def pull(edge, model):
    """Pull through the edge; was all of it there?"""
    call(edge, "GET", f"/v1/manifests/{model.digest}", icn_name=str(model.name))
    before = edge.metric("icn_misses_total")
    got, _ = bundle(edge, model.wants, name=model.name, manifest=model.digest)
    assert got == model.blocks
    return edge.metric("icn_misses_total") == before


def options(origin, *more):
    return ("--upstream", origin.url, "--capacity", "16MiB", "--bundle-window", "1", *more)


def test_the_replay_of_a_daemons_trace_says_what_the_daemon_did(origin, library, tmp_path):
    trace = tmp_path / "trace.jsonl"
    more = ("--policy", "lru", "--trace", str(trace))
    with start_edge(tmp_path / "edge", *options(origin, *more)) as edge:
        hits = [pull(edge, library[n]) for n in (0, 1, 2, 0, 3, 4, 1, 0, 0, 5, 3, 0)]
    assert 0 < sum(hits) < len(hits)
    command = "from icnblocks_tools.entry import sim; sim()"
    done = subprocess.run(
        [sys.executable, "-c", command, "replay", str(trace), "--policy", "lru",
         "--capacity", "16MiB", "--json"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["model_hit_ratio"] == sum(hits) / len(hits)


@pytest.mark.slow
def test_a_trace_goes_on_after_kill_9_and_a_rotation(origin, library, tmp_path):
    trace = tmp_path / "trace.jsonl"
    run = options(origin, "--trace", str(trace))
    with start_edge(tmp_path / "edge", *run) as edge:
        pull(edge, library[0])
        poll_until(lambda: trace.read_bytes().count(b'"get"') == 1)
        edge.kill()
    with trace.open("ab") as file:
        file.write(b'{"t":17')
    with start_edge(tmp_path / "edge", *run) as edge:
        pull(edge, library[0])
        pull(edge, library[1])
        poll_until(lambda: trace.read_bytes().count(b'"get"') == 3)
        trace.rename(tmp_path / "rotated")
        edge.process.send_signal(signal.SIGHUP)
        poll_until(trace.exists)
        pull(edge, library[1])
        assert edge.status()["trace"] == {"path": str(trace), "failing": False, "dropped": 0}
    assert len(read_trace(str(tmp_path / "rotated"))) == 3
    assert len(read_trace(str(trace))) == 1


def test_a_policy_changed_by_sighup_keeps_the_content_and_the_manifests(origin, library, tmp_path):
    settings = tmp_path / "edge.toml"
    settings.write_text('policy = "lru"\n')
    with start_edge(tmp_path / "edge", *options(origin, "--config", str(settings))) as edge:
        pull(edge, library[0])
        blocks = edge.status()["store"]["blocks"]
        for spec in ("sharing:objective=hits", "sharing:objective=bytes,plan_requests=3", "gdsf"):
            settings.write_text(f'policy = "{spec}"\n')
            edge.process.send_signal(signal.SIGHUP)
            poll_until(lambda: edge.status()["policy"] == spec)  # noqa: B023
            assert edge.status()["store"]["blocks"] == blocks
            assert pull(edge, library[0])
            if "sharing" in spec:  # it plans, so it knows the model
                poll_until(lambda: edge.status()["plan"]["models"] >= 1)
        settings.write_text('policy = "sharing:objective=nonsense"\n')
        edge.process.send_signal(signal.SIGHUP)
        poll_until(lambda: "nothing was reloaded" in edge.logged())
        assert edge.status()["policy"] == "gdsf"


def test_a_damaged_state_of_the_policy_costs_a_warning(origin, library, tmp_path):
    edge_store = tmp_path / "edge"
    with start_edge(edge_store, *options(origin)) as edge:
        pull(edge, library[0])
    state = edge_store / "policy-state"
    assert state.stat().st_size > 0
    state.write_bytes(state.read_bytes()[:-1])
    with start_edge(edge_store, *options(origin)) as edge:
        assert edge.logged().count("without what it learnt before") == 1
        assert pull(edge, library[0])


@pytest.mark.slow
def test_cold_pulls_at_once_pass_through_and_leave_planned_models_whole(origin, tmp_path):
    """All that eight pulls want at once used to be reserved, and pushed everything else out."""
    planned, cold = (
        [
            make_model(f"acme/{word}{n}", size=size * MIB, seed=n + 50 * size, block_bytes=MIB)
            for n in range(count)
        ]
        for word, size, count in (("planned", 9, 4), ("cold", 10, 8))
    )
    for model in planned + cold:
        publish(origin, model)
    more = ("--capacity", "48MiB", "--policy", "sharing:plan_requests=4")
    with start_edge(tmp_path / "edge", "--upstream", origin.url, *more) as edge:
        for _ in range(6):
            for model in planned:
                pull(edge, model)
        poll_until(lambda: edge.status()["plan"]["models"] == len(planned))
        with ThreadPoolExecutor(len(cold)) as pool:
            list(pool.map(lambda model: pull(edge, model), cold))
        assert edge.metric("icn_evicted_blocks_total") > 0
        lost = sum(len(missing(edge, model.wants)) for model in planned)
        assert lost <= 4  # as much as may be under way
        assert edge.status()["budget"]["waiting_for_room"] == 0


# --- in this process, where policies can be looked into -------------------------------------------


@asynccontextmanager
async def opened(path, **settings):
    config = Config(store=path, upstream=(("", "http://127.0.0.1:9"),), capacity=16 * MIB)
    node = Node(replace(config, **settings))
    try:
        yield node
    finally:
        await node.close()


async def known(node, *models):
    for model in models:
        await node.manifests.put(model.digest, model.raw)
        for number in range(5):
            node.holdings.requested(model.digest, bytes([number + 1]) * 16)


def requests_counted(node):
    return node.holdings.content.policy._rates.requests


async def test_rates_survive_a_restart_and_a_change_of_the_objective(tmp_path):
    model = make_model(seed=31)
    async with opened(tmp_path / "s") as node:
        await known(node, model)
        assert requests_counted(node) == 5
        await node.reload(replace(node.config, policy="sharing:objective=hits"))
        assert requests_counted(node) == 5
    async with opened(tmp_path / "s") as node:
        assert requests_counted(node) == 5


async def test_a_policy_that_cannot_be_changed_leaves_the_trace_as_it_was(tmp_path, monkeypatch):
    def refuse(_):
        raise StorageError("disk I/O error")

    old, new = tmp_path / "old", tmp_path / "new"
    async with opened(tmp_path / "s", trace=old) as node:
        await node.manifests.put(make_model(seed=31).digest, make_model(seed=31).raw)
        with monkeypatch.context() as patch:
            patch.setattr(node, "_manifest", refuse)
            with pytest.raises(StorageError):
                await node.reload(replace(node.config, policy="lru", trace=new))
        assert node.config.trace == old
        await known(node, make_model(seed=31))
        await node.trace.write()
        assert old.read_text().count('"get"') == 5
        TraceLog(new, node._manifest, node.clock, node.clock).close()  # nobody holds it


async def test_a_policy_that_comes_is_told_of_models_beside_the_event_loop(tmp_path, monkeypatch):
    """Catches: all manifests were read and their blocks counted on the loop, seconds for many, and
    for as long as a disk hangs. What comes and goes meanwhile is known, and forgotten."""
    here, gone, late = (make_model(f"acme/m{number}", seed=number) for number in range(3))
    reached, goes_on = threading.Event(), threading.Event()
    async with opened(tmp_path / "s", manifest_capacity=1) as node:
        read, content = node._manifest, node.holdings.content
        await known(node, here)
        await node.manifests._store(gone.digest, gone.raw)  # as one that is fetched

        def held(digest):
            reached.set()
            assert goes_on.wait(20)
            return read(digest)

        monkeypatch.setattr(node, "_manifest", held)
        reloading = asyncio.create_task(
            node.reload(replace(node.config, policy="sharing:objective=hits"))
        )
        assert await asyncio.to_thread(reached.wait, 20)
        before = content.policy
        await node.manifests.put(late.digest, late.raw)
        await node.manifests._shrink(late.digest)
        goes_on.set()
        await reloading
        assert content.policy is not before
        told = [content.requested(each.digest, node.clock()) for each in (here, gone, late)]
        assert told == [True, False, True]


@asynccontextmanager
async def hung_disk(trace):
    """While this is open, a thread writes this trace and gets no further."""
    began, goes_on, ended = threading.Event(), threading.Event(), threading.Event()

    def write():
        with trace._writing:
            began.set()
            goes_on.wait(10)
        ended.set()

    writing = asyncio.create_task(asyncio.to_thread(write))
    await asyncio.to_thread(began.wait)
    yield ended
    goes_on.set()
    await writing


async def test_a_trace_whose_disk_hangs_can_be_left_by_a_reload(tmp_path, monkeypatch):
    """Catches: the loop waited for the disk that the reload was to get away from, until the
    watchdog came; and nothing was written to the new trace, as a thread hung at the old one."""
    monkeypatch.setattr("icnblocks_daemon.node.LOOK_S", 0)
    monkeypatch.setattr("icnblocks_daemon.node.WRITE_S", 0)
    old, new = tmp_path / "old", tmp_path / "new"
    async with asyncio.timeout(60), opened(tmp_path / "s", trace=old) as node:
        former, chore = node.trace, asyncio.create_task(node.keep_plans())
        async with hung_disk(former) as ended:
            await known(node, make_model(seed=31))
            for _ in range(9):  # the chore begins to write
                await asyncio.sleep(0)
            await node.reload(replace(node.config, trace=new))
            assert not ended.is_set(), "the reload waited for it"
            node.holdings.requested(make_model(seed=31).digest, b"9" * 16)
            while not new.read_text().count('"get"'):
                await asyncio.sleep(0)
            assert not ended.is_set(), "the new trace waited for it"
        chore.cancel()
    assert old.read_text().count('"get"') == 5, "what was noted before is written when it can be"
    TraceLog(old, node._manifest, node.clock, node.clock).close()  # nobody holds it


async def test_the_state_saved_at_the_stop_waits_for_a_save_that_was_given_up(
    tmp_path, monkeypatch
):
    """Two saves at once wrote to one file: what was kept was a mixture, or nothing."""
    at_once, most, begun, second = [], [], threading.Event(), threading.Event()

    def slow(path, saved):
        del path
        at_once.append(saved)
        most.append(len(at_once))
        (second if begun.is_set() else begun).set()
        second.wait(0.2)  # for another that is let in meanwhile
        at_once.pop()

    monkeypatch.setattr(policy_state, "save", slow)
    async with opened(tmp_path / "s") as node:
        await known(node, make_model(seed=31))
        chore = asyncio.create_task(node.memory.save())
        await asyncio.to_thread(begun.wait)
        chore.cancel()
    assert most == [1, 1]


async def test_the_state_of_another_policy_is_left_alone(tmp_path):
    async with opened(tmp_path / "s") as node:
        await known(node, make_model(seed=31))
    saved = (tmp_path / "s" / "policy-state").read_bytes()
    async with opened(tmp_path / "s", policy="lru"):
        pass
    assert (tmp_path / "s" / "policy-state").read_bytes() == saved
    path = tmp_path / "s" / "policy-state"
    policy_state.save(path, replace(policy_state.load(path), policy="other"))
    async with opened(tmp_path / "s") as node:
        assert requests_counted(node) == 0


async def test_a_state_that_cannot_be_written_does_not_hinder_the_stop(tmp_path, caplog):
    async with opened(tmp_path / "s"):
        os.mkdir(tmp_path / "s" / ".policy-state.new")
    assert "what the policy learnt is not kept" in caplog.text


def big_problem(models=6000, shared=200):
    """Takes a second or so: every model needs some of the shared groups and one of its own."""
    rng = np.random.default_rng(1)
    sizes = np.concatenate((rng.integers(20, 200, shared), rng.integers(1, 150, models))) << 20
    members, starts = [], [0]
    for model in range(models):
        members += [*rng.choice(shared, 4, replace=False).tolist(), shared + model]
        starts.append(len(members))
    prize = 1e9 / (1 + rng.permutation(models)) ** 0.9
    return Problem(
        int(sizes.sum() // 10), np.arange(len(sizes)), sizes, np.zeros_like(sizes),
        np.ones(len(sizes)), prize, np.array(starts), np.array(members),
    )  # fmt: skip


class Planning(Lru):
    """Plans what it is told, once."""

    def __init__(self, problem):
        super().__init__()
        self.given, self.plan, self.asked = problem, None, 0

    def plan_due(self, now):
        return self.plan is None

    def problem(self, now):
        self.asked += 1
        return self.given

    def adopt(self, plan, now):
        self.plan = plan


async def settled(plans):
    """Return when no plan is under way."""
    while plans._task is not None:
        await asyncio.wait([plans._task])


@pytest.fixture
def solvers(monkeypatch):
    """Processes that were begun for a plan: stopped before they have read what to solve."""
    begin, begun = asyncio.create_subprocess_exec, []

    async def stopped(*args, **options):
        process = await begin(*args, **options)
        process.send_signal(signal.SIGSTOP)
        begun.append(process)
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", stopped)
    return begun


async def test_requests_are_answered_while_a_plan_is_solved(tmp_path, caplog, solvers):
    async with opened(tmp_path / "s") as node:
        policy = Planning(big_problem())
        node.holdings.content.set_policy(policy, node.clock())
        runner = web.AppRunner(make_app(node), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        answered = 0
        async with aiohttp.ClientSession() as client:
            node.plans.look()
            while policy.plan is None:
                node.plans.look()  # one at a time
                async with client.get(f"{url}/v1/status") as answer:
                    made = (await answer.json())["plan"]["made"]
                answered += bool(solvers) and made == 0
                if answered > 3 and solvers:
                    solvers.pop().send_signal(signal.SIGCONT)
        await runner.cleanup()
        await settled(node.plans)
        assert answered > 3
        assert "a thread solves it" not in caplog.text
        assert (policy.asked, node.plans.made) == (1, 1)
        assert node.plans.models == policy.plan.models > 0


async def test_a_plan_that_fails_is_logged_and_not_tried_again_at_once(tmp_path, caplog):
    async with opened(tmp_path / "s") as node:
        policy = Planning("no problem")
        node.holdings.content.set_policy(policy, node.clock())
        for _ in range(3):
            node.plans.look()
            await settled(node.plans)
        assert (policy.asked, node.plans.failed, node.plans.made) == (1, 1, 0)
    assert caplog.text.count("a plan failed") == 1


async def test_a_plan_for_a_policy_that_was_changed_is_thrown_away(tmp_path):
    async with opened(tmp_path / "s") as node:
        policy = Planning(big_problem(100))
        node.holdings.content.set_policy(policy, node.clock())
        node.plans.look()
        await node.reload(replace(node.config, policy="lru"))
        await settled(node.plans)
        assert (policy.plan, node.plans.made) == (None, 0)


@pytest.mark.parametrize("failed", [False, True])
async def test_a_policy_that_comes_during_anothers_plan_makes_none_on_the_loop(tmp_path, failed):
    """Catches: while the plan of the policy before was under way, or had just failed, the new one
    was not told that its plans are driven, and solved them where requests are answered."""
    async with opened(tmp_path / "s") as node:
        before = Planning("no problem" if failed else big_problem(100))
        node.holdings.content.set_policy(before, node.clock())
        node.plans.look()
        if failed:
            await settled(node.plans)
        await node.reload(replace(node.config, policy="sharing:objective=hits"))
        await known(node, make_model(seed=31))
        assert node.holdings.content.policy.plan_due(node.clock()), "it is still to be made"
        await settled(node.plans)


async def test_a_stop_does_not_wait_for_a_plan_nor_fail_by_it(tmp_path, solvers):
    async with asyncio.timeout(30), opened(tmp_path / "s") as node:
        policy = Planning(big_problem())
        node.holdings.content.set_policy(policy, node.clock())
        node.plans.look()
        while not solvers:
            await asyncio.sleep(0)
    assert policy.plan is None


async def test_a_plan_that_takes_too_long_is_given_up_with_its_process(monkeypatch):
    monkeypatch.setattr(solving, "LIMIT_S", 0.01)
    with pytest.raises(TimeoutError):
        await solving.solve_beside(big_problem())
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if b"solving" in Path(f"/proc/{pid}/cmdline").read_bytes()]
