"""Results of runs: records, tables, figures, comparisons."""
