"""`python -m mapjob` is `mapjob`."""

from mapjob.cli.app import main

main()
