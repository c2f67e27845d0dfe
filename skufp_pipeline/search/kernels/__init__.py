"""The compiled loops of the exact search.

Glossary:

- row: a SKU's fingerprint; a query is compared with all rows.
- code: one byte per dimension of a rotated row or query; products of codes give the estimate of a score.
- plane: the same bits of all codes: the high five (read for every row) or the low three (read for few).
- line: 64 bytes, a cache line.
- octet: eight rows whose products are summed together; block: 64 rows, eight octets.
- tile: eight rows by 32 queries, the unit of a batch scan.
- bound: upper bound of a score: the estimate plus the maximum error of the codes.
- coarse, fine: from the high plane alone, from both planes.
- threshold: the lowest score that is still among the best K; rows with a lower bound are ruled out.
- seed: one of the rows with the highest estimates, scored first so that the threshold is high from the start.
- scan: the pass over the codes of all rows; sweep: the pass over the rows that the scan did not rule out.
- ceiling: the highest bound in a block (one query) or in a tile (each query of a batch), kept for the sweep.
- part: the rows that one thread takes at a time; an unfinished part of the scan is redone by the caller.
- barrier: the number of threads inside a search; the caller waits until all helper threads have left.
"""
