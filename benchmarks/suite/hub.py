"""A small Hub, of nginx and two JSON files: as much as huggingface_hub asks for in a download.

nginx serves the files with sendfile, and adds the headers that the client wants, so that the
peer is not measured with a slow server.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from benchmarks.suite.nginx import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.suite.nginx import Nginx

REPO: Final = "acme/model"
_COMMIT: Final = hashlib.sha1(b"the one commit", usedforsecurity=False).hexdigest()
_PLACES: Final = """
location = /api/models/{repo}/revision/main {{ default_type application/json;
  alias {root}/revision.json; }}
location /api/models/{repo}/tree/ {{ default_type application/json;
  rewrite ^ /tree.json break; root {root}; }}
location /{repo}/resolve/ {{
  rewrite ^/{repo}/resolve/[^/]+/(.*)$ /$1 break;
  add_header X-Repo-Commit {commit};
  root {files}; }}
"""


@contextmanager
def hub(files: Path, root: Path) -> Iterator[Nginx]:
    """Serve a directory as the Hub's repository `acme/model`."""
    root.mkdir()
    (root / "revision.json").write_text(json.dumps({"id": REPO, "sha": _COMMIT, "siblings": []}))
    tree = [
        {
            "type": "file",
            "path": str(path.relative_to(files)),
            "size": path.stat().st_size,
            "oid": hashlib.sha1(str(path).encode(), usedforsecurity=False).hexdigest(),
        }
        for path in sorted(files.rglob("*"))
        if path.is_file()
    ]
    (root / "tree.json").write_text(json.dumps(tree))
    more = _PLACES.format(repo=REPO, root=root, files=files, commit=_COMMIT)
    with nginx(files, root / "nginx", more=more) as served:
        yield served
