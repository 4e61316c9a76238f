"""``python -m servetwin``: the command line."""

from servetwin.cli.main import main

main()
