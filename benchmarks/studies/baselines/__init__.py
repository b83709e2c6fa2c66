"""Published networks trained on our folds, with our data path and for as much CPU time: only the network differs.

`python -m benchmarks.studies.baselines --data DIR --out runs/baselines --network basicunet` trains and scores one of
them, `python -m benchmarks.studies.baselines.costs` measures parameters, operations and times of all of them, and
`python -m benchmarks.studies.baselines.picture` draws what the networks make of synthetic sections.
"""
