"""`python -m pipeline` is `contrail`."""

from pipeline.cli import main

main()
