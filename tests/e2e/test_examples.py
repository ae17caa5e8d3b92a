"""Every example runs as its own first lines say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from icnblocks.testing.models import half_frozen, lora, write_llama
from icnblocks.testing.processes import start_edge

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def home(tmp_path):
    """The environment of a machine of its own, with the commands of this installation."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ICN_")}
    programs = Path(sys.executable).parent
    return environ | {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_HOME": str(tmp_path / "home" / "config"),
        "XDG_DATA_HOME": str(tmp_path / "home" / "data"),
        "TMPDIR": str(tmp_path / "tmp"),
        "PATH": f"{programs}:{environ['PATH']}",
        "NO_PROXY": "127.0.0.1",
        "ICN_TRUST_FIRST_USE": "1",
    }


def _done(example, *args, environ):
    Path(environ["TMPDIR"]).mkdir(exist_ok=True)
    program = ["bash"] if example.endswith(".sh") else [sys.executable]
    return subprocess.run(
        [*program, EXAMPLES / example, *args],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _run(example, *args, environ):
    done = _done(example, *args, environ=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "example", sorted(path.name for path in EXAMPLES.glob("*.[ps]*") if path.name != "demo.py")
)
def test_without_its_arguments_an_example_says_how_it_is_run(home, example):
    """Catches: a traceback, or bash's "unbound variable", for who just tries it."""
    done = _done(example, environ=home)
    assert done.returncode in {1, 2}
    assert f"{example} " in done.stderr
    assert "Traceback" not in done.stderr
    assert "unbound" not in done.stderr


def test_publish_from_python_then_load_with_numpy(tmp_path, home):
    model = write_llama(tmp_path / "model", dtype="F32")
    with start_edge(tmp_path / "origin") as origin:
        said = _run("publish_from_python.py", model, "acme/llama", origin.url, environ=home)
        assert f"icn-fetch acme/llama --from {origin.url} --trust " in said
        words = (lora(tmp_path / "lora"), "acme/lora", origin.url, "acme/llama")
        _run("publish_from_python.py", *words, environ=home)
        places = home | {"ICN_FROM": origin.url, "ICN_MODELS": str(tmp_path / "both")}
        _run("load_numpy.py", "acme/lora", environ=places)
        assert (tmp_path / "both" / "acme" / "llama").is_dir(), "the adapter brought its base"
        listed = _run("load_numpy.py", "acme/llama", environ=home | {"ICN_FROM": origin.url})
        there = {"ICN_MODELS": str(tmp_path / "there"), "ICN_STORE": str(tmp_path / "index")}
        asks = home | {"ICN_FROM": origin.url} | there
        built = _run("build_while_it_comes.py", "acme/llama", environ=asks)
    assert "lm_head.weight" in listed
    assert "mean of " in listed
    assert "a model of type llama" in built
    assert str(tmp_path / "there") in built


@pytest.mark.slow
def test_infer_with_adapter(tmp_path, home):
    pytest.importorskip("peft")
    from icnblocks.testing.sentences import minilm_dir, train_lora

    base = minilm_dir(tmp_path / "base")
    adapter = train_lora(base, tmp_path / "adapter", task="law", base_name="demo/minilm")
    with start_edge(tmp_path / "origin") as origin:
        for directory, name, *more in (
            (base, "demo/minilm"),
            (adapter, "demo/law", "--base", "demo/minilm"),
        ):
            command = ["icn-publish", directory, name, "--to", origin.url, *more]
            subprocess.run(command, env=home, check=True, capture_output=True)
        environ = home | {"ICN_FROM": origin.url, "HF_HUB_OFFLINE": "1"}
        arguments = ("demo/minilm", "demo/law", "the landlord keeps my deposit")
        said = _run("infer_with_adapter.py", *arguments, environ=environ)
    assert "384 numbers" in said
    assert "demo/law has 24 tensors" in said
    again = _run("infer_with_adapter.py", *arguments, environ=home | {"HF_HUB_OFFLINE": "1"})
    assert again == said, "the second run needs no network and says the same"


@pytest.mark.slow
def test_plan_edges(tmp_path, home):
    model = write_llama(tmp_path / "model")
    said = _run("plan_edges.sh", model, half_frozen(model, tmp_path / "tuned"), environ=home)
    assert "and the origin sent nothing for it" in said
    assert "cellar: done; 1 of 1 models are here, 1 pinned" in said
    assert list((tmp_path / "tmp").iterdir()) == [], "it cleans up after itself"


def test_edge_quickstart(tmp_path, home):
    model = write_llama(tmp_path / "model")
    said = _run("edge_quickstart.sh", model, environ=home)
    assert "bit for bit the same" in said
    assert list((tmp_path / "tmp").iterdir()) == [], "it cleans up after itself"
