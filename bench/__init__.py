"""Speed and memory of the package's ops, side by side with what they replace.

    python -m bench --device cpu                  measure, print, write JSON and CSV
    python -m bench compare A.json B.json         what changed between two results
    python -m bench merge A.json B.json           add the rows of B, of the same machine, to A
    python -m bench table RESULT.json             one op's table, in Markdown
    python -m bench plots FOLDER                  pictures of a machine's results
    python -m bench pages                         README's and docs' figures from committed results
    python -m bench gpu-report                    tests, results, pictures and report of a GPU

`ops` is the table of what is measured, `steps` that of training steps, `calls` that of small calls.
`variants` says who computes an op, `cases` what is done with it at one size, `check` whether the
answer is right; `timing`, `memory` and `launches` how long, how much and how many. `measure` runs
it all. `results` are files and rows that belong together, `tables`, `plots` and `pages` what is
made of them, `targets` what must be reached.
"""
