"""The compiled loops of the exact search.

Glossary:

- row: a SKU's fingerprint; a query is compared with all of them.
- code: one byte a dimension of a rotated row or query; products of codes give the estimate of a score.
- plane: a part of every code, stored apart: the high five bits (read of every row), the low three (of few).
- line: 64 bytes, what the processor fetches at once.
- octet: eight rows whose products are added up together; block: 64 rows, eight octets.
- tile: eight rows by 32 queries, what a batch scans at once.
- bound: the most that a score can be, the estimate plus what the codes leave out.
- coarse, fine: by the high plane alone, by both planes.
- threshold: the least score that is still among the best K; a row whose bound is below it is ruled out.
- seed: rows that promise most by estimate, scored first, so that the threshold is high from the start.
- scan: the pass over the high plane of all rows; sweep: the pass over what the scan did not rule out.
- ceiling: the highest bound of an octet for each query of a batch, noted by the scan for the sweep.
- part: the rows that one thread takes at a time; one that is left undone is done again by another thread.
- barrier: the count of threads inside a search; the caller waits at it until all helping threads have left.
"""
