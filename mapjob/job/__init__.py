"""The job: prepare, score, rank, publish; forecast it, check the machine, submit it to a cluster."""
