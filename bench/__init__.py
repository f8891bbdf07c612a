"""Speed and memory of the package's ops, side by side with what they replace.

    python -m bench --device cpu                  measure, print, write JSON and CSV
    python -m bench show FOLDER                   results as a run prints them
    python -m bench plots FOLDER                  pictures of a machine's results
    python -m bench pages                         README's and docs' figures from committed results
    python -m bench gpu-report                    tests, results, pictures and report of a GPU

`ops` is the table of what is measured, `steps` that of training steps, `calls` that of small
calls, with those of numbers, densities and weights beside it and `call_times` to time them.
`variants` says who computes an op, `cases` what is done with it at one size, `check` whether ours
is right; `timing`, `limits` and `profiles` how long, against what, and how much. `measure` runs it
all. `results` are files, and `report` the terminal's tables, which need nothing but PyTorch.
`frames` makes a table of pandas of results; `tables`, `plots` and `pages` are what is made of it,
`targets` what must be reached.
"""
