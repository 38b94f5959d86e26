"""What other libraries compute from the same weights, measured: the conformance table.

`cd tests; python -m conformance` measures it and writes `conformance/table.md`;
`tests/test_conformance.py` fails where it has become worse. A peer is a module in `peers`.
"""
