"""`python -m icnblocks_tools COMMAND`: the `icn` command without an installed script."""

from icnblocks_tools.entry import main

main()
