"""Pull an adapter, which brings its base, and run both with transformers and peft.

    python examples/infer_with_adapter.py demo/minilm demo/minilm-medicine "my chest hurts"

ICN_FROM says where to ask; with ICN_TRUST_FIRST_USE=1 the key of a publisher never met before is
accepted. What was pulled before is not pulled again, so the second run needs no network at all.
Beside icnblocks it needs torch, transformers and peft.
"""

from __future__ import annotations

import sys

import icnblocks
from icnblocks.errors import IcnError


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    base_name, adapter_name, sentence = sys.argv[1:]
    try:
        import torch
        from peft import PeftModel
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        sys.exit(f"error: {error} (pip install torch transformers peft)")
    try:
        adapter = icnblocks.pull(adapter_name)
        base = icnblocks.pull(base_name)  # here already: the adapter has brought it
    except IcnError as error:
        sys.exit(f"error: {error} ({error.hint})")

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter)
    model.eval()
    with torch.no_grad():
        last = model(**tokenizer(sentence, return_tensors="pt")).last_hidden_state
    vector = torch.nn.functional.normalize(last.mean(dim=1), dim=1)[0]
    print(f"{sentence!r}: {vector.numel()} numbers, the first {vector[:4].tolist()}")

    # The adapter's own tensors, mapped from the pulled file.
    own = icnblocks.load(adapter, framework="torch")
    print(f"{adapter_name} has {len(own)} tensors, {sum(t.nbytes for t in own.values()):,} bytes")


if __name__ == "__main__":
    main()
