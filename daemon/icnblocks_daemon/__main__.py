"""`python -m icnblocks_daemon` is `icn-edge`."""

from icnblocks_daemon.cli import main

main()
