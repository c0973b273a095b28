"""`python -m icl_plugins` is the command `icl-plugins`."""

from icl_plugins.cli import main

main()
