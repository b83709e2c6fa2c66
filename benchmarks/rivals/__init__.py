"""Published networks trained on our folds, with our data path and for as much CPU time: only the network differs.

`python -m benchmarks.rivals --data DIR --out runs/rivals --network basicunet` trains and scores one of them,
`python -m benchmarks.rivals.costs` measures parameters, operations and times of all of them, and
`python -m benchmarks.rivals.picture` draws what the networks make of synthetic sections.
"""
